//! Numbers of a few bytes, in front of a frame or behind it.
//!
//! Protocols write lengths in one to eight bytes, three included, in either order. All of them fit a `u64`, so the rest
//! of the codec knows one kind of number, and only here is it taken from bytes and laid out as bytes:
//!
//! ```text
//!   300 in three bytes    big-endian     00 01 2c     first byte highest: network order
//!                         little-endian  2c 01 00     first byte lowest
//! ```

use std::fmt;
use std::ops::Deref;

/// How many bytes a length field has.
///
/// ```
/// use plimsoll::codec::{LengthPrefixed, Width};
///
/// let header = |width| LengthPrefixed::new(100).width(width).header(7).map(|field| field.to_vec());
/// assert_eq!(header(Width::U8)?, [7]);
/// assert_eq!(header(Width::U24)?, [0, 0, 7]);
/// # Ok::<(), plimsoll::codec::FrameError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Width {
    /// One byte: lengths to 255.
    U8,
    /// Two bytes: lengths to 65,535.
    U16,
    /// Three bytes: lengths to 16,777,215.
    U24,
    /// Four bytes: lengths to 4,294,967,295.
    U32,
    /// Eight bytes.
    U64,
}

impl Width {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Width::U8 => 1,
            Width::U16 => 2,
            Width::U24 => 3,
            Width::U32 => 4,
            Width::U64 => 8,
        }
    }

    /// The largest number that fits.
    pub(super) const fn max(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    /// The number in the first bytes of `field`, which has no fewer.
    #[inline]
    pub(super) fn read(self, field: &[u8], little_endian: bool) -> u64 {
        let bytes = field[..self.bytes()].iter();
        let append = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if little_endian { bytes.rfold(0, append) } else { bytes.fold(0, append) }
    }

    /// `number`, which must fit.
    pub(super) fn write(self, number: u64, little_endian: bool) -> Field {
        debug_assert!(number <= self.max(), "a number that is written fits its field");
        if little_endian {
            Field::new(&number.to_le_bytes()[..self.bytes()])
        } else {
            Field::new(&number.to_be_bytes()[8 - self.bytes()..])
        }
    }
}

/// A length field or a checksum, ready to be sent: at most eight bytes, kept in place.
///
/// ```
/// use bytes::BytesMut;
/// use plimsoll::codec::LengthPrefixed;
///
/// let frames = LengthPrefixed::new(1024);
/// let payload = [&b"a payload "[..], b"of two pieces"];
/// let header = frames.header(payload.iter().map(|piece| piece.len()).sum())?;
///
/// let mut wire = BytesMut::new();
/// wire.extend_from_slice(&header);
/// payload.iter().for_each(|piece| wire.extend_from_slice(piece));
/// wire.extend_from_slice(&frames.trailer(&[&header, payload[0], payload[1]]));
/// assert_eq!(frames.decode(&mut wire)?.as_deref(), Some(&b"a payload of two pieces"[..]));
/// # Ok::<(), plimsoll::codec::FrameError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Those at and behind `len` are zero.
    bytes: [u8; 8],
    len: u8,
}

impl Field {
    pub(super) const EMPTY: Field = Field { bytes: [0; 8], len: 0 };

    /// Of at most eight bytes.
    pub(super) fn new(field: &[u8]) -> Field {
        let mut bytes = [0; 8];
        bytes[..field.len()].copy_from_slice(field);
        Field { bytes, len: field.len() as u8 }
    }
}

impl Deref for Field {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for Field {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({:02x?})", &self[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDTHS: [Width; 5] = [Width::U8, Width::U16, Width::U24, Width::U32, Width::U64];

    #[test]
    fn the_byte_order_is_that_of_the_name() {
        assert_eq!(&Width::U24.write(300, false)[..], [0, 1, 44]);
        assert_eq!(&Width::U24.write(300, true)[..], [44, 1, 0]);
        assert_eq!(format!("{:?}", Width::U24.write(300, true)), "Field([2c, 01, 00])");
    }

    #[test]
    fn the_largest_number_of_a_width_has_all_bits_set() {
        for width in WIDTHS {
            for little_endian in [false, true] {
                let field = width.write(width.max(), little_endian);
                assert_eq!(&field[..], vec![0xff; width.bytes()]);
                assert_eq!(width.read(&field, little_endian), width.max());
            }
        }
    }

    proptest! {
        #[test]
        fn a_number_that_was_written_is_read_again(
            number: u64, little_endian: bool, width in prop::sample::select(&WIDTHS[..]),
        ) {
            let number = number & width.max();
            let field = width.write(number, little_endian);
            prop_assert_eq!(field.len(), width.bytes());
            prop_assert_eq!(width.read(&field, little_endian), number);
        }
    }
}
