//! Promise: a server of frames answers every whole frame, and a stream that is something else ends, alone.
//!
//! The server is the example `frames` as it is built, under each of its headers. Peers send lengths that are too long,
//! negative or all ones, noise, halves of frames, wrong sums, nothing but empty frames, and frames that they never
//! finish. What comes back is compared with what the codec finds in the same bytes, and what the log says of them is
//! counted; an ordinary peer is served afterwards, and all descriptors are back.

mod support;

use bytes::BytesMut;
use plimsoll::codec::{LengthPrefixed, Width};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use support::examples::Server;
use support::{Chance, DEADLINE, pattern, peer, reset, stuff};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What a process may grow by whatever happens: its allocator's habits, its tables.
const SLACK_BYTES: usize = 4 * MIB;

const MAX_LEN: usize = 1000;

/// A server under attack, and the codec that says what its peers are to get.
struct Attacked {
    server: Server,
    codec: LengthPrefixed,
    descriptors: usize,
    /// Lines that its log is to have by now.
    complaints: usize,
}

/// One for each header, and with the feature for the same ones followed by a sum.
fn all_attacked() -> Vec<Attacked> {
    let plain = LengthPrefixed::new(MAX_LEN);
    let headers = [
        ("u8", plain.width(Width::U8)),
        ("u16be", plain.width(Width::U16)),
        ("u16le", plain.width(Width::U16).little_endian()),
        ("u24be", plain.width(Width::U24)),
        ("u24le", plain.width(Width::U24).little_endian()),
        ("u32be", plain),
        ("u32le", plain.little_endian()),
        ("u64be", plain.width(Width::U64)),
        ("u64le", plain.width(Width::U64).little_endian()),
    ];
    let all = headers.map(|(header, codec)| Attacked::start(codec, &["--header", header]));
    #[cfg(feature = "crc32c")]
    let all = {
        let summed = |(header, codec): (&str, LengthPrefixed)| {
            Attacked::start(codec.checksum(), &["--trailer", "crc32c", "--header", header])
        };
        all.into_iter().chain(headers.map(summed))
    };
    all.into_iter().collect()
}

impl Attacked {
    fn start(codec: LengthPrefixed, options: &[&str]) -> Attacked {
        let max_frame = MAX_LEN.to_string();
        let server = Server::start("frames", &[&["127.0.0.1:0", "--max-frame", &max_frame], options].concat());
        let descriptors = server.descriptors();
        Attacked { server, codec, descriptors, complaints: 0 }
    }

    /// These payloads, each in its frame.
    fn frames(&self, payloads: &[&[u8]]) -> Vec<u8> {
        let mut wire = BytesMut::new();
        payloads.iter().for_each(|payload| self.codec.encode(payload, &mut wire).expect("within the limit"));
        wire.to_vec()
    }

    /// The whole frames in front of `bytes`; whether something else is behind them.
    fn whole(&self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut input = BytesMut::from(bytes);
        let mut whole = Vec::new();
        loop {
            match self.codec.finish(&mut input) {
                Ok(Some(frame)) => whole.extend_from_slice(frame.whole()),
                Ok(None) => return (whole, false),
                Err(_) => return (whole, true),
            }
        }
    }

    /// The whole frames of the stream come back, in order, and then the end.
    #[track_caller]
    fn exchange(&mut self, bytes: &[u8], sizes: &[usize]) {
        let (expected, bad) = self.whole(bytes);
        let answered = exchange(self.server.ip(), bytes, sizes);
        assert!(answered == expected, "{} bytes, not {}, for {bytes:02x?}", answered.len(), expected.len());
        self.complaints += usize::from(bad);
    }

    /// It has complained of each stream that was none of frames, serves, holds nothing more, and ends in order.
    #[track_caller]
    fn ends_well(mut self) {
        let frames = self.frames(&[b"polite", b"", b"peer"]);
        self.exchange(&frames, &[frames.len()]);
        self.server.comes_back_to(self.descriptors);
        self.server.ends_having_logged("WARN", self.complaints);
    }
}

