//! Promise: whatever bytes come, a server that frames them gives its handler exactly the frames that are in them, or
//! ends that connection; nothing else is touched.
//!
//! A server on a thread of its own has a listener for each codec. Peers send lengths that are too long, negative or
//! all ones, and plain noise, in pieces of any size. What comes back is compared with what the same codec makes of
//! the same bytes in one piece. Behind each attack the same listener frames an honest stream.

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
const CODECS: usize = 20;

/// The codecs that are attacked: every width, both orders, each way to count.
#[derive(Clone)]
enum Codec {
    Prefixed(LengthPrefixed),
    Delimited(Delimited),
}

impl Codec {
    fn all() -> Vec<Codec> {
        let prefixed = LengthPrefixed::new(MAX_LEN);
        let widths = [Width::U8, Width::U16, Width::U24, Width::U32, Width::U64];
        let plain = widths.map(|width| prefixed.width(width));
        let swapped = widths.map(|width| prefixed.width(width).little_endian());
        let counting = [
            prefixed.length_includes_header(true),
            prefixed.width(Width::U64).length_includes_header(true).little_endian(),
            prefixed.length_offset(3).width(Width::U16),
            prefixed.length_offset(1).adjustment(-4),
            prefixed.width(Width::U64).adjustment(i64::MIN),
            prefixed.width(Width::U64).adjustment(i64::MAX),
            prefixed.width(Width::U24).adjustment(6),
        ];
        let prefixed = plain.into_iter().chain(swapped).chain(counting).map(Codec::Prefixed);
        let delimited =
            [Delimited::lines(MAX_LEN), Delimited::new(b"\r\n", MAX_LEN), Delimited::new(b"--x--", MAX_LEN)];
        let all: Vec<_> = prefixed.chain(delimited.map(Codec::Delimited)).collect();
        assert_eq!(all.len(), CODECS);
        all
    }

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
    for number in 0..CODECS {
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

/// Noise, or noise behind something that looks like the beginning of a frame, or runs of one byte.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
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
    prop_oneof![noise(), small_numbers, run, lengths]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_pieces_are_framed_as_they_are_in_one(
        number in 0..CODECS, bytes in hostile(), sizes in prop::collection::vec(1..2000_usize, 1..6),
    ) {
        attack(number, &bytes, &sizes);
    }
}
