//! Frames that end with a mark: lines of text, and anything else whose payload never holds the delimiter.
//!
//! The one problem is the frame that comes in pieces. Looking for the delimiter from the front each time costs
//! n²⁄2 looks for a line that arrives byte by byte, and a peer picks the pieces: a line of 1 MiB is then worth
//! half a million MiB of work. So the codec remembers an offset before which no delimiter begins, and starts there:
//!
//! ```text
//!   delimiter  \r\n
//!   input      h e l l o   w o r l d \r
//!              ╰──── scanned ───────╯ ▲
//!                    never again      └── may yet begin a delimiter: the next search starts here
//! ```
//!
//! A byte is therefore looked at once, or, where delimiters of several bytes nearly begin, a few times per byte of the
//! delimiter. Since the offset is never past a place where a delimiter may yet begin, it also answers how long the line
//! is *at least*, and a line over the limit is found with the first byte that makes it so.

use super::{Cut, Frame, FrameError};
use bytes::BytesMut;
use std::{borrow::Cow, mem};

/// Cuts a stream at a delimiter, which is not part of the frames.
///
/// One codec serves one stream, since it remembers how far it has searched. After a `None` the bytes that are in the
/// buffer must stay there, and new ones come behind them; a caller that takes some off the front itself needs a new
/// codec to go on. After a frame or an error nothing is remembered, and the buffer may change freely: that is how a
/// protocol goes over from lines of header to a counted body.
///
/// ```
/// use bytes::BytesMut;
/// use plimsoll::codec::Delimited;
///
/// let mut records = Delimited::new(b"--", 64);
/// let mut input = BytesMut::from("one--two-");
/// assert_eq!(records.decode(&mut input)?.as_deref(), Some(&b"one"[..]));
/// assert!(records.decode(&mut input)?.is_none());
///
/// input.extend_from_slice(b"-three");
/// assert_eq!(records.decode(&mut input)?.as_deref(), Some(&b"two"[..]));
/// assert!(records.decode(&mut input)?.is_none());
///
/// // The stream has ended.
/// assert_eq!(records.finish(&mut input)?.as_deref(), Some(&b"three"[..]));
/// # Ok::<(), plimsoll::codec::FrameError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Delimited {
    /// Never empty.
    delimiter: Cow<'static, [u8]>,
    max_len: usize,
    /// One `\r` before the delimiter belongs to it. Only with a delimiter of one byte.
    strips_return: bool,
    /// No delimiter begins before this offset of the buffer that `decode` saw last. Zero unless it said `None`.
    scanned: usize,
}

impl Delimited {
    /// Frames of at most `max_len` bytes, each followed by `delimiter`, which the limit does not count.
    ///
    /// A literal (`b"\r\n"`) costs no memory; a `Vec<u8>` does for a delimiter known only at run time.
    ///
    /// # Panics
    /// When the delimiter is empty.
    pub fn new(delimiter: impl Into<Cow<'static, [u8]>>, max_len: usize) -> Delimited {
        let delimiter = delimiter.into();
        assert!(!delimiter.is_empty(), "a delimiter has at least one byte");
        Delimited { delimiter, max_len, strips_return: false, scanned: 0 }
    }

    /// Lines of at most `max_len` bytes that end in `\n` or `\r\n`, neither of which the limit counts.
    pub fn lines(max_len: usize) -> Delimited {
        Delimited { strips_return: true, ..Delimited::new(b"\n", max_len) }
    }

