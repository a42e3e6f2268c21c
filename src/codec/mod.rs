//! Where one message ends and the next begins: frames out of a stream of bytes.
//!
//! TCP carries bytes, not messages. What one side sent in three pieces may arrive in one, or in thirty, cut in
//! the middle of a length. A *codec* finds the borders again. [`Delimited`] looks for a mark behind each message
//! (a newline), [`LengthPrefixed`] reads a number in front of it.
//!
//! A codec touches no socket: it lives in a handler and works on the handler's input, where unconsumed bytes stay
//! in front and new ones arrive behind them. `decode` gives a [`Frame`], which is a loan: the bytes stay where the
//! reactor has read them, and dropping the frame takes it off the input.
//!
//! ```text
//!  input ┌────────┬─────────┬─────────┬────────┬───────
//!        │ header │ payload │ trailer │ header │ payl…          bytes still to come
//!        └────────┴─────────┴─────────┴────────┴───────
//!                 ╰─ &frame ╯                  a part of a frame is left alone
//!        ╰──── gone with the frame ───╯
//! ```
//!
//! The rules that both keep:
//!
//! - **A whole frame costs no allocation and no copy.** [`Frame::into_bytes`] keeps one for later.
//! - **The work is in the new bytes.** A frame that arrives byte by byte costs as much as one that arrives whole, up
//!   to a constant: a codec remembers how far it has looked, or needs only the header to know.
//! - **A length is compared, never believed.** The limit is checked as soon as the bytes at hand settle it, before
//!   anything is kept for the rest, and no memory is reserved by a number that the peer has named.
//! - **An error is final and consumes nothing.** Behind a bad frame nobody knows where the next begins. Its bytes
//!   stay in front, so each further `decode` says the same; end the connection. (A handler whose
//!   protocol can find its feet again takes the bytes off itself, and goes on with the same codec.)
//!
//! What they do not do: they do not wait, nor bound the memory of a connection. The reactor's input limit does, and
//! has to leave room for one frame with its header and trailer, or that frame never becomes whole. How a codec sits
//! on a connection, with a time limit for a frame that was begun, is in `examples/frames.rs`.
//!
//! ```
//! use bytes::BytesMut;
//! use plimsoll::codec::{Delimited, FrameError};
//!
//! struct Shout {
//!     lines: Delimited,
//!     said: Vec<String>,
//! }
//!
//! impl Shout {
//!     // The shape of a handler's `on_data`: what is left in `input` is offered again.
//!     fn on_data(&mut self, input: &mut BytesMut) -> Result<(), FrameError> {
//!         while let Some(line) = self.lines.decode(input)? {
//!             self.said.push(String::from_utf8_lossy(&line).to_uppercase());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let mut shout = Shout { lines: Delimited::lines(8 * 1024), said: Vec::new() };
//! let mut input = BytesMut::from("hello\nwor");
//! shout.on_data(&mut input)?;
//! input.extend_from_slice(b"ld\r\n");
//! shout.on_data(&mut input)?;
//! assert_eq!(shout.said, ["HELLO", "WORLD"]);
//! # Ok::<(), FrameError>(())
//! ```

mod checksum;
mod field;
mod frames;
mod lines;

pub use field::{Field, Width};
pub use frames::LengthPrefixed;
pub use lines::Delimited;

use bytes::{Buf, Bytes, BytesMut};
use std::ops::{Deref, Range};
use std::{error, fmt, io, mem};

/// One whole frame at the front of a buffer: reads as its payload, and leaves the buffer when dropped.
///
/// Header, delimiter and trailer leave with it. A frame that is leaked (`mem::forget`) stays in the buffer and is
/// decoded once more.
///
/// ```
/// use bytes::BytesMut;
/// use plimsoll::codec::LengthPrefixed;
///
/// let frames = LengthPrefixed::new(1024);
/// let mut input = BytesMut::from(&b"\0\0\0\x05hello\0\0\0\x03bye"[..]);
///
/// let hello = frames.decode(&mut input)?.expect("the first frame is whole");
/// assert_eq!(&hello[..], b"hello");
/// assert_eq!(hello.header(), b"\0\0\0\x05");
/// drop(hello);
///
/// let bye = frames.decode(&mut input)?.expect("so is the second");
/// let kept = bye.into_bytes();
/// assert!(input.is_empty());
/// assert_eq!(kept, "bye");
/// # Ok::<(), plimsoll::codec::FrameError>(())
/// ```
#[must_use = "a frame that is dropped is gone from the buffer, read or not"]
pub struct Frame<'b> {
    buffer: &'b mut BytesMut,
    /// Lies within `buffer`, which nobody else can change meanwhile.
    cut: Cut,
}

/// Where a frame lies at the front of its buffer.
#[derive(Debug, Default)]
struct Cut {
    payload: Range<usize>,
    /// Bytes from the buffer's first to the frame's last, trailer or delimiter included.
    whole: usize,
}

impl<'b> Frame<'b> {
    #[inline]
    fn new(buffer: &'b mut BytesMut, cut: Cut) -> Frame<'b> {
        debug_assert!(
            cut.payload.start <= cut.payload.end && cut.payload.end <= cut.whole,
            "a payload is in its frame"
        );
        debug_assert!(cut.whole <= buffer.len(), "a frame is in its buffer");
        Frame { buffer, cut }
    }

    /// The payload as bytes of its own, which may outlive the buffer. Nothing is copied.
    ///
    /// They share the buffer's memory and keep *all* of it alive: to hold a few bytes for long, copy them
    /// (`frame.to_vec()`).
    pub fn into_bytes(mut self) -> Bytes {
        // The split takes the frame off, and the empty cut left here gives the drop nothing more to take.
        let Cut { payload, whole } = mem::take(&mut self.cut);
        let mut bytes = self.buffer.split_to(whole);
        bytes.truncate(payload.end);
        bytes.advance(payload.start);
        bytes.freeze()
    }

    /// What stands before the payload: the length field and the bytes before it. Empty for [`Delimited`].
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.buffer[..self.cut.payload.start]
    }

