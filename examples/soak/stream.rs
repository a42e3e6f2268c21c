//! What is sent, so that what comes back can be known: the byte at a place of a stream depends on the place.
//!
//! A checksum at the end would say *that* a stream is wrong. This says so at the first wrong byte, also of a stream
//! that is cut on purpose and has no end: what came must be what was sent first.

use std::sync::LazyLock;

/// The pattern repeats itself after a prime number of bytes. Whatever loses or doubles a buffer does so by a round
/// number, and cannot come out even.
const PERIOD: usize = 65_521;

/// The longest piece that is asked for at once: one read of the loop.
pub const PIECE_MAX_BYTES: usize = 64 * 1024;

/// One period, and a piece more, so that what begins anywhere in it lies in one piece.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // Of a multiplicative hash the upper bits are the good ones.
    let noise = |place: usize| ((place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u8;
    (0..PERIOD + PIECE_MAX_BYTES).map(|place| noise(place % PERIOD)).collect()
});

/// What a stream has from `place` on.
pub fn piece(place: u64, len: usize) -> &'static [u8] {
    let start = (place % PERIOD as u64) as usize;
    &PATTERN[start..start + len]
}

/// Where `found` is not what the stream has from `place` on: the first wrong place.
pub fn first_difference(place: u64, found: &[u8]) -> Option<u64> {
    let mut place = place;
    for part in found.chunks(PIECE_MAX_BYTES) {
        let expected = piece(place, part.len());
        if part != expected {
            let at = part.iter().zip(expected).position(|(found, expected)| found != expected);
            return at.map(|at| place + at as u64);
        }
        place += part.len() as u64;
    }
    None
}