    /// The next frame, or `None` until more bytes have come.
    ///
    /// # Errors
    /// [`FrameError::Unterminated`] as soon as no frame within the limit can begin `buffer`, which stays as it is.
    #[inline]
    pub fn decode<'b>(&mut self, buffer: &'b mut BytesMut) -> Result<Option<Frame<'b>>, FrameError> {
        Ok(self.cut(buffer)?.map(|cut| Frame::new(buffer, cut)))
    }

    /// What [`decode`](Delimited::decode) gives, and at last the rest: for the end of the stream, after which a frame
    /// needs no delimiter.
    ///
    /// Call it until it says `None`; the buffer is then empty. A lone `\r` that ends a last line is taken for half of
    /// a line ending and is no part of the line. Where an unfinished frame is to be an error instead, do not call this,
    /// but see whether `decode` has left something in the buffer.
    ///
    /// # Errors
    /// [`FrameError::Unterminated`] when the rest is over the limit.
    pub fn finish<'b>(&mut self, buffer: &'b mut BytesMut) -> Result<Option<Frame<'b>>, FrameError> {
        let cut = match self.cut(buffer)? {
            None if !buffer.is_empty() => Some(self.rest(buffer)?),
            cut => cut,
        };
        Ok(cut.map(|cut| Frame::new(buffer, cut)))
    }

    fn cut(&mut self, buffer: &[u8]) -> Result<Option<Cut>, FrameError> {
        // A delimiter that begins behind this window comes too late, so looking there would change no answer.
        let window_bytes = self.max_len.saturating_add(usize::from(self.strips_return) + self.delimiter.len());
        let window = &buffer[..buffer.len().min(window_bytes)];
        // The offset is used up here, and set again only where the same bytes are to be seen again. If it is past the
        // end, the caller has taken bytes away, and it means nothing any more.
        let scanned = mem::take(&mut self.scanned);
        let from = if scanned <= window.len() { scanned } else { 0 };

        let found = find(window, from, &self.delimiter);
        let (Found::At(offset) | Found::NotBefore(offset)) = found;
        let payload = 0..self.end_of_line(&window[..offset]);
        if payload.end > self.max_len {
            return Err(FrameError::Unterminated { limit: self.max_len });
        }
        if let Found::NotBefore(offset) = found {
            self.scanned = offset;
            return Ok(None);
        }
        Ok(Some(Cut { payload, whole: offset + self.delimiter.len() }))
    }

    fn rest(&mut self, buffer: &[u8]) -> Result<Cut, FrameError> {
        // Nothing of this stream is to be seen again.
        self.scanned = 0;
        let payload = 0..self.end_of_line(buffer);
        if payload.end > self.max_len {
            return Err(FrameError::Unterminated { limit: self.max_len });
        }
        Ok(Cut { payload, whole: buffer.len() })
    }

    /// The length of `line` without the `\r` that may belong to its ending.
    fn end_of_line(&self, line: &[u8]) -> usize {
        match line.split_last() {
            Some((b'\r', line)) if self.strips_return => line.len(),
            _ => line.len(),
        }
    }
}

/// What a search has found.
enum Found {
    /// The first delimiter begins here.
    At(usize),
    /// There is none yet, and none will begin before this offset, whatever bytes follow.
    NotBefore(usize),
}

/// Looks for the first delimiter at or behind `from`. Takes time in proportion to the bytes there, times the bytes of
/// the delimiter where the stream is full of near misses.
fn find(bytes: &[u8], from: usize, delimiter: &[u8]) -> Found {
    let mut offset = from;
    while let Some(step) = find_byte(&bytes[offset..], delimiter[0]) {
        offset += step;
        let tail = &bytes[offset..];
        if tail.starts_with(delimiter) {
            return Found::At(offset);
        }
        if delimiter.starts_with(tail) {
            return Found::NotBefore(offset);
        }
        // The next byte, and not the one behind the mismatch: the second "a" of "aaab" begins the delimiter "aab".
        offset += 1;
    }
    Found::NotBefore(bytes.len())
}

/// How many bytes [`find_byte`] compares before it looks at the outcome: a vector register of any x86-64 or aarch64.
/// Strides of 32 search long lines faster (46 GB/s against 27, both far more than a socket delivers) and lines of 20
/// or 60 bytes, which are common, in two to three times the time.
const STRIDE: usize = 16;

/// The offset of the first `wanted`.
///
/// A loop that may end at every byte is compiled to one comparison per byte. Here each stride is compared as a whole,
/// which becomes a few vector instructions, and the exact place is looked for only in the stride that has it.
fn find_byte(bytes: &[u8], wanted: u8) -> Option<usize> {
    let (strides, _) = bytes.as_chunks::<STRIDE>();
    let lacks_it = |stride: &[u8; STRIDE]| !stride.iter().fold(false, |any, byte| any | (*byte == wanted));
    let clear = strides.iter().take_while(|stride| lacks_it(stride)).count() * STRIDE;
    bytes[clear..].iter().position(|byte| *byte == wanted).map(|offset| clear + offset)
}

#[cfg(test)]
mod tests {
    use super::super::tests::pieces;
    use super::*;
    use proptest::prelude::*;

    type Outcome = (Vec<Vec<u8>>, Option<FrameError>);

