//! The pattern: what stands at each place of a stream.
//!
//! What a peer sends depends on its place in the stream and on the connection, so bytes that were lost, doubled,
//! swapped or sent to another connection cannot pass for the right ones. It has to be cheap, since every byte of every
//! measured second is compared: one period of the pattern is made once, with as much more behind it as is ever asked
//! for at once, so that what begins anywhere lies in one piece. Sending is then a slice, and comparing a `memcmp`.
//!
//! ```text
//!   0                            period              period + CHUNK_BYTES
//!   ├────────────────────────────┼───────────────────┤
//!              ▲ position % period
//!              ╰── len ──╯           never more than CHUNK_BYTES, so always whole
//! ```

use std::io;

/// The most that is offered to a socket, or asked of it, at once.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// The stream repeats itself after a prime number of bytes. Whatever loses or doubles a buffer does so by a round
/// number, and cannot come out even.
const PERIOD_BYTES: usize = 65_521;

/// What a frame begins with: the length of the rest, as four bytes, the highest first.
pub const HEADER_BYTES: usize = 4;

/// One period of a stream.
pub struct Pattern {
    /// The period, and `CHUNK_BYTES` of its repetition.
    bytes: Vec<u8>,
    period: usize,
    /// Streams begin at a multiple of this, so that a frame is not cut.
    unit: usize,
}

impl Pattern {
    /// Noise without a structure.
    pub fn noise() -> Pattern {
        let bytes = (0..PERIOD_BYTES + CHUNK_BYTES).map(|place| noise(place % PERIOD_BYTES)).collect();
        Pattern { bytes, period: PERIOD_BYTES, unit: 1 }
    }

    /// Frames of `len` bytes in all. Behind its header each has its number, so that a frame can be told by itself:
    /// see `number_of`.
    ///
    /// # Panics
    /// Where there is no room for the header and the number.
    pub fn frames(len: usize) -> Pattern {
        assert!(len >= 2 * HEADER_BYTES, "a frame has a header and a number");
        // A prime, and about 64 KiB of small ones: what is compared with should stay in the cache.
        let frames = match len {
            ..=256 => 1021,
            257..=4096 => 61,
            _ => 17,
        };
        let period = frames * len;
        let mut bytes: Vec<u8> = (0..period).map(noise).collect();
        for (number, frame) in bytes.chunks_exact_mut(len).enumerate() {
            frame[..4].copy_from_slice(&((len - HEADER_BYTES) as u32).to_be_bytes());
            frame[4..8].copy_from_slice(&(number as u32).to_be_bytes());
        }
        while bytes.len() < period + CHUNK_BYTES {
            bytes.extend_from_within(..period.min(period + CHUNK_BYTES - bytes.len()));
        }
        Pattern { bytes, period, unit: len }
    }

    /// Where the stream of a connection begins: neighbours are far apart, so that no message is another one's.
    pub fn origin(&self, connection: usize) -> u64 {
        connection as u64 * 7919 * self.unit as u64
    }

    /// What a stream has from `position` on; at most `CHUNK_BYTES`.
    #[inline]
    pub fn at(&self, position: u64, len: usize) -> &[u8] {
        let start = (position % self.period as u64) as usize;
        &self.bytes[start..start + len]
    }

    /// # Errors
    /// Names the first byte that is not what was sent.
    #[inline]
    pub fn compare(&self, position: u64, found: &[u8]) -> io::Result<()> {
        let expected = self.at(position, found.len());
        if found == expected { Ok(()) } else { Err(difference(position, found, expected)) }
    }

    /// Compares a frame whose place in the stream is not known by the number that it bears.
    ///
    /// # Errors
    /// As `compare`.
    pub fn compare_frame(&self, frame: &[u8]) -> io::Result<()> {
        let number = frame.get(4..8).and_then(|number| number.try_into().ok()).map_or(0, u32::from_be_bytes);
        self.compare(u64::from(number) * self.unit as u64, frame)
    }
}

#[cold]
fn difference(position: u64, found: &[u8], expected: &[u8]) -> io::Error {
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected).unwrap_or(0);
    let (found, expected) = (found[at], expected[at]);
    let place = position + at as u64;
    io::Error::other(format!("a byte is wrong: {found:#04x} came where {expected:#04x} was sent (place {place})"))
}

/// Of a multiplicative hash the upper bits are the good ones.
fn noise(place: usize) -> u8 {
    ((place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u8
}
