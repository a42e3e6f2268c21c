//! Frames that begin with their length.
//!
//! ```text
//!  ╭────────────── header ─────────────╮
//!  ┌───────────────┬───────────────────┬──────────────────────────┬───────────────┐
//!  │ length_offset │  length field     │  payload                 │ CRC32C        │
//!  │ 0…255 bytes   │  1, 2, 3, 4 or 8  │  ≤ max_len bytes         │ 0 or 4 bytes  │
//!  └───────────────┴───────────────────┴──────────────────────────┴───────────────┘
//!   yours to read    payload length, unless told:                   of everything
//!   and to write     + header  if length_includes_header            before it,
//!                    − adjustment                                   little-endian
//! ```
//!
//! The one problem is the number: it comes from a peer who may be broken, hostile, or speaking another protocol. It may
//! be zero, all ones, less than the header it claims to count, or more than this machine can address. So the sum is
//! done in 128 bits, where no 64-bit field and no 64-bit adjustment can overflow, and its outcome is compared with the
//! limit before it becomes a `usize`.
//!
//! The codec has no memory. The header stands at the front of the buffer until the whole frame is there, and reading
//! eight bytes anew costs less than keeping track of them; so one constant serves every connection.

use super::checksum::Checksum;
use super::field::{Field, Width};
use super::{Cut, Frame, FrameError};
use bytes::{BufMut, BytesMut};

/// Cuts a stream into frames that begin with their length, and builds such frames.
///
/// As made by [`new`](LengthPrefixed::new) the header is four bytes in network order that count the payload. The other
/// methods that take and return `self` describe other headers. Some that are spoken:
///
/// | protocol | codec | the frame then is |
/// |---|---|---|
/// | DNS over TCP | `.width(U16)` | the message |
/// | gRPC message | `.length_offset(1)` | the message; `header()[0]` says if it is compressed |
/// | TLS record | `.length_offset(3).width(U16)` | the fragment |
/// | PostgreSQL | `.length_offset(1).adjustment(-4)` | the body; the length counts itself, not the type before it |
/// | MongoDB | `.little_endian().length_includes_header(true)` | the rest of the message |
/// | BGP | `.length_offset(16).width(U16).length_includes_header(true)` | type, then the message |
/// | HTTP/2 | `.width(U24).adjustment(6)` | six more bytes of header, then the payload |
/// | MySQL | `.width(U24).little_endian().adjustment(1)` | sequence number, then the packet |
///
/// Nothing is remembered between calls: a constant may serve all connections, in both directions.
///
/// ```
/// use bytes::BytesMut;
/// use plimsoll::codec::{LengthPrefixed, Width};
///
/// const FRAMES: LengthPrefixed = LengthPrefixed::new(16 * 1024).width(Width::U16);
///
/// let mut wire = BytesMut::new();
/// FRAMES.encode(b"hello", &mut wire)?;
/// FRAMES.encode(b"", &mut wire)?;
/// assert_eq!(&wire[..], b"\0\x05hello\0\0");
///
/// let mut count = 0;
/// while let Some(frame) = FRAMES.decode(&mut wire)? {
///     count += 1;
///     println!("{:?}", &frame[..]);
/// }
/// assert_eq!(count, 2);
/// # Ok::<(), plimsoll::codec::FrameError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LengthPrefixed {
    /// At most [`LARGEST_PAYLOAD`].
    max_len: usize,
    adjustment: i64,
    /// `None` if there is no trailer.
    checksum: Option<Checksum>,
    width: Width,
    length_offset: u8,
    little_endian: bool,
    includes_header: bool,
}

/// No slice is longer. A limit above it means the same, and below it a sum with a header and a trailer fits `usize`.
const LARGEST_PAYLOAD: usize = isize::MAX as usize;

