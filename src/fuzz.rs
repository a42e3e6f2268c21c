//! What a fuzzer drives: bytes without meaning, read as steps, and the properties that hold whatever the steps are.
//!
//! A fuzzer makes bytes and watches which branches they reach; it knows nothing of frames or timers. So each function
//! here reads any bytes at all as something to do, does it, and panics when a promise is broken. The promises stand
//! beside the code that makes them, and the proptests of `cargo test` hold the same ones with better aim.
//!
//! ```text
//!   tests/fuzz/fuzz_targets/wheel.rs ──bytes──► fuzz::wheel ──steps──► timer::property
//!   proptest, corpus (cargo test)    ──bytes──►     ┘
//! ```
//!
//! The module is there in tests and for cargo-fuzz (`cfg(fuzzing)`) only, and nothing in it is part of the library.

use crate::codec::{Delimited, Frame, FrameError, LengthPrefixed, Width};
use crate::output;
use crate::timer;
use crate::token;
use bytes::BytesMut;

/// Takes any bytes, and panics when a promise is broken.
pub type Target = fn(&[u8]);

/// The targets by name: of the files in `tests/fuzz/fuzz_targets`, and of the directories in `tests/fuzz/corpus`.
pub const TARGETS: [(&str, Target); 4] = [("codecs", codecs), ("queue", queue), ("table", table), ("wheel", wheel)];

/// Any codec, any stream, in any pieces: the frames and the error are those of the stream in one piece, and none is
/// over the limit.
pub fn codecs(bytes: &[u8]) {
    let Feed { max_len, mut codec, sizes, stream } = Feed::read(bytes);
    let whole = decode(codec.clone(), stream, &[stream.len().max(1)]);
    assert!(whole.0.iter().all(|frame| frame.len() <= max_len), "a frame over the limit");
    assert_eq!(decode(codec.clone(), stream, &[1]), whole);
    assert_eq!(decode(codec.clone(), stream, &sizes), whole);
    // An error is final and takes nothing.
    if let Some(error) = whole.1 {
        let mut input = BytesMut::from(stream);
        while let Ok(Some(frame)) = codec.decode(&mut input) {
            drop(frame);
        }
        let left = input.len();
        assert!(codec.finish(&mut input).is_err_and(|again| again == error));
        assert_eq!(input.len(), left);
    }
}

/// Any steps on an output queue.
pub fn queue(bytes: &[u8]) {
    use output::property::{READ_BUFFER_BYTES, STEPS_MAX, Step, the_queue_agrees_with_a_plain_vector};
    let mut choices = Choices(bytes);
    let step = || {
        let kind = choices.next()?;
        let n = usize::from(choices.short());
        Some(match kind % 8 {
            0 | 1 => Step::Copy(n % 3000),
            2 => Step::Copy(n % 40_000),
            3 => Step::Link(n % 5000),
            4 => Step::Borrow(n % (READ_BUFFER_BYTES / 2), usize::from(choices.short()) % (READ_BUFFER_BYTES / 2)),
            5 => Step::Advance(n),
            6 => Step::Own,
            _ => Step::Settle,
        })
    };
    the_queue_agrees_with_a_plain_vector(std::iter::from_fn(step).take(STEPS_MAX));
}

/// Any insertions and removals.
pub fn table(bytes: &[u8]) {
    // Every step looks at every token ever given.
    const STEPS_MAX: usize = 400;
    let mut choices = Choices(bytes);
    let step = || {
        let kind = choices.next()?;
        Some((kind & 1 == 0, usize::from(kind >> 1) << 8 | usize::from(choices.byte())))
    };
    token::property::the_table_agrees_with_a_map_that_never_reuses_names(std::iter::from_fn(step).take(STEPS_MAX));
}

/// Any timers at any times.
pub fn wheel(bytes: &[u8]) {
    // The model is searched whole at every step.
    const STEPS_MAX: usize = 300;
    let mut choices = Choices(bytes);
    let step = || {
        let kind = i32::from(choices.next()? % 11);
        let pick = usize::from(choices.byte());
        let shift = 17 + u32::from(choices.byte() % 46);
        let random = std::array::from_fn(|_| choices.byte());
        Some((kind, pick, i64::from_be_bytes(random), shift))
    };
    timer::property::the_wheel_agrees_with_a_map_searched_whole(std::iter::from_fn(step).take(STEPS_MAX));
}

/// Bytes, read from the front. Where they have ended come zeros.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }
}

/// A codec and what it is given.
struct Feed<'a> {
    max_len: usize,
    codec: Codec,
    sizes: Vec<usize>,
    stream: &'a [u8],
}

impl Feed<'_> {
    fn read(bytes: &[u8]) -> Feed<'_> {
        let mut choices = Choices(bytes);
        let max_len = usize::from(choices.byte()) * 2;
        let codec = any_codec(&mut choices, max_len);
        let sizes = (0..4).map(|_| 1 + usize::from(choices.byte() % 64)).collect();
        Feed { max_len, codec, sizes, stream: choices.0 }
    }
}

