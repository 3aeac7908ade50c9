use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

/// What was read of a body, as long as there is room for it.
#[derive(Default)]
pub(super) struct Taken {
    /// A unary call has one frame: no list is allocated for it.
    first: Option<Bytes>,
    more: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    room: usize,
}

impl Taken {
    /// Nothing yet, and room for so many bytes of data.
    pub(super) fn new(room: usize) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    /// Of data.
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// The trailers, too.
    pub(super) fn frames(&self) -> usize {
        self.len() + usize::from(self.trailers.is_some())
    }

    pub(super) fn frame(&self, index: usize) -> Option<Frame<Bytes>> {
        if index == self.len() {
            return self.trailers.clone().map(Frame::trailers);
        }
        self.get(index).cloned().map(Frame::data)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Bytes> {
        match index {
            0 => self.first.as_ref(),
            _ => self.more.get(index - 1),
        }
    }

    /// `false` when there is no room.
    pub(super) fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref() else {
            self.trailers = frame.trailers_ref().cloned();
            return self.trailers.is_some();
        };
        // The limit, which is of data, would not bound these. They say nothing that is to be said again.
        if data.is_empty() {
            return true;
        }
        let Some(room) = self.room.checked_sub(data.len()) else {
            return false;
        };
        self.room = room;
        match self.first {
            None => self.first = Some(data.clone()),
            Some(_) => self.more.push(data.clone()),
        }
        true
    }
}
