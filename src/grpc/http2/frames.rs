//! HTTP/2 frame headers, found in a stream of bytes.

/// What passed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The header of a frame.
    Frame { kind: u8, flags: u8 },
    /// The last stream that the peer may process, and why it goes away; after the frame's header.
    /// `end` is where in the piece this was known.
    GoAway {
        last_stream: u32,
        reason: u32,
        end: usize,
    },
    /// How many streams the peer allows from now on.
    MaxStreams(u32),
}

/// Finds the frame headers in a stream of bytes that arrives in pieces of any size, the reason in a GOAWAY, and one
/// of the SETTINGS.
#[derive(Debug, Default)]
pub(super) struct FrameHeaders {
    /// Bytes of payload still to pass over.
    skip: usize,
    /// The length of the GOAWAY whose payload comes next.
    going_away: Option<usize>,
    /// What is left of the SETTINGS that are passing by.
    settings: usize,
    /// What came of a header that was cut.
    partial: [u8; Self::LEN],
    partial_len: usize,
    first: Option<u8>,
}

impl FrameHeaders {
    /// RFC 9113 section 4.1: 24 bits of length, 8 of type, 8 of flags, 32 of stream id.
    pub(super) const LEN: usize = 9;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const ACK: u8 = 1;
    /// RFC 9113 section 6.8: the payload of a GOAWAY begins with the last stream id and the reason.
    pub(super) const GOAWAY_LEN: usize = 8;
    /// RFC 9113 section 6.8: the last stream id of a GOAWAY that announces another one.
    pub(super) const ANY_STREAM: u32 = (1 << 31) - 1;
    /// RFC 9113 section 6.5.1: 16 bits of name, 32 of value.
    const SETTING_LEN: usize = 6;
    /// RFC 9113 section 6.5.2.
    const MAX_CONCURRENT_STREAMS: u16 = 3;

    pub(super) fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Seen)) {
        let piece_len = bytes.len();
        loop {
            if self.skip >= bytes.len() {
                self.skip -= bytes.len();
                return;
            }
            bytes = &bytes[self.skip..];
            self.skip = 0;
            let wanted = match self.going_away {
                Some(_) => Self::GOAWAY_LEN,
                None if self.settings > 0 => Self::SETTING_LEN,
                None => Self::LEN,
            };
            let take = bytes.len().min(wanted - self.partial_len);
            let (piece, rest) = bytes.split_at(take);
            self.partial[self.partial_len..][..take].copy_from_slice(piece);
            self.partial_len += take;
            bytes = rest;
            if self.partial_len < wanted {
                return;
            }
            self.partial_len = 0;
            if let Some(len) = self.going_away.take() {
                let [s, t, u, v, a, b, c, d, _] = self.partial;
                self.skip = len - Self::GOAWAY_LEN;
                seen(Seen::GoAway {
                    // The first bit is reserved.
                    last_stream: u32::from_be_bytes([s & 0x7f, t, u, v]),
                    reason: u32::from_be_bytes([a, b, c, d]),
                    end: piece_len - bytes.len(),
                });
                continue;
            }
            if let Some(left) = self.settings.checked_sub(Self::SETTING_LEN) {
                self.settings = left;
                let [a, b, value @ .., _, _, _] = self.partial;
                if u16::from_be_bytes([a, b]) == Self::MAX_CONCURRENT_STREAMS {
                    seen(Seen::MaxStreams(u32::from_be_bytes(value)));
                }
                continue;
            }
            let [a, b, c, kind, flags, ..] = self.partial;
            let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind == Self::GOAWAY && len >= Self::GOAWAY_LEN {
                self.going_away = Some(len);
            } else if kind == Self::SETTINGS && len % Self::SETTING_LEN == 0 {
                self.settings = len;
            } else {
                self.skip = len;
            }
            self.first.get_or_insert(kind);
            seen(Seen::Frame { kind, flags });
        }
    }

    /// Whether the peer spoke, but not with the SETTINGS that RFC 9113 section 3.4 asks for.
    pub(super) fn is_foreign(&self) -> bool {
        self.first.is_some_and(|kind| kind != Self::SETTINGS)
    }
}

#[cfg(test)]
#[path = "frames_tests.rs"]
pub(super) mod tests;
