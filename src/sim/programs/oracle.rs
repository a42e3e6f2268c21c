//! The oracle: what must be true of every stream, whatever was done to it.
//!
//! Each direction of each connection has a pattern of bytes, so that a byte says where in the stream it stands:
//! whoever gets bytes can tell at once whether something is missing, doubled or out of place.

use super::mask::{FAREWELL, Masked, mask_behind};
use std::sync::OnceLock;

/// The pattern repeats after this, a prime, so that no power of two lines up with it.
const PERIOD: usize = 65_521;

/// The longest piece that is asked for at once.
const LONGEST: usize = 1 << 17;

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let byte = |i: usize| crate::sys::sim::chance::mixed((i % PERIOD) as u64) as u8;
        (0..PERIOD + LONGEST).map(byte).collect()
    })
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the peer to the program.
    In,
    /// From the program to the peer.
    Out,
}

/// `len` bytes of a stream, from the byte `from` on.
pub fn pattern(stream: usize, direction: Direction, from: u64, len: usize) -> &'static [u8] {
    let turn = if direction == Direction::In { 0 } else { 104_729 };
    let start = ((stream as u64 * 7_919 + turn + from) % PERIOD as u64) as usize;
    &table()[start..start + len]
}

/// Whether `data` is what stands in the stream from `from` on; if not, where it differs.
pub fn check(stream: usize, direction: Direction, from: u64, data: &[u8]) -> Result<(), String> {
    let mut at = 0;
    while at < data.len() {
        let piece = &data[at..data.len().min(at + LONGEST)];
        let expected = pattern(stream, direction, from + at as u64, piece.len());
        if piece != expected {
            let first = piece.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
            return Err(format!("stream {stream} {direction:?} has a wrong byte at {}", from + (at + first) as u64));
        }
        at += piece.len();
    }
    Ok(())
}

/// What a peer must have got: bytes of the program's own, and behind them, if it is relayed, what the other peer has
/// sent from some byte on.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub stream: usize,
    /// Bytes that were certainly taken.
    pub sent: u64,
    /// With those of a `send` that answered `Closed`, of which some may have gone before the connection did.
    pub at_most: u64,
    pub relayed: Option<Relayed>,
    pub masked: Option<Masked>,
}

#[derive(Debug, Clone, Copy)]
pub struct Relayed {
    pub from: usize,
    /// The first byte of that stream that was carried.
    pub first: u64,
    /// Bytes that were ever sent in it.
    pub sent: u64,
    pub masked: Option<Masked>,
}

impl Expected {
    /// Bytes that are to arrive if nothing goes wrong, but for a filter's farewell.
    pub fn len(&self) -> u64 {
        self.sent + self.relayed.map_or(0, |relayed| relayed.sent - relayed.first)
    }

    /// Bytes of the farewell, if there is a filter that says it.
    pub fn farewell(&self) -> u64 {
        if self.masked.is_some_and(|masked| masked.says_farewell) { FAREWELL.len() as u64 } else { 0 }
    }

    /// Whether what arrived is a prefix of what was sent.
    pub fn is_begun_by(&self, got: &[u8]) -> Result<(), String> {
        if self.masked.is_some() || self.relayed.is_some_and(|relayed| relayed.masked.is_some()) {
            return self.is_begun_by_masked(got);
        }
        let own = got.len().min(self.at_most as usize);
        match self.relayed {
            None if got.len() as u64 > self.at_most => {
                Err(format!("stream {}: {} bytes arrived, and {} were sent", self.stream, got.len(), self.at_most))
            }
            None => check(self.stream, Direction::Out, 0, &got[..own]),
            Some(relayed) => {
                let own = got.len().min(self.sent as usize);
                check(self.stream, Direction::Out, 0, &got[..own])?;
                if got.len() as u64 > self.len() {
                    return Err(format!("stream {}: more arrived than was relayed", self.stream));
                }
                check(relayed.from, Direction::In, relayed.first, &got[own..])
            }
        }
    }

    fn is_begun_by_masked(&self, got: &[u8]) -> Result<(), String> {
        let fits = |sent| self.masked_output(sent).starts_with(got);
        if fits(self.sent) || fits(self.at_most) {
            return Ok(());
        }
        // A pair that is closed says farewell wherever it is.
        let until_closed = got.strip_suffix(FAREWELL).filter(|_| self.relayed.is_some() && self.farewell() > 0);
        if until_closed.is_some_and(|got| self.masked_output(self.sent).starts_with(got)) {
            return Ok(());
        }
        let expected = self.masked_output(self.sent);
        let first = got.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(expected.len());
        Err(format!("stream {}: of {} bytes through a filter the one at {first} is wrong", self.stream, got.len()))
    }

    /// All that can arrive, byte for byte.
    fn masked_output(&self, sent: u64) -> Vec<u8> {
        let mut output = copy(self.stream, Direction::Out, 0, sent);
        if let Some(relayed) = self.relayed {
            let mut input = copy(relayed.from, Direction::In, relayed.first, relayed.sent);
            if let Some(masked) = relayed.masked {
                mask_behind(&mut input, relayed.first, masked.input_from);
            }
            output.extend_from_slice(&input);
        }
        if let Some(masked) = self.masked {
            mask_behind(&mut output, 0, masked.output_from);
            if masked.says_farewell {
                output.extend_from_slice(FAREWELL);
            }
        }
        output
    }
}

/// The bytes of a stream from `from` up to `end`.
pub fn copy(stream: usize, direction: Direction, mut from: u64, end: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while from < end {
        let len = ((end - from) as usize).min(LONGEST);
        bytes.extend_from_slice(pattern(stream, direction, from, len));
        from += len as u64;
    }
    bytes
}