    /// Feeds a stream cut into pieces, then ends it.
    fn decode_pieces<'a>(mut codec: Delimited, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut input = BytesMut::new();
        let mut frames = Vec::new();
        let feed = || {
            for piece in pieces {
                input.extend_from_slice(piece);
                while let Some(frame) = codec.decode(&mut input)? {
                    frames.push(frame.to_vec());
                }
            }
            while let Some(frame) = codec.finish(&mut input)? {
                frames.push(frame.to_vec());
            }
            assert!(input.is_empty(), "a finished stream is used up");
            Ok(())
        };
        let error = feed().err();
        (frames, error)
    }

    fn decode_whole(codec: Delimited, stream: &[u8]) -> Outcome {
        decode_pieces(codec, [stream])
    }

    /// What the codec is to say, told without a codec: it sees the whole stream at once and takes its time.
    fn expected(codec: &Delimited, mut stream: &[u8]) -> Outcome {
        let mut frames = Vec::new();
        while !stream.is_empty() {
            let delimiter = stream.windows(codec.delimiter.len()).position(|bytes| bytes == &codec.delimiter[..]);
            let mut line = &stream[..delimiter.unwrap_or(stream.len())];
            stream = delimiter.map_or(&[], |offset| &stream[offset + codec.delimiter.len()..]);
            if codec.strips_return {
                line = line.strip_suffix(b"\r").unwrap_or(line);
            }
            if line.len() > codec.max_len {
                return (frames, Some(FrameError::Unterminated { limit: codec.max_len }));
            }
            frames.push(line.to_vec());
        }
        (frames, None)
    }

    #[test]
    fn lines_end_in_newline_with_or_without_return() {
        let (lines, error) = decode_whole(Delimited::lines(10), b"one\ntwo\r\n\n\r\nfour\r\r\nla\rst");
        assert_eq!(lines, [&b"one"[..], b"two", b"", b"", b"four\r", b"la\rst"]);
        assert_eq!(error, None);
    }

    #[test]
    fn the_limit_counts_the_line_and_not_its_ending() {
        for ending in ["\n", "\r\n", "\r", ""] {
            let stream = format!("12345{ending}");
            assert_eq!(decode_whole(Delimited::lines(5), stream.as_bytes()), (vec![b"12345".to_vec()], None));
            let (lines, error) = decode_whole(Delimited::lines(4), stream.as_bytes());
            assert_eq!((lines.len(), error), (0, Some(FrameError::Unterminated { limit: 4 })), "{ending:?}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_found_with_the_first_byte_too_many() {
        let mut codec = Delimited::new(b"\r\n", 4);
        let mut input = BytesMut::from("1234");
        assert!(codec.decode(&mut input).unwrap().is_none());
        input.extend_from_slice(b"\r");
        assert!(codec.decode(&mut input).unwrap().is_none(), "the delimiter may have begun");
        input.extend_from_slice(b"6");
        assert_eq!(codec.decode(&mut input).unwrap_err(), FrameError::Unterminated { limit: 4 });
    }

    #[test]
    fn an_error_consumes_nothing_and_is_said_again() {
        let mut codec = Delimited::lines(4);
        let mut input = BytesMut::from("ok\ntoo long");
        assert!(codec.decode(&mut input).unwrap().is_some());
        for more in ["", "\n", "ok\n"] {
            input.extend_from_slice(more.as_bytes());
            assert_eq!(codec.decode(&mut input).unwrap_err(), FrameError::Unterminated { limit: 4 });
            assert_eq!(codec.finish(&mut input).unwrap_err(), FrameError::Unterminated { limit: 4 });
        }
        assert_eq!(input, "too long\nok\n");
    }

    #[test]
    fn after_an_error_the_caller_may_clear_the_buffer_and_go_on() {
        let mut codec = Delimited::lines(4);
        let mut input = BytesMut::from("12345");
        assert!(codec.decode(&mut input).is_err());
        input.clear();
        input.extend_from_slice(b"ok\n12345");
        assert_eq!(codec.decode(&mut input).unwrap().as_deref(), Some(&b"ok"[..]));
    }

    #[test]
    fn a_buffer_that_has_shrunk_is_searched_from_its_front() {
        let mut codec = Delimited::lines(100);
        let mut input = BytesMut::from("a long beginning");
        assert!(codec.decode(&mut input).unwrap().is_none());
        input.clear();
        input.extend_from_slice(b"short\n");
        assert_eq!(codec.decode(&mut input).unwrap().as_deref(), Some(&b"short"[..]));
    }

    #[test]
    fn after_the_end_of_a_stream_the_codec_may_begin_another() {
        let mut codec = Delimited::lines(100);
        let mut input = BytesMut::from("unfinished");
        assert!(codec.decode(&mut input).unwrap().is_none());
        assert_eq!(codec.finish(&mut input).unwrap().as_deref(), Some(&b"unfinished"[..]));
        input.extend_from_slice(b"line\nanother line\n");
        assert_eq!(codec.decode(&mut input).unwrap().as_deref(), Some(&b"line"[..]));
    }

    #[test]
    fn a_leaked_line_is_decoded_once_more() {
        let mut codec = Delimited::lines(100);
        let mut input = BytesMut::from("line\n");
        mem::forget(codec.decode(&mut input));
        assert_eq!(codec.decode(&mut input).unwrap().as_deref(), Some(&b"line"[..]));
        assert!(input.is_empty());
    }

    #[test]
    fn limits_of_nothing_and_of_everything_are_limits() {
        let (lines, error) = decode_whole(Delimited::lines(0), b"\n\r\nx");
        assert_eq!((lines.len(), error), (2, Some(FrameError::Unterminated { limit: 0 })));
        assert_eq!(decode_whole(Delimited::lines(usize::MAX), b"x\n"), (vec![b"x".to_vec()], None));
    }

    #[test]
    #[should_panic(expected = "a delimiter has at least one byte")]
    fn an_empty_delimiter_is_refused() {
        let _ = Delimited::new(b"", 1);
    }

    /// Every byte that the codec has done with becomes a trap: were it looked at again, it would end the line.
    #[test]
    fn a_line_of_one_mebibyte_fed_byte_by_byte_is_looked_at_once() {
        let len = 1 << 20;
        let mut codec = Delimited::lines(len);
        let mut input = BytesMut::with_capacity(len + 1);
        for n in 0..len {
            input.extend_from_slice(b"x");
            assert!(codec.decode(&mut input).unwrap().is_none(), "byte {n} was looked at again");
            input[n] = b'\n';
        }
        input.extend_from_slice(b"\n");
        assert_eq!(codec.decode(&mut input).unwrap().map(|line| line.len()), Some(len));
    }

    #[test]
    fn near_misses_of_a_long_delimiter_are_looked_at_again_only_within_its_length() {
        let len = 1 << 18;
        let mut codec = Delimited::new(b"aaaaaaab", len);
        let mut input = BytesMut::with_capacity(len + 8);
        for n in 0..len {
            input.extend_from_slice(b"a");
            assert!(codec.decode(&mut input).unwrap().is_none());
            assert_eq!(codec.scanned, (n + 1_usize).saturating_sub(7));
        }
        input.extend_from_slice(b"b");
        assert_eq!(codec.decode(&mut input).unwrap().map(|line| line.len()), Some(len - 7));
    }

    #[test]
    fn a_byte_is_found_at_every_place_of_every_stride() {
        for len in 0..3 * STRIDE {
            let mut bytes = vec![b'x'; len];
            assert_eq!(find_byte(&bytes, b'\n'), None);
            for at in (0..len).rev() {
                bytes[at] = b'\n';
                assert_eq!(find_byte(&bytes, b'\n'), Some(at));
            }
        }
    }

    /// Delimiters of one byte, of several, and such as overlap with themselves.
    fn any_codec() -> impl Strategy<Value = Delimited> {
        let delimiter = prop::sample::select(vec!["\n", "\r\n", "a", "aa", "ab", "aab", "aba", "abaab"]);
        let codec =
            (delimiter, 0..40_usize).prop_map(|(delimiter, max_len)| Delimited::new(delimiter.as_bytes(), max_len));
        prop_oneof![codec, (0..40_usize).prop_map(Delimited::lines)]
    }

    /// Few different letters, so that delimiters and parts of them are everywhere.
    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        let letters = prop_oneof![Just(&b"ab"[..]), Just(&b"ab\r\n"[..]), Just(&b"aaaab\r\nxyz"[..])];
        letters.prop_flat_map(|letters| prop::collection::vec(prop::sample::select(letters), 0..400))
    }

    proptest! {
        #[test]
        fn any_stream_in_any_pieces_gives_the_expected_frames(
            codec in any_codec(), stream in any_stream(), sizes in prop::collection::vec(1..20_usize, 1..8),
        ) {
            let expected = expected(&codec, &stream);
            prop_assert_eq!(&decode_whole(codec.clone(), &stream), &expected);
            prop_assert_eq!(&decode_pieces(codec.clone(), pieces(&stream, &[1])), &expected);
            prop_assert_eq!(&decode_pieces(codec, pieces(&stream, &sizes)), &expected);
        }

        /// A caller that breaks the contract gets other lines, but neither a panic nor a line over the limit.
        #[test]
        fn a_buffer_changed_behind_the_codecs_back_gives_no_frame_over_the_limit(
            mut codec in any_codec(), buffers in prop::collection::vec(any_stream(), 1..10),
        ) {
            let max_len = codec.max_len;
            for buffer in buffers {
                let mut input = BytesMut::from(&buffer[..]);
                while let Ok(Some(frame)) = codec.decode(&mut input) {
                    prop_assert!(frame.len() <= max_len);
                }
            }
        }
    }
}