impl LengthPrefixed {
    /// Frames with at most `max_len` bytes of payload behind a length of four bytes, big-endian, that counts them.
    pub const fn new(max_len: usize) -> LengthPrefixed {
        let max_len = if max_len < LARGEST_PAYLOAD { max_len } else { LARGEST_PAYLOAD };
        LengthPrefixed {
            max_len,
            adjustment: 0,
            checksum: None,
            width: Width::U32,
            length_offset: 0,
            little_endian: false,
            includes_header: false,
        }
    }

    /// The length field has `width` bytes instead of four.
    pub const fn width(self, width: Width) -> LengthPrefixed {
        LengthPrefixed { width, ..self }
    }

    /// The length field has its lowest byte first.
    pub const fn little_endian(self) -> LengthPrefixed {
        LengthPrefixed { little_endian: true, ..self }
    }

    /// Whether the length counts the header too: the length field and the bytes before it. A trailer it never counts.
    pub const fn length_includes_header(self, includes_header: bool) -> LengthPrefixed {
        LengthPrefixed { includes_header, ..self }
    }

    /// The payload has `bytes` more than the length says (fewer, if negative). For a length that leaves out what
    /// follows it, or that counts what is no payload, such as a part of the header or the checksum.
    pub const fn adjustment(self, bytes: i64) -> LengthPrefixed {
        LengthPrefixed { adjustment: bytes, ..self }
    }

    /// The length field stands behind `bytes` others: a type, a version, a marker. [`Frame::header`] shows them, and
    /// [`encode_with`](LengthPrefixed::encode_with) writes them.
    pub const fn length_offset(self, bytes: u8) -> LengthPrefixed {
        LengthPrefixed { length_offset: bytes, ..self }
    }

    /// Four bytes follow each payload: the CRC32C (Castagnoli) of header and payload, lowest byte first whatever the
    /// order of the length, as in [RFC 3720](https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4). The length does
    /// not count them. Needs the feature `crc32c`.
    ///
    /// It finds damage by accident, not forgery.
    ///
    /// ```
    /// use bytes::BytesMut;
    /// use plimsoll::codec::{FrameError, LengthPrefixed};
    ///
    /// const FRAMES: LengthPrefixed = LengthPrefixed::new(1024).checksum();
    /// let mut wire = BytesMut::new();
    /// FRAMES.encode(b"hello", &mut wire)?;
    /// wire[4] = b'j';
    /// assert!(matches!(FRAMES.decode(&mut wire), Err(FrameError::Checksum { .. })));
    /// # Ok::<(), FrameError>(())
    /// ```
    #[cfg(feature = "crc32c")]
    pub const fn checksum(self) -> LengthPrefixed {
        LengthPrefixed { checksum: Some(Checksum::CRC32C), ..self }
    }

