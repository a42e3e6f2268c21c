//! A relay holds no more than its marks allow, however much is pushed at it, and loses nothing for that.
//!
//! One test to a process: it looks at the memory of all of it.

mod support;

use plimsoll::RelayOptions;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::witness::{reactor, relay};
use support::{accept, beside, join, pattern, peer, turn_for, turn_until, upstream};

const KIB: usize = 1024;
/// One read may come on top of a mark.
const READ: usize = 64 * KIB;

/// Multiplies and adds along the stream: a byte lost, repeated or exchanged changes it.
fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Memory of this process that is in use, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4 * KIB
}

/// The library's own figure is 1 GiB and a pause of 10 s. Here the pause ends when the pusher is stuck, which says
/// the same: it can push no more until somebody reads.
#[test]
fn a_reader_that_stops_costs_the_relay_no_more_than_its_mark_and_no_byte() {
    const LEN: u64 = 192 << 20;
    const MARK: usize = 256 * KIB;
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let relay = relay(&mut reactor, address, RelayOptions::new().with(|o| o.high_water = MARK));
    let pushed = Arc::new(AtomicU64::new(0));
    let (go_on, may_go_on) = mpsc::channel::<()>();

    let counted = pushed.clone();
    let pusher = beside(move || {
        let mut stream = peer(relay);
        let chunk = pattern(1 << 20, 77);
        let mut sum = 0;
        for at in (0..LEN).step_by(64 * KIB) {
            let start = at as usize % chunk.len();
            let piece = &chunk[start..start + 64 * KIB];
            stream.write_all(piece).expect("pushed sooner or later");
            sum = checksum(sum, piece);
            counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        sum
    });
    let reader = beside(move || {
        let mut stream = accept(&listener);
        let mut buffer = vec![0; 64 * KIB];
        let (mut sum, mut total) = (0, 0);
        // Some of it at once, so that the pause comes in the middle of a busy stream.
        while total < 1 << 20 {
            let n = stream.read(&mut buffer).expect("it comes");
            sum = checksum(sum, &buffer[..n]);
            total += n as u64;
        }
        may_go_on.recv().expect("the test goes on");
        loop {
            match stream.read(&mut buffer).expect("it comes") {
                0 => return (sum, total),
                n => {
                    sum = checksum(sum, &buffer[..n]);
                    total += n as u64;
                }
            }
        }
    });

    turn_until(&mut reactor, "the stream is flowing", |reactor| reactor.net.stats().bytes_written > 1 << 19);
    let before = resident();
    let (mut seen, mut since) = (0, Instant::now());
    turn_until(&mut reactor, "the pusher is stuck", |_| {
        let now = pushed.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(300)
    });
    assert!(seen < LEN, "all of it fits into the kernel's buffers: nothing is shown");
    let (a, b) = reactor.app.pairs[0];
    let queued = reactor.net.queued(b);
    assert!(queued > MARK, "the mark has been crossed: {queued}");
    assert!(queued <= MARK + READ, "{queued} bytes are queued");
    assert_eq!(reactor.net.stats().held, queued as u64);
    assert_eq!(reactor.net.queued(a), 0);
    let grown = resident().saturating_sub(before);
    assert!(grown <= MARK + READ + 512 * KIB, "grown by {grown} bytes");

    // Nothing moves, so nothing is done.
    let turns = reactor.net.stats().turns;
    turn_for(&mut reactor, Duration::from_millis(100));
    assert!(reactor.net.stats().turns - turns < 10, "{} turns for nothing", reactor.net.stats().turns - turns);

    go_on.send(()).expect("the reader waits");
    let sent = join(&mut reactor, pusher);
    let (sum, total) = join(&mut reactor, reader);
    assert_eq!(total, LEN);
    assert_eq!(sum, sent);
    turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
    assert_eq!(reactor.net.stats().held, 0);
    assert!(reactor.net.stats().peak_queued <= (MARK + READ) as u64);
}
