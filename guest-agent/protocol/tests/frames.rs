//! However bytes arrive and whatever they are, the decoder gives the right frames or a reason.

use kiln_protocol::frame::{self, Decoder, Frame, FrameError, HEADER, Kind, MAX_PAYLOAD};
use proptest::prelude::*;

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let kind =
        prop_oneof![Just(Kind::Control), Just(Kind::Input), Just(Kind::Output), Just(Kind::ErrorOutput)];
    let frame = (kind, any::<u32>(), prop::collection::vec(any::<u8>(), 0..3000));
    prop::collection::vec(frame.prop_map(|(kind, id, payload)| Frame { kind, id, payload }), 0..8)
}

/// Feeds `bytes` cut at `cuts` and takes frames out as a receiver does.
fn decode(bytes: &[u8], cuts: &[usize]) -> Result<(Vec<Frame>, usize), FrameError> {
    let mut decoder = Decoder::default();
    let mut all = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        let to = cut.clamp(at, bytes.len());
        decoder.feed(&bytes[at..to]);
        at = to;
        while let Some(frame) = decoder.next_frame()? {
            all.push(frame);
        }
    }
    Ok((all, decoder.pending()))
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_frames(
        frames in frames(),
        mut cuts in prop::collection::vec(0usize..30_000, 0..40),
        tail in 0usize..HEADER,
    ) {
        cuts.sort_unstable();
        let mut bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let begun = Frame { kind: Kind::Control, id: 7, payload: vec![1] }.encode();
        bytes.extend_from_slice(&begun[..tail]);
        prop_assert_eq!(decode(&bytes, &cuts).unwrap(), (frames, tail));
    }

    #[test]
    fn garbage_is_refused_or_waited_for_but_never_believed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((frames, pending)) = decode(&bytes, &[]) {
            let used: usize = frames.iter().map(|f| HEADER + f.payload.len()).sum();
            prop_assert_eq!(used + pending, bytes.len());
        }
    }

    #[test]
    fn a_header_says_what_was_put_in(id in any::<u32>(), length in 0usize..=MAX_PAYLOAD) {
        let head = frame::header(Kind::Output, id, length);
        prop_assert_eq!(frame::parse_header(&head), Ok((Kind::Output, id, length)));
    }

    #[test]
    fn one_flipped_byte_of_the_fixed_part_is_noticed(at in 0usize..4, bit in 0u8..8) {
        let mut head = frame::header(Kind::Control, 1, 1);
        head[at] ^= 1 << bit;
        // Kinds are 1 to 4, so a flip of that byte may hit another kind: nothing else passes.
        if let Ok((kind, id, length)) = frame::parse_header(&head) {
            prop_assert_eq!((at, id, length), (1, 1, 1));
            prop_assert_ne!(kind, Kind::Control);
        }
    }
}

#[test]
fn claims_beyond_the_limit_are_refused_from_the_header_alone() {
    for claimed in [MAX_PAYLOAD as u32 + 1, 0x8000_0000, u32::MAX] {
        let mut head = frame::header(Kind::Output, 1, 0);
        head[8..].copy_from_slice(&claimed.to_le_bytes());
        assert_eq!(decode(&head, &[]), Err(FrameError::TooLarge { claimed }));
    }
}

#[test]
fn unknown_kinds_and_first_bytes_are_refused() {
    let mut head = frame::header(Kind::Output, 1, 0);
    for kind in [0, 5, 255] {
        head[1] = kind;
        assert_eq!(decode(&head, &[]), Err(FrameError::UnknownKind { kind }));
    }
    head[0] = b'k';
    assert_eq!(decode(&head, &[]), Err(FrameError::NotAFrame { header: head }));
}

#[test]
fn every_data_frame_costs_more_than_nothing_but_an_end_is_free() {
    assert_eq!(
        (frame::cost(0), frame::cost(1), frame::cost(100)),
        (0, HEADER as u32 + 1, HEADER as u32 + 100)
    );
}