/// Sends in pieces of these sizes, and reads all that comes.
#[track_caller]
fn exchange(address: SocketAddr, bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
    let stream = peer(address);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rest = bytes;
            for size in sizes.iter().cycle() {
                let (piece, behind) = rest.split_at((*size).min(rest.len()));
                (&stream).write_all(piece).expect("the server takes it, if only to discard it");
                if behind.is_empty() {
                    break;
                }
                rest = behind;
            }
            stream.shutdown(Shutdown::Write).expect("the half ends");
        });
        let mut all = Vec::new();
        (&stream).read_to_end(&mut all).expect("the stream ends in order");
        all
    })
}

#[test]
fn lengths_that_are_too_long_negative_or_all_ones_end_one_connection() {
    for mut attacked in all_attacked() {
        let good = attacked.frames(&[b"before it"]);
        for first in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            for then in [0x00, 0x7f, 0xff] {
                for len in [1, 2, 4, 8, 9, 2 * MAX_LEN] {
                    let mut bytes = [&good[..], &vec![then; len]].concat();
                    bytes[good.len()] = first;
                    attacked.exchange(&bytes, &[bytes.len()]);
                }
            }
        }
        attacked.ends_well();
    }
}

#[test]
fn noise_in_any_pieces_ends_one_connection() {
    let mut chance = Chance::new();
    for mut attacked in all_attacked() {
        for _ in 0..30 {
            let mut bytes = attacked.frames(&[b"one", b"two"]);
            // Small numbers make frames now and then.
            let largest = [2, 20, 256][chance.below(3)];
            bytes.extend((0..chance.below(3000)).map(|_| chance.below(largest) as u8));
            let sizes: Vec<_> = (0..5).map(|_| 1 + chance.below(1000)).collect();
            attacked.exchange(&bytes, &sizes);
        }
        attacked.ends_well();
    }
}

#[test]
fn a_frame_that_is_cut_off_by_the_end_or_by_a_reset_is_not_answered() {
    for mut attacked in all_attacked() {
        let good = attacked.frames(&[b"a whole one"]);
        let bytes = [&good[..], &attacked.frames(&[b"a part"])].concat();
        for cut in good.len()..bytes.len() {
            attacked.exchange(&bytes[..cut], &[cut]);
            let mut stream = peer(attacked.server.ip());
            stream.write_all(&bytes[..cut]).expect("written");
            let mut answer = vec![0; good.len()];
            stream.read_exact(&mut answer).expect("the whole one is answered");
            assert!(answer == good, "{answer:02x?}");
            reset(stream);
        }
        attacked.ends_well();
    }
}

#[test]
fn the_longest_frame_is_answered_and_one_byte_more_ends_the_connection() {
    for max in [0, 1, MAX_LEN, 64 * KIB, MIB, 16 * MIB] {
        let server = Server::start("frames", &["127.0.0.1:0", "--max-frame", &max.to_string()]);
        let frame = |len: usize| [&(len as u32).to_be_bytes()[..], &pattern(len, 1)].concat();
        let longest = frame(max).repeat(2);
        assert!(exchange(server.ip(), &longest, &[longest.len()]) == longest, "{max}");
        // The header alone says it: nobody waits for the rest.
        let too_long = [&longest[..], &frame(max + 1)[..4]].concat();
        let mut stream = peer(server.ip());
        let answered = thread::scope(|scope| {
            scope.spawn(|| (&stream).write_all(&too_long).expect("written"));
            let mut all = Vec::new();
            (&stream).read_to_end(&mut all).expect("the stream ends in order");
            all
        });
        assert!(answered == longest, "{max}");
        // What it goes on to send is discarded, up to a bound.
        let _ = stream.write_all(&pattern(MIB, 2));
        server.logs(&format!("a frame of {} bytes is over the limit of {max}", max + 1), 1);
        server.ends_in_order();
    }
}

#[test]
fn empty_frames_by_the_thousand_are_answered_each() {
    for mut attacked in all_attacked() {
        let memory = attacked.server.memory();
        let frames = attacked.frames(&[b""]).repeat(50_000);
        attacked.exchange(&frames, &[frames.len()]);
        let grown = attacked.server.memory().saturating_sub(memory);
        assert!(grown < SLACK_BYTES, "{grown} bytes are left of it");
        attacked.ends_well();
    }
}

