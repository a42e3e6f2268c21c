//! The sum behind a frame that shows damage.
//!
//! TCP's own checksum has 16 bits and ends where a proxy or a network card takes the segment apart; a frame that
//! carries its own is guarded from the program that wrote it to the program that reads it. The sum covers the header as
//! well, because a damaged length or type is worse than a damaged payload.
//!
//! The codec knows only the shape of the function. So the arithmetic is an optional dependency (feature `crc32c`), and
//! everything around it is the same code with and without.

use super::FrameError;
use super::field::Field;

/// A function that continues a sum, which begins with zero, over more bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checksum(pub(super) fn(u32, &[u8]) -> u32);

impl Checksum {
    #[cfg(feature = "crc32c")]
    pub const CRC32C: Checksum = Checksum(crc32c::crc32c_append);

    /// Of a sum on the wire.
    pub const BYTES: usize = 4;

    /// What follows a frame that has these parts, one behind the other.
    pub fn trailer(self, parts: &[&[u8]]) -> Field {
        let Checksum(extend) = self;
        Field::new(&parts.iter().fold(0, |sum, part| extend(sum, part)).to_le_bytes())
    }

    /// Holds a frame against the sum in its last bytes.
    ///
    /// # Panics
    /// When the frame is shorter than a sum.
    pub fn verify(self, frame: &[u8]) -> Result<(), FrameError> {
        let Checksum(extend) = self;
        let (covered, sum) = frame.split_last_chunk().expect("a frame with a checksum has its trailer");
        let (computed, carried) = (extend(0, covered), u32::from_le_bytes(*sum));
        if computed == carried { Ok(()) } else { Err(FrameError::Checksum { computed, carried }) }
    }
}

#[cfg(any(test, fuzzing))]
impl Checksum {
    /// Stands in for CRC32C where the feature is off.
    pub const TOY: Checksum =
        Checksum(|sum, bytes| bytes.iter().fold(sum, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_over_parts_is_the_sum_over_the_whole() {
        assert_eq!(Checksum::TOY.trailer(&[b"who", b"", b"le"]), Checksum::TOY.trailer(&[b"whole"]));
    }

    #[test]
    fn a_damaged_frame_is_told_with_both_sums() {
        let mut frame = b"frame".to_vec();
        frame.extend_from_slice(&Checksum::TOY.trailer(&[b"frame"]));
        assert_eq!(Checksum::TOY.verify(&frame), Ok(()));
        let sum = Checksum::TOY.0(0, b"frame");
        frame[4] ^= 1;
        assert_eq!(Checksum::TOY.verify(&frame), Err(FrameError::Checksum { computed: sum ^ 1, carried: sum }));
    }

    #[cfg(feature = "crc32c")]
    #[test]
    fn crc32c_is_that_of_rfc_3720_lowest_byte_first() {
        // The examples of its appendix B.4, in the order of the bytes on the wire.
        let ascending: Vec<u8> = (0..32).collect();
        let trailer = |bytes: &[u8]| Checksum::CRC32C.trailer(&[bytes]).to_vec();
        assert_eq!(trailer(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(trailer(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        assert_eq!(trailer(&ascending), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[cfg(feature = "crc32c")]
    #[test]
    fn no_single_flipped_bit_passes_crc32c() {
        let mut frame = b"a frame of a few bytes".to_vec();
        frame.extend_from_slice(&Checksum::CRC32C.trailer(&[&frame]));
        assert_eq!(Checksum::CRC32C.verify(&frame), Ok(()));
        for bit in 0..8 * frame.len() {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(Checksum::CRC32C.verify(&frame).is_err(), "bit {bit} was flipped unseen");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
