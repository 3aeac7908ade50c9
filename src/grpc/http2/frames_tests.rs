use proptest::prelude::*;

use super::*;

pub(in crate::grpc::http2) fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let len = (payload as u32).to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags, 0, 0, 0, 1];
    // A payload that looks like a GOAWAY header must not be taken for one.
    bytes.extend([0, 0, 8, 7, 0].into_iter().cycle().take(payload));
    bytes
}

fn seen_in<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<(u8, u8)> {
    let mut headers = FrameHeaders::default();
    let mut seen = Vec::new();
    for piece in pieces {
        headers.feed(piece, |s| match s {
            Seen::Frame { kind, flags } => seen.push((kind, flags)),
            Seen::GoAway { reason, .. } => {
                assert_eq!(reason, 8, "the reason is the payload's second word")
            }
            Seen::MaxStreams(_) => {}
        });
    }
    seen
}

#[test]
fn a_header_is_found_wherever_it_is_cut() {
    let frames = [(4, 0, 18), (4, 1, 0), (0, 0, 300), (0, 1, 0), (7, 0, 8)];
    let bytes: Vec<u8> = frames
        .iter()
        .flat_map(|&(k, f, l)| frame(k, f, l))
        .collect();
    let expected: Vec<(u8, u8)> = frames.iter().map(|&(k, f, _)| (k, f)).collect();
    assert_eq!(seen_in([&*bytes].into_iter()), expected, "in one piece");
    for cut in 0..=bytes.len() {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(seen_in([a, b].into_iter()), expected, "cut at byte {cut}");
    }
    assert_eq!(seen_in(bytes.chunks(1)), expected, "byte by byte");
}

#[test]
fn the_limit_of_streams_is_found_among_the_settings_wherever_they_are_cut() {
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let settings = |all: &[(u16, u32)]| {
        let payload: Vec<u8> = all.iter().flat_map(|&(id, v)| setting(id, v)).collect();
        let mut bytes = frame(4, 0, 0);
        bytes[2] = payload.len() as u8;
        [bytes, payload].concat()
    };
    let bytes = [
        settings(&[(1, 4096), (3, 7), (4, 3)]),
        // The same bytes as data, and SETTINGS of no length that there can be.
        [
            frame(0, 0, 0)[..2].to_vec(),
            vec![6, 0, 0, 0, 0, 0, 1],
            setting(3, 8),
        ]
        .concat(),
        [
            frame(4, 0, 0)[..2].to_vec(),
            vec![7, 4, 0, 0, 0, 0, 1, 0],
            setting(3, 9),
        ]
        .concat(),
        settings(&[]),
        settings(&[(3, u32::MAX), (3, 0)]),
    ]
    .concat();
    for size in 1..=bytes.len() {
        let mut headers = FrameHeaders::default();
        let mut limits = Vec::new();
        let mut frames = 0;
        for piece in bytes.chunks(size) {
            headers.feed(piece, |seen| match seen {
                Seen::MaxStreams(most) => limits.push(most),
                _ => frames += 1,
            });
        }
        assert_eq!(limits, [7, u32::MAX, 0], "in pieces of {size} bytes");
        assert_eq!(frames, 5, "in pieces of {size} bytes");
    }
}

proptest! {
    #[test]
    fn chunks_of_any_size_show_the_same_headers(
        frames in prop::collection::vec((0_u8..10, any::<u8>(), 0_usize..700), 0..30),
        cuts in prop::collection::vec(1_usize..40, 1..50),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|&(k, f, l)| frame(k, f, l)).collect();
        let mut rest = &*bytes;
        let mut sizes = cuts.iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let size = (*sizes.next()?).min(rest.len());
            let (piece, left) = rest.split_at(size);
            rest = left;
            (!piece.is_empty()).then_some(piece)
        });
        let expected: Vec<(u8, u8)> = frames.iter().map(|&(k, f, _)| (k, f)).collect();
        prop_assert_eq!(seen_in(pieces), expected);
    }

    #[test]
    fn noise_is_passed_over(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut headers = FrameHeaders::default();
        for piece in noise.chunks(7) {
            headers.feed(piece, |_| {});
        }
    }
}