#[cfg(feature = "crc32c")]
#[test]
fn a_flipped_bit_anywhere_is_seen_by_the_sum() {
    let mut attacked = Attacked::start(LengthPrefixed::new(MAX_LEN).checksum(), &["--trailer", "crc32c"]);
    let good = attacked.frames(&[b"whole"]);
    let frame = attacked.frames(&[b"damaged"]);
    for bit in 0..8 * frame.len() {
        let mut bytes = [&good[..], &frame].concat();
        bytes[good.len() + bit / 8] ^= 1 << (bit % 8);
        attacked.exchange(&bytes, &[bytes.len()]);
        assert_eq!(attacked.complaints, bit + 1, "bit {bit} was flipped unseen");
    }
    attacked.ends_well();
}

/// The header of a frame that nobody will finish, and some of its payload.
fn unfinished() -> Vec<u8> {
    [&60_000_u32.to_be_bytes()[..], &pattern(10_000, 1)].concat()
}

/// Sends a byte now and then until it is reset; how long that took.
fn drip(address: SocketAddr, bytes: &[u8]) -> Duration {
    let mut stream = peer(address);
    let start = Instant::now();
    for byte in bytes {
        if stream.write_all(&[*byte]).is_err() || start.elapsed() > DEADLINE {
            return start.elapsed();
        }
        thread::sleep(Duration::from_millis(20));
    }
    // Silent from here on.
    let end = stream.read(&mut [0]).expect_err("it is reset");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    start.elapsed()
}

#[test]
fn frames_that_are_never_finished_end_in_time_beside_fifty_polite_peers() {
    const LORISES: usize = 20;
    let server = Server::start("frames", &["127.0.0.1:0", "--frame-timeout", "2"]);
    let (descriptors, memory) = (server.descriptors(), server.memory());
    let mut polite: Vec<_> = (0..50).map(|_| peer(server.ip())).collect();
    let address = server.ip();
    let unfinished = unfinished();
    let after_a_whole_one = [&b"\0\0\0\x01!"[..], &unfinished].concat();
    // One that says a single byte, one that stops behind the header, and those that never stop.
    let bytes = |number| match number {
        0 => &unfinished[..1],
        1 => &unfinished[..4],
        2..10 => &unfinished[..],
        _ => &after_a_whole_one[..],
    };
    thread::scope(|scope| {
        let lorises: Vec<_> = (0..LORISES).map(|number| scope.spawn(move || drip(address, bytes(number)))).collect();
        let mut rounds = 0;
        while !lorises.iter().all(thread::ScopedJoinHandle::is_finished) {
            for (number, stream) in polite.iter_mut().enumerate() {
                let request = [&100_u32.to_be_bytes()[..], &pattern(100, number as u64)].concat();
                stream.write_all(&request).expect("written");
                let mut answer = [0; 104];
                stream.read_exact(&mut answer).expect("answered");
                assert!(answer[..] == request[..], "an answer is somebody else's");
            }
            rounds += 1;
        }
        println!("{rounds} rounds");
        for loris in lorises {
            let lasted = loris.join().expect("it ends");
            assert!(lasted >= Duration::from_secs(2), "it had not all its time: {lasted:?}");
            assert!(lasted < Duration::from_secs(10), "a byte now and then kept it: {lasted:?}");
        }
    });
    server.logs("a frame was begun and not finished in time", LORISES);
    let grown = server.memory().saturating_sub(memory);
    assert!(grown < SLACK_BYTES, "{grown} bytes");
    server.serves();
    drop(polite);
    server.comes_back_to(descriptors);
    server.idles();
    server.ends_having_logged("WARN", LORISES);
}

#[test]
fn frames_that_come_slowly_but_in_time_are_answered() {
    let server = Server::start("frames", &["127.0.0.1:0", "--frame-timeout", "2"]);
    let frames = b"\0\0\0\x0aa slow one".repeat(4);
    let mut stream = peer(server.ip());
    let start = Instant::now();
    // A piece may end one frame and begin the next.
    for piece in frames.chunks(3) {
        stream.write_all(piece).expect("written");
        thread::sleep(Duration::from_millis(150));
    }
    assert!(start.elapsed() > Duration::from_secs(2), "all of it fits into one frame's time");
    let mut answer = vec![0; frames.len()];
    stream.read_exact(&mut answer).expect("answered");
    assert!(answer == frames, "{answer:02x?}");
    drop(stream);
    server.ends_having_logged("WARN", 0);
}

