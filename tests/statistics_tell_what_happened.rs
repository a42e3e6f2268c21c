//! Promise: the counters count what happened, and nothing else: turns and events, mail and tells, how late timers
//! ran and how long the loop was away.

mod support;

use plimsoll::{BytesMut, Ctx, Handler, Reactor, ReactorOptions, Stats};
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};
use support::{DEADLINE, address_of, beside, join, peer, turn_until};

const MS: Duration = Duration::from_millis(1);
const NS_PER_MS: u64 = 1_000_000;

#[test]
fn a_fresh_reactor_has_done_nothing() {
    assert_eq!(*Reactor::new(()).unwrap().net.stats(), Stats::default());
}

#[test]
fn each_turn_is_counted_and_an_idle_one_counts_nothing_else() {
    let mut reactor = Reactor::new(()).unwrap();
    for turn in 1..=5 {
        reactor.turn(Some(Duration::ZERO)).unwrap();
        let stats = *reactor.net.stats();
        assert_eq!(stats.turns, turn);
        let quiet = Stats::default();
        let counts = |s: &Stats| (s.events, s.stale_events, s.reads, s.writes, s.accepts, s.mail, s.timers, s.held);
        assert_eq!(counts(&stats), counts(&quiet));
    }
}

#[test]
fn a_turn_that_takes_long_is_seen_and_a_long_sleep_is_not() {
    let mut reactor = Reactor::new(()).unwrap();
    reactor.turn(Some(200 * MS)).unwrap();
    assert!(reactor.net.stats().total_busy_ns < 150 * NS_PER_MS, "sleep was counted as work");
    reactor.net.defer(|_| thread::sleep(50 * MS));
    reactor.turn(Some(Duration::ZERO)).unwrap();
    let stats = *reactor.net.stats();
    assert!(stats.worst_turn_ns >= 50 * NS_PER_MS, "{} ns", stats.worst_turn_ns);
    assert!(stats.total_busy_ns >= stats.worst_turn_ns);
}

#[test]
fn what_somebody_elses_loop_does_between_turns_is_not_ours() {
    let mut reactor = Reactor::new(()).unwrap();
    for _ in 0..3 {
        reactor.turn(Some(Duration::ZERO)).unwrap();
        thread::sleep(150 * MS);
    }
    reactor.turn(Some(Duration::ZERO)).unwrap();
    let stats = *reactor.net.stats();
    assert!(stats.worst_turn_ns < 100 * NS_PER_MS, "{} ns", stats.worst_turn_ns);
}

#[test]
fn in_run_a_turn_lasts_until_the_next_wait() {
    let sleep_is_left_out = || {
        let mut reactor = Reactor::new(()).unwrap();
        reactor.net.after(MS, |lp| {
            thread::sleep(50 * MS);
            lp.after(150 * MS, |lp| lp.stop()); // of which 50 are over
        });
        let began = Instant::now();
        reactor.run().unwrap();
        let elapsed_ns = began.elapsed().as_nanos();
        let stats = *reactor.net.stats();
        assert!(stats.worst_turn_ns >= 50 * NS_PER_MS, "{} ns", stats.worst_turn_ns);
        assert!(stats.worst_turn_ns <= stats.total_busy_ns);
        u128::from(stats.total_busy_ns + 50 * NS_PER_MS) <= elapsed_ns
    };
    // On a busy machine there may be nothing left to sleep for, but not each time.
    assert!((0..20).any(|_| sleep_is_left_out()), "sleep was counted as work");
}

struct Number;

impl Handler<usize> for Number {
    fn on_data(&mut self, ctx: &mut Ctx<'_, usize>, input: &mut BytesMut) {
        ctx.send(&input[..]);
        input.clear();
    }
}

struct Other;