    /// Every byte of the frame as it came, to be passed on unchanged.
    #[inline]
    pub fn whole(&self) -> &[u8] {
        &self.buffer[..self.cut.whole]
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.buffer[self.cut.payload.start..self.cut.payload.end]
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        self.buffer.advance(self.cut.whole);
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame(\"{}\")", self.escape_ascii())
    }
}

/// Why a stream cannot be cut into frames, or a payload not be put into one.
///
/// ```
/// use bytes::BytesMut;
/// use plimsoll::codec::{FrameError, LengthPrefixed};
///
/// let frames = LengthPrefixed::new(1024);
/// let mut input = BytesMut::from("GET / HTTP/1.1\r\n");
/// let error = frames.decode(&mut input).expect_err("the letters make a large number");
/// assert_eq!(error, FrameError::TooLong { length: 0x4745_5420, limit: 1024 });
/// assert_eq!(error.to_string(), "a frame of 1195725856 bytes is over the limit of 1024");
/// assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidData);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// A payload is over the limit: one that a header announces, or one that is to be encoded.
    TooLong {
        /// Bytes of the payload, or `u64::MAX` if there were even more.
        length: u64,
        /// The codec's limit; when encoding, the length field's if that is smaller.
        limit: u64,
    },
    /// The length is too small to cover what it counts beside the payload, which would have to be negative.
    TooShort {
        /// What the length field holds; when encoding, the bytes of the payload.
        length: u64,
        /// The smallest possible.
        least: u64,
    },
    /// More than `limit` bytes went by without a delimiter.
    Unterminated {
        /// The codec's limit.
        limit: usize,
    },
    /// The stream has ended inside a frame.
    Truncated {
        /// Bytes of the frame that have come.
        have: usize,
        /// Bytes that the frame, or at first its header, needed.
        need: usize,
    },
    /// The frame's bytes do not add up to the checksum behind them.
    Checksum {
        /// Of the bytes that came.
        computed: u32,
        /// What the trailer says.
        carried: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            FrameError::TooLong { length, limit } => {
                write!(f, "a frame of {length} bytes is over the limit of {limit}")
            }
            FrameError::TooShort { length, least } => {
                write!(f, "a frame's length of {length} is under the least possible, {least}")
            }
            FrameError::Unterminated { limit } => write!(f, "no delimiter within the limit of {limit} bytes"),
            FrameError::Truncated { have, need } => {
                write!(f, "the stream ended inside a frame, after {have} of {need} bytes")
            }
            FrameError::Checksum { computed, carried } => {
                write!(f, "a frame carries checksum {carried:#010x} and its bytes have {computed:#010x}")
            }
        }
    }
}

impl error::Error for FrameError {}

impl From<FrameError> for io::Error {
    /// Of kind `InvalidData`, with the frame error inside.
    fn from(error: FrameError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts `stream` into pieces of the given sizes, repeated as often as needed.
    pub(super) fn pieces<'a>(mut stream: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        sizes.iter().cycle().map_while(move |size| {
            let piece = stream.split_off(..(*size).min(stream.len()))?;
            (!piece.is_empty()).then_some(piece)
        })
    }

    fn frame(buffer: &mut BytesMut) -> Frame<'_> {
        Frame::new(buffer, Cut { payload: 1..4, whole: 6 })
    }

    #[test]
    fn a_frame_is_read_where_it_lies_and_dropping_it_takes_all_of_it() {
        let mut buffer = BytesMut::from("<abc>>rest");
        let start = buffer.as_ptr();
        let borrowed = frame(&mut buffer);
        assert_eq!(&borrowed[..], b"abc");
        assert_eq!(borrowed.as_ptr(), start.wrapping_add(1));
        assert_eq!(borrowed.header(), b"<");
        assert_eq!(borrowed.whole(), b"<abc>>");
        assert_eq!(format!("{borrowed:?}"), "Frame(\"abc\")");
        drop(borrowed);
        assert_eq!(buffer, "rest");
    }

    #[test]
    fn an_owned_frame_leaves_the_buffer_once_and_shares_its_memory() {
        let mut buffer = BytesMut::from("<abc>>rest");
        let start = buffer.as_ptr();
        let owned = frame(&mut buffer).into_bytes();
        assert_eq!(owned, "abc");
        assert_eq!(owned.as_ptr(), start.wrapping_add(1));
        assert_eq!(buffer, "rest");
    }

    #[test]
    fn a_leaked_frame_stays_in_the_buffer() {
        let mut buffer = BytesMut::from("<abc>>rest");
        mem::forget(frame(&mut buffer));
        assert_eq!(buffer, "<abc>>rest");
    }

    #[test]
    fn an_io_error_keeps_the_frame_error_inside() {
        let error = FrameError::Truncated { have: 3, need: 8 };
        let outer = io::Error::from(error);
        assert_eq!(outer.kind(), io::ErrorKind::InvalidData);
        let inner = outer.get_ref().and_then(|inner| inner.downcast_ref::<FrameError>());
        assert_eq!(inner, Some(&error));
        assert_eq!(outer.to_string(), "the stream ended inside a frame, after 3 of 8 bytes");
    }
}
