//! Promise: whatever bytes come, a server that frames them gives its handler exactly the frames that are in them, or
//! ends that connection; nothing else is touched.
//!
//! A server on a thread of its own has a listener for each codec. Peers send lengths that are too long, negative or
//! all ones, plain noise, and frames with a damaged byte, in pieces of any size. What comes back is compared with what
//! the same codec makes of the same bytes in one piece. The server is a thread here, because the example `frames`
//! speaks only some of these codecs; what those meet is in `tests/hostile_frames_are_answered_or_end.rs`.

mod support;

use bytes::BytesMut;
use plimsoll::codec::{Delimited, Frame, FrameError, LengthPrefixed, Width};
use plimsoll::{Ctx, Handler, Reactor};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::LazyLock;
use std::sync::mpsc::channel;
use std::thread;
use support::{address_of, peer};

const MAX_LEN: usize = 1000;

/// Length of `Codec::all`.
const CODECS: usize = if cfg!(feature = "crc32c") { 24 } else { 21 };

/// The first of them are also those of the example.
const OF_THE_EXAMPLE: usize = 9;

/// The codecs that are attacked: every width, both orders, each way to count, with sums behind the frames.
#[derive(Clone)]
enum Codec {
    /// With the bytes before its length.
    Prefixed(LengthPrefixed, &'static [u8]),
    /// With a trailer of the test's own: the codec takes it for the end of the payload.
    Summed(LengthPrefixed),
    /// With its delimiter.
    Delimited(Delimited, &'static [u8]),
}

const SUM_BYTES: usize = 4;

/// What stands behind the payload in a [`Codec::Summed`].
fn sum_of(payload: &[u8]) -> [u8; SUM_BYTES] {
    payload.iter().fold(1, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte))).to_be_bytes()
}

/// The frame, if its sum is right.
fn verified(frame: Frame<'_>) -> Result<Frame<'_>, FrameError> {
    let (payload, sum) = frame.split_last_chunk().expect("the adjustment makes room for a sum");
    let (computed, carried) = (u32::from_be_bytes(sum_of(payload)), u32::from_be_bytes(*sum));
    if computed == carried { Ok(frame) } else { Err(FrameError::Checksum { computed, carried }) }
}

impl Codec {
    fn all() -> Vec<Codec> {
        let prefixed = LengthPrefixed::new(MAX_LEN);
        let widths = [Width::U8, Width::U16, Width::U24, Width::U32, Width::U64];
        let plain = widths.map(|width| prefixed.width(width));
        // Of one byte there is no order.
        let swapped = plain.into_iter().skip(1).map(LengthPrefixed::little_endian);
        let of_the_example = plain.into_iter().chain(swapped).map(|codec| Codec::Prefixed(codec, b""));
        let counting = [
            Codec::Prefixed(prefixed.length_includes_header(true), b""),
            Codec::Prefixed(prefixed.width(Width::U64).length_includes_header(true).little_endian(), b""),
            Codec::Prefixed(prefixed.length_offset(3).width(Width::U16), b"abc"),
            Codec::Prefixed(prefixed.length_offset(1).adjustment(-4), b"t"),
            Codec::Prefixed(prefixed.width(Width::U64).adjustment(i64::MIN), b""),
            Codec::Prefixed(prefixed.width(Width::U64).adjustment(i64::MAX), b""),
            Codec::Prefixed(prefixed.width(Width::U24).adjustment(6), b""),
            #[cfg(feature = "crc32c")]
            Codec::Prefixed(prefixed.checksum(), b""),
            #[cfg(feature = "crc32c")]
            Codec::Prefixed(prefixed.width(Width::U8).checksum(), b""),
            #[cfg(feature = "crc32c")]
            Codec::Prefixed(prefixed.width(Width::U24).length_offset(2).length_includes_header(true).checksum(), b"12"),
            Codec::Summed(prefixed.adjustment(SUM_BYTES as i64)),
            Codec::Summed(prefixed.width(Width::U16).little_endian().adjustment(SUM_BYTES as i64)),
            Codec::Delimited(Delimited::lines(MAX_LEN), b"\n"),
            Codec::Delimited(Delimited::new(b"\r\n", MAX_LEN), b"\r\n"),
            Codec::Delimited(Delimited::new(b"--x--", MAX_LEN), b"--x--"),
        ];
        let all: Vec<_> = of_the_example.chain(counting).collect();
        assert_eq!(all.len(), CODECS);
        all
    }

    fn decode<'b>(&mut self, input: &'b mut BytesMut) -> Result<Option<Frame<'b>>, FrameError> {
        match self {
            Codec::Prefixed(codec, _) => codec.decode(input),
            Codec::Summed(codec) => codec.decode(input)?.map(verified).transpose(),
            Codec::Delimited(codec, _) => codec.decode(input),
        }
    }

    fn finish<'b>(&mut self, input: &'b mut BytesMut) -> Result<Option<Frame<'b>>, FrameError> {
        match self {
            Codec::Prefixed(codec, _) => codec.finish(input),
            Codec::Summed(codec) => codec.finish(input)?.map(verified).transpose(),
            Codec::Delimited(codec, _) => codec.finish(input),
        }
    }

    /// The payload in its frame; nothing if none of this codec's has room for it.
    fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let mut wire = BytesMut::new();
        match self {
            Codec::Prefixed(codec, before) => drop(codec.encode_with(before, payload, &mut wire)),
            Codec::Summed(codec) => drop(codec.encode(&[payload, &sum_of(payload)].concat(), &mut wire)),
            Codec::Delimited(_, delimiter) => wire.extend([payload, delimiter].concat()),
        }
        wire.to_vec()
    }
}