    /// The next frame, or `None` until more bytes have come.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] and [`FrameError::TooShort`] as soon as the length field is there, and
    /// [`FrameError::Checksum`] once the whole frame is. The buffer stays as it is.
    #[inline]
    pub fn decode<'b>(&self, buffer: &'b mut BytesMut) -> Result<Option<Frame<'b>>, FrameError> {
        Ok(self.cut(buffer)?.map(|cut| Frame::new(buffer, cut)))
    }

    /// What [`decode`](LengthPrefixed::decode) gives, for the end of the stream: a part of a frame is an error now.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], and those of `decode`.
    pub fn finish<'b>(&self, buffer: &'b mut BytesMut) -> Result<Option<Frame<'b>>, FrameError> {
        let cut = self.cut(buffer)?;
        if cut.is_none() && !buffer.is_empty() {
            return Err(FrameError::Truncated { have: buffer.len(), need: self.wanted(buffer) });
        }
        Ok(cut.map(|cut| Frame::new(buffer, cut)))
    }

    /// How many bytes `buffer` has to hold, counted from its front, before `decode` can say more than it can now: the
    /// header's, and with that in hand the frame's. No more than it holds already if `decode` has an answer.
    ///
    /// Told to the reactor (`Net::want`), it saves the calls that could only say `None`. Whatever the peer names, it is
    /// at most the limit, header and trailer together.
    ///
    /// ```
    /// use bytes::BytesMut;
    /// use plimsoll::codec::LengthPrefixed;
    ///
    /// let frames = LengthPrefixed::new(1024);
    /// let mut input = BytesMut::from(&[0, 0][..]);
    /// assert_eq!(frames.wanted(&input), 4);
    /// input.extend_from_slice(&[1, 0]);
    /// assert_eq!(frames.wanted(&input), 4 + 256);
    /// ```
    pub fn wanted(&self, buffer: &[u8]) -> usize {
        self.frame_bytes(buffer).unwrap_or(self.header_bytes())
    }

    /// Appends a frame to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when the payload is over the limit, or its length does not fit the field, and
    /// [`FrameError::TooShort`] when a positive adjustment promises more bytes than it has. `out` stays as it is.
    ///
    /// # Panics
    /// When the codec has a [`length_offset`](LengthPrefixed::length_offset): see
    /// [`encode_with`](LengthPrefixed::encode_with).
    pub fn encode(&self, payload: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
        self.encode_with(&[], payload, out)
    }

    /// Appends a frame whose length field stands behind the bytes `before`.
    ///
    /// ```
    /// use bytes::BytesMut;
    /// use plimsoll::codec::LengthPrefixed;
    ///
    /// // PostgreSQL: a type, then a length that counts itself and the body.
    /// let messages = LengthPrefixed::new(1 << 20).length_offset(1).adjustment(-4);
    /// let mut wire = BytesMut::new();
    /// messages.encode_with(b"Q", b"select 1\0", &mut wire)?;
    /// assert_eq!(&wire[..], b"Q\0\0\0\x0dselect 1\0");
    /// # Ok::<(), plimsoll::codec::FrameError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`encode`](LengthPrefixed::encode).
    ///
    /// # Panics
    /// When `before` has not as many bytes as the codec's [`length_offset`](LengthPrefixed::length_offset).
    pub fn encode_with(&self, before: &[u8], payload: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
        assert!(before.len() == usize::from(self.length_offset), "the bytes before the length fill its offset");
        let header = self.header(payload.len())?;
        let trailer = self.trailer(&[before, &header, payload]);
        out.reserve(before.len() + header.len() + payload.len() + trailer.len());
        for part in [before, &header, payload, &trailer] {
            out.put_slice(part);
        }
        Ok(())
    }

    /// The length field of a frame whose payload has `payload_len` bytes, for a caller that sends the parts of a
    /// frame one by one, and so spares the copy of the payload.
    ///
    /// ```
    /// use plimsoll::codec::LengthPrefixed;
    ///
    /// let header = LengthPrefixed::new(1024).header(300)?;
    /// assert_eq!(&header[..], [0, 0, 1, 44]);
    /// # Ok::<(), plimsoll::codec::FrameError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`encode`](LengthPrefixed::encode).
    pub fn header(&self, payload_len: usize) -> Result<Field, FrameError> {
        let named = payload_len as i128 - self.correction();
        if named < 0 {
            return Err(FrameError::TooShort { length: payload_len as u64, least: saturate(self.correction()) });
        }
        let limit = (self.max_len as i128).min(i128::from(self.width.max()) + self.correction());
        match u64::try_from(named) {
            Ok(named) if payload_len as i128 <= limit => Ok(self.width.write(named, self.little_endian)),
            _ => Err(FrameError::TooLong { length: payload_len as u64, limit: saturate(limit) }),
        }
    }

    /// What follows the payload of a frame whose bytes up to there are `parts`, one behind the other. Empty if the
    /// codec has no checksum.
    pub fn trailer(&self, parts: &[&[u8]]) -> Field {
        self.checksum.map_or(Field::EMPTY, |checksum| checksum.trailer(parts))
    }

    #[inline]
    fn cut(&self, buffer: &[u8]) -> Result<Option<Cut>, FrameError> {
        let whole = self.frame_bytes(buffer)?;
        let Some(frame) = buffer.get(..whole) else { return Ok(None) };
        let payload = self.header_bytes()..whole - self.trailer_bytes();
        if let Some(checksum) = self.checksum {
            checksum.verify(frame)?;
        }
        Ok(Some(Cut { payload, whole }))
    }

    /// The bytes of the frame that begins `buffer`, or of its header if that is not whole yet.
    #[inline]
    fn frame_bytes(&self, buffer: &[u8]) -> Result<usize, FrameError> {
        let header_bytes = self.header_bytes();
        let Some(header) = buffer.get(..header_bytes) else { return Ok(header_bytes) };
        let field = &header[usize::from(self.length_offset)..];
        let payload_len = self.payload_len(self.width.read(field, self.little_endian))?;
        Ok(header_bytes + payload_len + self.trailer_bytes())
    }

    #[inline]
    fn payload_len(&self, named: u64) -> Result<usize, FrameError> {
        let length = i128::from(named) + self.correction();
        if length < 0 {
            return Err(FrameError::TooShort { length: named, least: saturate(-self.correction()) });
        }
        match usize::try_from(length) {
            Ok(length) if length <= self.max_len => Ok(length),
            _ => Err(FrameError::TooLong { length: saturate(length), limit: self.max_len as u64 }),
        }
    }

    /// Payload length less named length. In 128 bits, where neither it nor its sum with a length can overflow.
    #[inline]
    fn correction(&self) -> i128 {
        let counted = if self.includes_header { self.header_bytes() } else { 0 };
        i128::from(self.adjustment) - counted as i128
    }

    #[inline]
    fn header_bytes(&self) -> usize {
        usize::from(self.length_offset) + self.width.bytes()
    }

    #[inline]
    fn trailer_bytes(&self) -> usize {
        if self.checksum.is_some() { Checksum::BYTES } else { 0 }
    }
}

