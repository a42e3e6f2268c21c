//! Promise: a million timers may live at once, and each costs at most 64 bytes besides its closure.
//!
//! A counting allocator sees what the reactor's thread has asked for. A boxed closure that captures nothing has no
//! memory of its own; the two words that point to it are part of the closure.

mod support;

use bytes::BytesMut;
use plimsoll::{Ctx, Handler, Reactor, TimerId};
use std::io::Write;
use std::time::Duration;
use support::allocations::{Counting, live_bytes};
use support::{address_of, peer, turn_until};

#[global_allocator]
static COUNTING: Counting = Counting;

const TIMERS: usize = 1_000_000;
const HOUR: Duration = Duration::from_secs(3600);

/// Two words: the closure and its table of functions.
const CLOSURE_BYTES: f64 = 16.0;

#[test]
fn timers_with_closures_are_armed_moved_and_cancelled() {
    let mut reactor = Reactor::new(0usize).unwrap();
    let mut ids: Vec<TimerId> = Vec::with_capacity(TIMERS);
    let before = live_bytes();
    for number in 0..TIMERS as u64 {
        ids.push(reactor.net.after(HOUR + Duration::from_micros(number * 7919 % 1_000_003), |lp| *lp.app += 1));
    }
    let each = (live_bytes() - before) as f64 / TIMERS as f64;
    println!("a timer with a closure: {each} bytes");
    assert!(each <= 64.0 + CLOSURE_BYTES, "{each} bytes each");

    // Moved, to later and to sooner: no memory for that.
    let armed = live_bytes();
    for (number, id) in ids.iter().enumerate() {
        assert!(reactor.net.reset(*id, if number % 2 == 0 { 2 * HOUR } else { HOUR / 2 }));
    }
    assert_eq!(live_bytes(), armed);
    // Every tenth is due now, the others are cancelled; the slots serve the next million.
    for (number, id) in ids.iter().enumerate() {
        assert!(if number % 10 == 0 { reactor.net.reset(*id, Duration::ZERO) } else { reactor.net.cancel(*id) });
    }
    turn_until(&mut reactor, "every tenth", |reactor| reactor.app == TIMERS / 10);
    assert_eq!(reactor.next_turn_in(), None);
    ids.clear();
    ids.extend((0..TIMERS).map(|_| reactor.net.after(HOUR, |_| ())));
    let again = live_bytes() - armed;
    assert!(again <= 1 << 16, "{again} bytes more for the second million");
    assert!(ids.iter().all(|id| reactor.net.cancel(*id)));
}

struct Keeper;

impl Handler for Keeper {
    fn on_data(&mut self, ctx: &mut Ctx<'_>, input: &mut BytesMut) {
        input.clear();
        (0..KEYS_EACH).for_each(|key| ctx.timer(key, HOUR));
    }
}

const CONNECTIONS: usize = 256;
/// Together a little less than 2¹⁶, as a million is a little less than 2²⁰: the tables double when they are full.
const KEYS_EACH: u32 = 255;

#[test]
fn timers_of_connections_cost_no_more() {
    let mut reactor = Reactor::new(()).unwrap();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Keeper)).unwrap();
    let address = address_of(&reactor, listener);
    let mut peers: Vec<_> = (0..CONNECTIONS).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are open", |reactor| reactor.net.tokens().len() == CONNECTIONS);
    let before = live_bytes();
    peers.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
    let read = CONNECTIONS as u64;
    turn_until(&mut reactor, "all are armed", |reactor| reactor.net.stats().bytes_read == read);
    let each = (live_bytes() - before) as f64 / (CONNECTIONS * KEYS_EACH as usize) as f64;
    println!("a keyed timer among {KEYS_EACH} of its connection: {each} bytes");
    assert!(each <= 64.0, "{each} bytes each");
    peers.clear();
    turn_until(&mut reactor, "all are gone", |reactor| reactor.net.tokens().is_empty());
    assert_eq!(reactor.next_turn_in(), None);
}