/// Reads all answers while the last request is finished, which had no room.
fn catch_up(stream: &TcpStream, request: &[u8], written: usize) {
    let rest = &request[written % request.len()..];
    let total = written + rest.len();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = stream;
            stream.set_write_timeout(Some(DEADLINE)).expect("a time-out");
            stream.write_all(rest).expect("it is read now");
            stream.shutdown(Shutdown::Write).expect("the half ends");
        });
        let mut answers = Vec::with_capacity(total);
        (&mut (&*stream)).read_to_end(&mut answers).expect("the stream ends in order");
        assert_eq!(answers.len(), total);
        assert!(answers.chunks(request.len()).all(|answer| answer == request), "an answer is not its request");
    });
}

/// Reads all answers and never finishes the last request; whether it had begun one.
fn fall_silent(mut stream: &TcpStream, request: &[u8], written: usize) -> bool {
    if written.is_multiple_of(request.len()) {
        return false;
    }
    let end = stream.read_to_end(&mut Vec::new()).expect_err("it is reset");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    true
}

#[test]
fn those_that_pipeline_and_never_read_cost_at_most_their_mark_and_lose_nothing() {
    const PEERS: usize = 16;
    const RESET_UP_TO: usize = 8;
    let server = Server::start("frames", &["127.0.0.1:0", "--frame-timeout", "2", "--stalled-timeout", "0"]);
    let (descriptors, memory) = (server.descriptors(), server.memory());
    let request = [&1000_u32.to_be_bytes()[..], &pattern(1000, 1)].concat();
    let address = server.ip();
    let stuffed = || {
        let stream = peer(address);
        let (mut written, mut rest) = (0, request.clone());
        // A server that has not had the processor for a while takes more when it has: only over its mark it does not.
        loop {
            let more = stuff(&stream, &rest);
            if more == 0 {
                return (stream, written);
            }
            written += more;
            rest.rotate_left(more % request.len());
            thread::sleep(Duration::from_millis(500));
        }
    };
    let stuffed: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..PEERS).map(|_| scope.spawn(stuffed)).collect();
        threads.into_iter().map(|thread| thread.join().expect("stuffed")).collect()
    });
    // The high mark, one read, and the part of a frame.
    let held = server.memory().saturating_sub(memory);
    println!("{held} bytes for {PEERS} peers");
    assert!(held < PEERS * (MIB + 2 * 64 * KIB) + SLACK_BYTES, "{held} bytes for {PEERS} peers");
    server.serves();
    // Longer than a frame may take, which does not count while its peer is not read.
    for _ in 0..3 {
        server.idles();
    }
    assert_eq!(server.descriptors(), descriptors + PEERS);
    let mut unfinished = 0;
    for (number, (stream, written)) in stuffed.into_iter().enumerate() {
        assert!(written > MIB, "{written} bytes are less than the kernel holds");
        match number {
            0 => unfinished += usize::from(fall_silent(&stream, &request, written)),
            1..RESET_UP_TO => reset(stream),
            _ => catch_up(&stream, &request, written),
        }
    }
    server.comes_back_to(descriptors);
    server.serves();
    let log = server.ends_in_order();
    assert_eq!(log.matches("a frame was begun and not finished in time").count(), unfinished, "{log}");
    assert_eq!(log.matches("WARN").count(), unfinished, "{log}");
}

#[test]
fn a_frame_that_is_begun_behind_an_answer_nobody_reads_has_its_time_from_when_it_is_read() {
    const LEN: usize = 16 * MIB;
    let server = Server::start("frames", &["127.0.0.1:0", "--frame-timeout", "1", "--max-frame", &LEN.to_string()]);
    let request = [&(LEN as u32).to_be_bytes()[..], &pattern(LEN, 1)].concat();
    let mut stream = peer(server.ip());
    // More than the kernel holds on the way back, and the beginning of a header.
    stream.write_all(&[&request[..], &[0, 0]].concat()).expect("written");
    server.idles();
    server.idles();
    let mut answer = vec![0; request.len()];
    stream.read_exact(&mut answer).expect("it is not ended while it has to wait");
    assert!(answer == request, "an answer is not its request");
    let end = stream.read(&mut [0]).expect_err("it is reset");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    server.logs("a frame was begun and not finished in time", 1);
    server.ends_in_order();
}