/// Each frame as an answer: its length, and then its payload.
fn answer(frame: &Frame<'_>) -> Vec<u8> {
    let mut answer = (frame.len() as u32).to_be_bytes().to_vec();
    answer.extend_from_slice(frame);
    answer
}

/// What is said where the stream is no stream of frames: longer than any answer.
const NOT_FRAMES: [u8; 4] = [0xff; 4];

struct Framing(Codec);

impl Handler for Framing {
    fn on_data(&mut self, ctx: &mut Ctx<'_>, input: &mut BytesMut) {
        loop {
            match self.0.decode(input) {
                Ok(Some(frame)) => drop(ctx.send(answer(&frame))),
                Ok(None) => return,
                Err(_) => {
                    ctx.send(&NOT_FRAMES);
                    return ctx.close();
                }
            }
        }
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_>, input: &mut BytesMut) {
        loop {
            match self.0.finish(input) {
                Ok(Some(frame)) => drop(ctx.send(answer(&frame))),
                Ok(None) => break,
                Err(_) => {
                    ctx.send(&NOT_FRAMES);
                    break;
                }
            }
        }
        ctx.shutdown();
    }
}

/// What a peer of the server is to get for these bytes.
fn expected(mut codec: Codec, bytes: &[u8]) -> Vec<u8> {
    let mut input = BytesMut::from(bytes);
    let mut expected = Vec::new();
    let mut ended = false;
    loop {
        let frame = if ended { codec.finish(&mut input) } else { codec.decode(&mut input) };
        match frame {
            Ok(Some(frame)) => expected.extend(answer(&frame)),
            Ok(None) if ended => return expected,
            Ok(None) => ended = true,
            Err(_) => {
                expected.extend(NOT_FRAMES);
                return expected;
            }
        }
    }
}

/// One server for all cases, and where each codec listens. It lives as long as the test.
static SERVER: LazyLock<Vec<SocketAddr>> = LazyLock::new(|| {
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut reactor = Reactor::new(()).expect("a reactor");
        let listen = |codec: Codec| {
            let listener = reactor.net.listen("127.0.0.1:0", move |_, _| Some(Framing(codec.clone())));
            address_of(&reactor, listener.expect("it listens"))
        };
        tell.send(Codec::all().into_iter().map(listen).collect()).expect("the test waits");
        reactor.run().expect("the loop runs");
    });
    told.recv().expect("it starts")
});

/// Sends in pieces of these sizes, and reads all that comes.
fn exchange(address: SocketAddr, bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut stream = peer(address);
    let mut reader = stream.try_clone().expect("a second handle");
    let read = thread::spawn(move || {
        let mut all = Vec::new();
        // Who sends more behind what ends the connection may find its end cut off; what was said before is here.
        let _ = reader.read_to_end(&mut all);
        all
    });
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (piece, behind) = rest.split_at((*size).min(rest.len()));
        // It may have been closed: then what comes back says why.
        if stream.write_all(piece).is_err() || behind.is_empty() {
            break;
        }
        rest = behind;
    }
    let _ = stream.shutdown(Shutdown::Write);
    read.join().expect("all is read")
}

fn attack(number: usize, bytes: &[u8], sizes: &[usize]) {
    let address = SERVER[number];
    let codec = &Codec::all()[number];
    let answered = exchange(address, bytes, sizes);
    let expected = expected(codec.clone(), bytes);
    assert!(answered == expected, "codec {number}: {} bytes, not {}", answered.len(), expected.len());
}

#[test]
fn lengths_that_are_too_long_negative_or_all_ones_end_one_connection() {
    for number in OF_THE_EXAMPLE..CODECS {
        for first in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            for then in [0x00, 0x7f, 0xff] {
                for len in [1, 2, 4, 8, 9, 2 * MAX_LEN] {
                    let mut bytes = vec![then; len];
                    bytes[0] = first;
                    attack(number, &bytes, &[len]);
                }
            }
        }
        attack(number, &[], &[1]);
    }
}

/// Noise, or noise behind something that looks like the beginning of a frame, or runs of one byte, or the frames of
/// one codec, as they should be or with a damaged byte.
fn hostile(number: usize) -> impl Strategy<Value = Vec<u8>> {
    let noise = || prop::collection::vec(any::<u8>(), 0..3000);
    let small_numbers = prop::collection::vec(prop::sample::select(&b"\0\0\0\x01\x02\x05\n\r-x"[..]), 0..3000);
    let run = (any::<u8>(), 0..100_000_usize).prop_map(|(byte, len)| vec![byte; len]);
    let lengths = prop::collection::vec((0..2000_u64, 0..8_usize, noise()), 1..5).prop_map(|frames| {
        let mut bytes = Vec::new();
        for (number, skipped, noise) in frames {
            bytes.extend_from_slice(&number.to_be_bytes()[skipped..]);
            bytes.extend(noise);
        }
        bytes
    });
    let payloads = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8);
    let damage = prop::option::of((any::<prop::sample::Index>(), 1..=u8::MAX));
    let frames = (payloads, damage).prop_map(move |(payloads, damage)| {
        let codec = &Codec::all()[number];
        let mut bytes: Vec<u8> = payloads.iter().flat_map(|payload| codec.encode(payload)).collect();
        if let Some((at, flipped)) = damage.filter(|_| !bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] ^= flipped;
        }
        bytes
    });
    prop_oneof![noise(), small_numbers, run, lengths, frames.clone(), frames]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_pieces_are_framed_as_they_are_in_one(
        (number, bytes) in (0..CODECS).prop_flat_map(|number| (Just(number), hostile(number))),
        sizes in prop::collection::vec(1..2000_usize, 1..6),
    ) {
        attack(number, &bytes, &sizes);
    }
}