#[derive(Clone)]
enum Codec {
    Prefixed(LengthPrefixed),
    Delimited(Delimited),
}

fn any_codec(choices: &mut Choices<'_>, max_len: usize) -> Codec {
    const WIDTHS: [Width; 5] = [Width::U8, Width::U16, Width::U24, Width::U32, Width::U64];
    const DELIMITERS: [&[u8]; 6] = [b"\n", b"\r\n", b"aa", b"ab", b"aab", b"abaab"];
    let kind = choices.byte();
    let pick = usize::from(choices.byte());
    match kind % 8 {
        0 => Codec::Delimited(Delimited::lines(max_len)),
        1 | 2 => Codec::Delimited(Delimited::new(DELIMITERS[pick % DELIMITERS.len()], max_len)),
        _ => {
            let adjustment = match choices.byte() {
                0 => i64::MIN,
                1 => i64::MAX,
                small => i64::from(small as i8),
            };
            let codec = LengthPrefixed::new(max_len).width(WIDTHS[pick % WIDTHS.len()]);
            let codec = codec.adjustment(adjustment).length_offset(choices.byte() % 8);
            let codec = codec.length_includes_header(kind & 64 != 0);
            let codec = match kind >> 3 & 3 {
                0 | 1 => codec,
                2 => codec.toy_checksum(),
                _ => crc32c(codec),
            };
            Codec::Prefixed(if kind & 128 != 0 { codec.little_endian() } else { codec })
        }
    }
}

/// With a CRC32C behind each frame, if the feature is on.
fn crc32c(codec: LengthPrefixed) -> LengthPrefixed {
    #[cfg(feature = "crc32c")]
    let codec = codec.checksum();
    codec
}

impl Codec {
    fn decode<'b>(&mut self, input: &'b mut BytesMut) -> Result<Option<Frame<'b>>, FrameError> {
        match self {
            Codec::Prefixed(codec) => codec.decode(input),
            Codec::Delimited(codec) => codec.decode(input),
        }
    }

    fn finish<'b>(&mut self, input: &'b mut BytesMut) -> Result<Option<Frame<'b>>, FrameError> {
        match self {
            Codec::Prefixed(codec) => codec.finish(input),
            Codec::Delimited(codec) => codec.finish(input),
        }
    }
}

/// The frames of a stream that comes in pieces of these sizes, and the error that it ended with.
fn decode(mut codec: Codec, mut stream: &[u8], sizes: &[usize]) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    for size in sizes.iter().cycle() {
        let piece;
        (piece, stream) = stream.split_at((*size).min(stream.len()));
        if piece.is_empty() {
            break;
        }
        input.extend_from_slice(piece);
        loop {
            match codec.decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(e) => return (frames, Some(e)),
            }
        }
    }
    loop {
        match codec.finish(&mut input) {
            Ok(Some(frame)) => frames.push(frame.to_vec()),
            Ok(None) => return (frames, None),
            Err(e) => return (frames, Some(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_fuzzer_has_found_so_far_holds() {
        for (target, run) in TARGETS {
            let directory = format!("{}/tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
            let files: Vec<_> = std::fs::read_dir(&directory).expect("a corpus").collect();
            assert!(files.len() >= 10, "the corpus of {target} is small: {}", files.len());
            for file in files {
                run(&std::fs::read(file.expect("an entry").path()).expect("a file"));
            }
        }
    }

    /// Frames and damaged ones, with the toy sum and with the other: noise alone has no right sums.
    #[test]
    fn the_corpus_gets_past_the_sums_behind_frames() {
        let directory = format!("{}/tests/fuzz/corpus/codecs", env!("CARGO_MANIFEST_DIR"));
        let mut seen = [[0; 2]; 2];
        for file in std::fs::read_dir(&directory).expect("a corpus") {
            let bytes = std::fs::read(file.expect("an entry").path()).expect("a file");
            let Feed { codec: Codec::Prefixed(codec), stream, .. } = Feed::read(&bytes) else { continue };
            let summed = !codec.trailer(&[]).is_empty();
            let sum = usize::from(bytes[1] >> 3 & 3 == 3);
            let (frames, error) = decode(Codec::Prefixed(codec), stream, &[stream.len().max(1)]);
            seen[sum][0] += usize::from(summed && frames.len() >= 2);
            seen[sum][1] += usize::from(summed && matches!(error, Some(FrameError::Checksum { .. })));
        }
        let sums = if cfg!(feature = "crc32c") { 2 } else { 1 };
        assert!(seen[..sums].as_flattened().iter().all(|times| *times >= 3), "{seen:?}");
    }

    proptest! {
        // The properties have their own proptests, with better aim and more cases.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_bytes_hold(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            TARGETS.into_iter().for_each(|(_, run)| run(&bytes));
        }
    }
}
