//! Promise: a timer runs once for each of its deadlines, never early by the loop's clock, in order; a periodic one
//! keeps to its grid and leaves out what a stall made it miss.
//!
//! A callback tells the deadline it was armed for: the loop's time less the lag that the statistics count.

mod support;

use plimsoll::{Loop, Reactor, ReactorOptions};
use std::thread;
use std::time::{Duration, Instant};
use support::{DEADLINE, turn_until};

const MS: Duration = Duration::from_millis(1);

#[test]
fn no_timer_runs_early_and_all_run_in_the_order_of_their_deadlines() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let mut state = 1u64;
    for _ in 0..500 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let delay = Duration::from_nanos(state >> 40); // up to 17 ms
        let deadline = reactor.net.now() + delay;
        reactor.net.after(delay, move |lp| {
            assert!(lp.now() >= deadline, "early by {:?}", deadline - lp.now());
            assert!(Instant::now() >= deadline);
            lp.app.push(deadline);
        });
    }
    turn_until(&mut reactor, "all timers", |reactor| reactor.app.len() == 500);
    assert!(reactor.app.is_sorted());
    assert_eq!(reactor.net.stats().timers, 500);
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn the_loop_sleeps_until_the_deadline_and_not_much_longer() {
    let mut reactor = Reactor::new(false).unwrap();
    let turns = reactor.net.stats().turns;
    reactor.net.after(30 * MS, |lp| *lp.app = true);
    assert!(reactor.next_turn_in().is_some_and(|wait| wait <= 30 * MS));
    while !reactor.app {
        reactor.turn(None).unwrap();
    }
    assert!(reactor.net.stats().turns - turns <= 2, "the loop woke for nothing");
    assert!(Duration::from_nanos(reactor.net.stats().worst_timer_lag_ns) < DEADLINE / 2);
}

/// What a periodic timer saw: the loop's time, and the deadline that it stood for.
#[derive(Default)]
struct Calls {
    seen: Vec<(Instant, Instant)>,
    lag_before: Duration,
}

impl Calls {
    fn note(lp: &mut Loop<'_, Calls>) {
        let total = Duration::from_nanos(lp.stats().total_timer_lag_ns);
        let lag = total - lp.app.lag_before;
        lp.app.lag_before = total;
        let now = lp.now();
        lp.app.seen.push((now, now - lag));
    }
}

#[test]
fn a_periodic_timer_stays_on_the_grid_of_its_first_deadline() {
    const PERIOD: Duration = Duration::from_millis(3);
    let mut reactor = Reactor::new(Calls::default()).unwrap();
    let start = reactor.net.now();
    reactor.net.every(PERIOD, |lp| {
        Calls::note(lp);
        thread::sleep(MS / 2); // its own length must not add up
    });
    turn_until(&mut reactor, "forty calls", |reactor| reactor.app.seen.len() == 40);
    let mut last = 0;
    for (now, deadline) in &reactor.app.seen {
        let since = deadline.duration_since(start).as_nanos();
        assert_eq!(since % PERIOD.as_nanos(), 0, "off the grid");
        assert!(now >= deadline && since > last, "early, or twice for one point of the grid");
        last = since;
    }
}

#[test]
fn a_stall_of_many_periods_is_followed_by_one_call_and_not_by_a_burst() {
    const PERIOD: Duration = Duration::from_millis(2);
    let mut reactor = Reactor::new(Calls::default()).unwrap();
    reactor.net.every(PERIOD, |lp| {
        Calls::note(lp);
        if lp.app.seen.len() == 3 {
            thread::sleep(51 * MS);
        }
    });
    turn_until(&mut reactor, "ten calls", |reactor| reactor.app.seen.len() >= 10);
    let seen = &reactor.app.seen;
    let (before, after) = (seen[2].0, seen[3].0);
    assert!(after - before >= 51 * MS);
    assert!(seen[4].1 > after, "the second call after the stall was for a time before its end");
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "two calls in one turn");
}

#[test]
fn no_delay_means_the_next_turn_and_no_sleep() {
    let mut reactor = Reactor::new(0).unwrap();
    reactor.net.after(Duration::ZERO, |lp| *lp.app += 1);
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor.turn(None).unwrap();
    assert_eq!(reactor.app, 1);
}

#[test]
fn a_timer_without_delay_that_arms_itself_for_ever_does_not_hold_the_turn() {
    fn again(lp: &mut Loop<'_, u64>) {
        *lp.app += 1;
        lp.after(Duration::ZERO, again);
    }
    let options = ReactorOptions::new().with(|o| o.closure_budget = 50);
    let mut reactor = Reactor::with_options(0, options).unwrap();
    reactor.net.after(Duration::ZERO, again);
    for turn in 1..=10 {
        reactor.turn(None).unwrap();
        assert!((turn..=turn * 50).contains(&reactor.app), "{} calls in {turn} turns", reactor.app);
    }
}

#[test]
fn five_thousand_timers_due_at_once_run_over_turns_that_do_not_sleep() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    for number in 0..5_000 {
        reactor.net.after(MS, move |lp| lp.app.push(number));
    }
    thread::sleep(2 * MS); // the loop is late: all are due
    let mut turns = 0;
    let began = Instant::now();
    while reactor.app.len() < 5_000 {
        let before = reactor.app.len();
        reactor.turn(Some(DEADLINE)).unwrap();
        turns += 1;
        assert!(reactor.app.len() - before <= 1024, "more than the budget in one turn");
        assert!(began.elapsed() < DEADLINE / 2, "the loop slept on timers that were due");
    }
    assert_eq!(turns, 5);
    assert!(reactor.app.is_sorted(), "those of one deadline run in the order in which they were armed");
}

#[test]
fn a_far_future_is_no_hindrance() {
    let mut reactor = Reactor::new(0).unwrap();
    let far = reactor.net.after(Duration::MAX, |_| panic!("that was soon"));
    let yearly = reactor.net.every(Duration::from_secs(u64::MAX), |_| panic!("that was soon"));
    assert!(reactor.next_turn_in().is_some_and(|wait| wait > Duration::from_secs(365 * 24 * 3600)));
    let mailbox = reactor.net.mailbox();
    let poster = thread::spawn(move || mailbox.post(|lp| *lp.app += 1).unwrap());
    while reactor.app == 0 {
        reactor.turn(None).unwrap();
    }
    poster.join().unwrap();
    assert!(reactor.net.reset(far, MS) && reactor.net.reset(far, Duration::MAX));
    assert!(reactor.net.cancel(far) && reactor.net.cancel(yearly));
    assert!(!reactor.net.cancel(far));
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn the_lag_of_a_late_loop_is_counted() {
    let mut reactor = Reactor::new(()).unwrap();
    reactor.net.after(MS, |_| ());
    thread::sleep(21 * MS);
    reactor.turn(None).unwrap();
    let stats = *reactor.net.stats();
    assert!(Duration::from_nanos(stats.worst_timer_lag_ns) >= 20 * MS, "{} ns", stats.worst_timer_lag_ns);
    assert_eq!((stats.timers, stats.total_timer_lag_ns), (1, stats.worst_timer_lag_ns));
}