/// For the text of an error: the nearest number that fits.
fn saturate(number: i128) -> u64 {
    number.clamp(0, i128::from(u64::MAX)) as u64
}

#[cfg(any(test, fuzzing))]
impl LengthPrefixed {
    /// A trailer like that of `checksum`, which needs no feature.
    pub(crate) const fn toy_checksum(self) -> LengthPrefixed {
        LengthPrefixed { checksum: Some(Checksum::TOY), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pieces;
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    type Outcome = (Vec<Vec<u8>>, Option<FrameError>);

    /// Feeds a stream cut into pieces, then ends it.
    fn decode_pieces<'a>(codec: LengthPrefixed, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut input = BytesMut::new();
        let mut frames = Vec::new();
        let feed = || {
            for piece in pieces {
                input.extend_from_slice(piece);
                while let Some(frame) = codec.decode(&mut input)? {
                    frames.push(frame.to_vec());
                }
            }
            assert!(codec.finish(&mut input)?.is_none(), "every whole frame has been decoded");
            assert!(input.is_empty(), "a stream that ends well is used up");
            Ok(())
        };
        let error = feed().err();
        (frames, error)
    }

    fn decode_one(codec: LengthPrefixed, wire: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        codec.decode(&mut BytesMut::from(wire)).map(|frame| frame.map(|frame| frame.to_vec()))
    }

    #[test]
    fn frames_of_known_protocols_are_cut_as_the_table_says() {
        let plain = LengthPrefixed::new(64);
        let cases: [(LengthPrefixed, &[u8], &[u8]); 8] = [
            (plain.width(Width::U16), b"\0\x03dns", b"dns"),
            (plain.length_offset(1), b"\x01\0\0\0\x04grpc", b"grpc"),
            (plain.length_offset(3).width(Width::U16), b"\x16\x03\x03\0\x03tls", b"tls"),
            (plain.length_offset(1).adjustment(-4), b"Q\0\0\0\x08sql\0", b"sql\0"),
            (plain.little_endian().length_includes_header(true), b"\x09\0\0\0mongo", b"mongo"),
            (
                plain.length_offset(16).width(Width::U16).length_includes_header(true),
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\x13\x04",
                b"\x04",
            ),
            (plain.width(Width::U24).adjustment(6), b"\0\0\x02\x06\x01\0\0\0\0h2", b"\x06\x01\0\0\0\0h2"),
            (plain.width(Width::U24).little_endian().adjustment(1), b"\x05\0\0\x07mysql", b"\x07mysql"),
        ];
        for (codec, wire, payload) in cases {
            assert_eq!(decode_one(codec, wire), Ok(Some(payload.to_vec())), "{codec:?}");
            let mut encoded = BytesMut::new();
            codec.encode_with(&wire[..usize::from(codec.length_offset)], payload, &mut encoded).unwrap();
            assert_eq!(encoded, wire, "{codec:?}");
        }
    }

    #[test]
    fn a_frame_at_the_limit_passes_and_one_byte_more_is_an_error_both_ways() {
        let (codec, wide) = (LengthPrefixed::new(5), LengthPrefixed::new(100));
        let too_long = FrameError::TooLong { length: 6, limit: 5 };
        let mut wire = BytesMut::from("before");
        assert_eq!(codec.encode(b"123456", &mut wire), Err(too_long));
        assert_eq!(wire, "before", "an error appends nothing");

        wire.clear();
        codec.encode(b"12345", &mut wire).unwrap();
        wide.encode(b"123456", &mut wire).unwrap();
        assert_eq!(codec.decode(&mut wire).unwrap().as_deref(), Some(&b"12345"[..]));
        assert_eq!(codec.decode(&mut wire).unwrap_err(), too_long);
        wire.truncate(4);
        assert_eq!(codec.decode(&mut wire).unwrap_err(), too_long, "the header alone settles it");
    }

    #[test]
    fn a_length_that_does_not_fit_its_field_is_too_long_to_encode() {
        let codec = LengthPrefixed::new(1000).width(Width::U8);
        assert_eq!(codec.header(255).as_deref(), Ok(&[255][..]));
        assert_eq!(codec.header(256), Err(FrameError::TooLong { length: 256, limit: 255 }));
        let counts_itself = codec.length_includes_header(true);
        assert_eq!(counts_itself.header(254).as_deref(), Ok(&[255][..]));
        assert_eq!(counts_itself.header(255), Err(FrameError::TooLong { length: 255, limit: 254 }));
    }

    #[test]
    fn a_length_that_does_not_cover_the_header_it_counts_is_too_short() {
        let codec = LengthPrefixed::new(100).length_includes_header(true);
        assert_eq!(decode_one(codec, &[0, 0, 0, 3]), Err(FrameError::TooShort { length: 3, least: 4 }));
        assert_eq!(decode_one(codec, &[0, 0, 0, 4]), Ok(Some(vec![])));
    }

    #[test]
    fn a_payload_without_the_bytes_that_the_adjustment_promises_is_too_short_to_encode() {
        let codec = LengthPrefixed::new(100).adjustment(6);
        assert_eq!(codec.header(5), Err(FrameError::TooShort { length: 5, least: 6 }));
        assert_eq!(codec.header(6).as_deref(), Ok(&[0, 0, 0, 0][..]));
    }

    #[test]
    fn hostile_lengths_are_errors_whatever_is_added_to_them() {
        for max_len in [0, 1, usize::MAX] {
            for adjustment in [i64::MIN, -1, 0, 1, i64::MAX] {
                for (width, counts_header) in [(Width::U64, false), (Width::U64, true), (Width::U32, true)] {
                    let codec = LengthPrefixed::new(max_len).width(width);
                    let codec = codec.adjustment(adjustment).length_includes_header(counts_header);
                    for byte in [0x00, 0x7f, 0x80, 0xff] {
                        let header = vec![byte; width.bytes()];
                        let wanted = codec.wanted(&header);
                        match decode_one(codec, &header) {
                            Err(FrameError::TooLong { .. } | FrameError::TooShort { .. }) => {
                                assert!(wanted <= header.len(), "no byte is wanted for a frame that cannot be");
                            }
                            Ok(None) => assert!(wanted > header.len()),
                            Ok(Some(frame)) => assert_eq!(frame.len(), 0),
                            Err(error) => panic!("{error} for the header of {codec:?}"),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_length_beyond_this_machine_is_named_in_the_error() {
        let codec = LengthPrefixed::new(usize::MAX).width(Width::U64).length_offset(255);
        let mut wire = BytesMut::from(&[0xff; 263][..]);
        let limit = isize::MAX as u64;
        assert_eq!(codec.decode(&mut wire).unwrap_err(), FrameError::TooLong { length: u64::MAX, limit });
        let codec = codec.adjustment(i64::MAX);
        assert_eq!(codec.decode(&mut wire).unwrap_err(), FrameError::TooLong { length: u64::MAX, limit });
    }

    #[test]
    fn the_end_of_the_stream_inside_a_frame_is_an_error() {
        let codec = LengthPrefixed::new(100);
        let finish = |wire: &'static str| codec.finish(&mut BytesMut::from(wire)).map(|frame| frame.is_some());
        assert_eq!(finish(""), Ok(false));
        assert_eq!(finish("\0\0"), Err(FrameError::Truncated { have: 2, need: 4 }));
        assert_eq!(finish("\0\0\0\x03ab"), Err(FrameError::Truncated { have: 6, need: 7 }));
        assert_eq!(finish("\0\0\0\x03abc\0"), Ok(true));
    }

    #[test]
    fn an_error_consumes_nothing_and_is_said_again() {
        let codec = LengthPrefixed::new(100).toy_checksum();
        let mut wire = BytesMut::new();
        codec.encode(b"damaged", &mut wire).unwrap();
        wire[5] ^= 1;
        let damaged = wire.clone();
        let error = codec.decode(&mut wire).unwrap_err();
        assert!(matches!(error, FrameError::Checksum { .. }));
        assert_eq!(codec.decode(&mut wire).unwrap_err(), error);
        assert_eq!(codec.finish(&mut wire).unwrap_err(), error);
        assert_eq!(wire, damaged);
    }

    #[test]
    #[should_panic(expected = "the bytes before the length fill its offset")]
    fn a_frame_without_the_bytes_before_its_length_is_refused() {
        let _ = LengthPrefixed::new(100).length_offset(1).encode(b"", &mut BytesMut::new());
    }

    /// Before the frame is whole only the header is read; then the checksum is the one look at the payload.
    #[test]
    fn a_frame_of_one_mebibyte_fed_byte_by_byte_is_looked_at_once() {
        thread_local!(static SUMMED_BYTES: Cell<usize> = const { Cell::new(0) });
        fn counting_checksum(sum: u32, bytes: &[u8]) -> u32 {
            SUMMED_BYTES.set(SUMMED_BYTES.get() + bytes.len());
            sum
        }
        let len = 1 << 20;
        let codec = LengthPrefixed { checksum: Some(Checksum(counting_checksum)), ..LengthPrefixed::new(len) };
        let mut wire = BytesMut::new();
        codec.encode(&vec![b'x'; len], &mut wire).unwrap();
        SUMMED_BYTES.set(0);

        let mut input = BytesMut::with_capacity(wire.len());
        for byte in &wire[..wire.len() - 1] {
            input.put_u8(*byte);
            assert!(codec.decode(&mut input).unwrap().is_none());
        }
        assert_eq!(SUMMED_BYTES.get(), 0);
        input.put_u8(wire[wire.len() - 1]);
        assert_eq!(codec.decode(&mut input).unwrap().map(|frame| frame.len()), Some(len));
        assert_eq!(SUMMED_BYTES.get(), codec.header_bytes() + len);
    }

    /// Every kind of header, with limits and adjustments small enough for all outcomes to be met.
    fn any_codec() -> impl Strategy<Value = LengthPrefixed> {
        let width = prop::sample::select(vec![Width::U8, Width::U16, Width::U24, Width::U32, Width::U64]);
        let checksum = prop::option::of(Just(Checksum::TOY));
        let adjustment = prop_oneof![4 => Just(0), 4 => -20..20_i64, 1 => any::<i64>()];
        (0..300_usize, adjustment, checksum, width, 0..4_u8, any::<bool>(), any::<bool>()).prop_map(
            |(max_len, adjustment, checksum, width, length_offset, little_endian, includes_header)| LengthPrefixed {
                max_len,
                adjustment,
                checksum,
                width,
                length_offset,
                little_endian,
                includes_header,
            },
        )
    }

    /// Like what a codec expects: mostly small numbers, whose high bytes are zero.
    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![4 => Just(0), 2 => 0..30_u8, 1 => any::<u8>()], 0..400)
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_from_any_pieces(
            codec in any_codec(),
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..320), 0..8),
            sizes in prop::collection::vec(1..50_usize, 1..8),
        ) {
            let mut wire = BytesMut::new();
            let mut sent = Vec::new();
            for payload in payloads {
                let before = vec![b'>'; usize::from(codec.length_offset)];
                let wire_bytes = wire.len();
                match codec.encode_with(&before, &payload, &mut wire) {
                    Ok(()) => sent.push(payload),
                    Err(_) => prop_assert_eq!(wire.len(), wire_bytes),
                }
            }
            let expected = (sent, None);
            prop_assert_eq!(&decode_pieces(codec, [&wire[..]]), &expected);
            prop_assert_eq!(&decode_pieces(codec, pieces(&wire, &[1])), &expected);
            prop_assert_eq!(&decode_pieces(codec, pieces(&wire, &sizes)), &expected);
        }

        #[test]
        fn any_bytes_in_any_pieces_give_the_same_frames_none_over_the_limit(
            codec in any_codec(), stream in any_stream(), sizes in prop::collection::vec(1..50_usize, 1..8),
        ) {
            let whole = decode_pieces(codec, [&stream[..]]);
            prop_assert!(whole.0.iter().all(|frame| frame.len() <= codec.max_len));
            prop_assert_eq!(&decode_pieces(codec, pieces(&stream, &[1])), &whole);
            prop_assert_eq!(&decode_pieces(codec, pieces(&stream, &sizes)), &whole);
        }

        /// A payload that cannot be encoded could not be decoded either, and the other way round.
        #[test]
        fn the_limits_of_encoding_are_those_of_decoding(codec in any_codec(), payload_len in 0..320_usize) {
            let decodable = match codec.width.max() {
                // Every length the field can hold, if there are few enough to try them all.
                max @ ..=0xffff => (0..=max).any(|named| codec.payload_len(named) == Ok(payload_len)),
                _ => return Ok(()),
            };
            prop_assert_eq!(codec.header(payload_len).is_ok(), decodable);
        }

        #[test]
        fn fewer_bytes_than_wanted_never_change_the_answer(codec in any_codec(), stream in any_stream()) {
            for len in 0..=stream.len() {
                let wanted = codec.wanted(&stream[..len]);
                prop_assert!(wanted <= codec.header_bytes() + codec.max_len + codec.trailer_bytes());
                let answered = !matches!(decode_one(codec, &stream[..len]), Ok(None));
                prop_assert_eq!(answered, wanted <= len);
                if !answered {
                    prop_assert!((len..wanted.min(stream.len())).all(|fewer| codec.wanted(&stream[..fewer]) == wanted));
                }
            }
        }
    }
}