impl Handler<usize> for Other {
    fn on_data(&mut self, _: &mut Ctx<'_, usize>, _: &mut BytesMut) {}
}

#[test]
fn tells_that_reach_nobody_are_counted_and_dropped() {
    let mut reactor = Reactor::new(0).unwrap();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Number)).unwrap();
    let stream = peer(address_of(&reactor, listener));
    turn_until(&mut reactor, "it is open", |reactor| !reactor.net.tokens().is_empty());
    let token = reactor.net.tokens()[0];
    reactor.net.tell::<Number>(token, |_, ctx| *ctx.app += 1);
    reactor.net.tell::<Other>(token, |_, _| panic!("it is a Number"));
    reactor.net.tell::<Number>(listener, |_, _| panic!("a listener has no handler to tell"));
    reactor.turn(Some(DEADLINE)).unwrap();
    assert_eq!((reactor.app, reactor.net.stats().tells_dropped), (1, 2));
    drop(stream);
    turn_until(&mut reactor, "it is gone", |reactor| reactor.net.tokens().is_empty());
    reactor.net.tell::<Number>(token, |_, _| panic!("it is gone"));
    reactor.turn(Some(DEADLINE)).unwrap();
    assert_eq!(reactor.net.stats().tells_dropped, 3);
}

#[test]
fn bytes_and_calls_of_an_echo_add_up() {
    const MESSAGES: u64 = 100;
    let mut reactor = Reactor::new(0).unwrap();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Number)).unwrap();
    let address = address_of(&reactor, listener);
    let peer = beside(move || {
        let mut stream = peer(address);
        for _ in 0..MESSAGES {
            stream.write_all(&[1; 64]).unwrap();
            stream.read_exact(&mut [0; 64]).unwrap();
        }
    });
    join(&mut reactor, peer);
    turn_until(&mut reactor, "it is over", |reactor| reactor.net.stats().closes == 1);
    let stats = *reactor.net.stats();
    assert_eq!((stats.accepts, stats.refused, stats.closes), (1, 0, 1));
    assert_eq!((stats.bytes_read, stats.bytes_written), (64 * MESSAGES, 64 * MESSAGES));
    // One write for each message, one read for each and a few more for its end.
    assert_eq!(stats.writes, MESSAGES);
    assert!(stats.reads >= MESSAGES && stats.reads <= MESSAGES + 4, "{} reads", stats.reads);
    assert!(stats.events >= MESSAGES && stats.stale_events == 0);
    assert_eq!((stats.held, stats.writes_full), (0, 0));
}

#[test]
fn a_loop_that_spins_serves_at_once_and_still_sleeps_in_the_end() {
    let options = ReactorOptions::new().with(|o| o.spin = 20 * MS);
    let mut reactor = Reactor::with_options(0usize, options).unwrap();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Number)).unwrap();
    let address = address_of(&reactor, listener);
    let peer = beside(move || {
        let mut stream = peer(address);
        for _ in 0..200 {
            stream.write_all(&[1; 64]).unwrap();
            stream.read_exact(&mut [0; 64]).unwrap();
        }
    });
    join(&mut reactor, peer);
    // Timers, mail and the caller's time-out are heeded as without.
    let mailbox = reactor.net.mailbox();
    let (began, used) = (Instant::now(), processor_time());
    reactor.net.after(300 * MS, |lp| *lp.app += 1);
    turn_until_without_time_out(&mut reactor, 1);
    assert!(began.elapsed() >= 295 * MS, "early");
    // How long it span is seen in the processor's time that this thread has used.
    let spun = processor_time() - used;
    assert!(spun <= 60 * MS, "it span for {spun:?} of 300 ms, and 20 were allowed");
    let poster = thread::spawn(move || mailbox.post(|lp| *lp.app += 1).unwrap());
    turn_until_without_time_out(&mut reactor, 2);
    poster.join().unwrap();
    // On a busy machine others may have the processor meanwhile, but not each time.
    let spins = |reactor: &mut Reactor<usize>| {
        let (began, used) = (Instant::now(), processor_time());
        reactor.turn(Some(5 * MS)).unwrap();
        assert!(began.elapsed() >= 5 * MS && began.elapsed() < DEADLINE);
        processor_time() - used >= MS
    };
    assert!((0..50).any(|_| spins(&mut reactor)), "it never span at all");
}

fn turn_until_without_time_out(reactor: &mut Reactor<usize>, count: usize) {
    while reactor.app < count {
        reactor.turn(None).unwrap();
    }
}

/// What this thread has used of a processor.
#[expect(unsafe_code, reason = "clock_gettime(2), which std has not for this clock")]
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours, and outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}
