//! Promise: timers are armed, moved and cancelled from every callback, their own included, and an id whose timer
//! has ended reaches nobody.

mod support;

use plimsoll::{Loop, Reactor, TimerId};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use support::{turn_and_panic, turn_for, turn_until};

const MS: Duration = Duration::from_millis(1);

/// A log of what ran, and ids for callbacks to find each other by.
#[derive(Default)]
struct App {
    ran: Vec<&'static str>,
    ids: Vec<TimerId>,
}

fn reactor() -> Reactor<App> {
    Reactor::new(App::default()).unwrap()
}

fn log(what: &'static str) -> impl FnMut(&mut Loop<'_, App>) {
    move |lp| lp.app.ran.push(what)
}

/// Makes the loop late, so that all that was armed is due in one turn.
fn be_late() {
    thread::sleep(5 * MS);
}

#[test]
fn a_one_shot_has_ended_when_its_call_begins() {
    let mut reactor = reactor();
    let id = reactor.net.after(MS, |lp| {
        let own = lp.app.ids[0];
        assert!(!lp.net.cancel(own) && !lp.net.reset(own, MS));
        // Its slot may go to another timer, which the old id must not find.
        let next = lp.net.after(MS, log("next"));
        assert_ne!(next, own);
        assert!(!lp.net.cancel(own));
        lp.app.ran.push("first");
    });
    reactor.app.ids.push(id);
    turn_until(&mut reactor, "both", |reactor| reactor.app.ran == ["first", "next"]);
    assert!(!reactor.net.cancel(id));
}

#[test]
fn a_periodic_timer_may_cancel_itself() {
    let mut reactor = reactor();
    let held = Rc::new(());
    let holding = Rc::clone(&held);
    let id = reactor.net.every(MS, move |lp| {
        let _ = &holding;
        lp.app.ran.push("tick");
        if lp.app.ran.len() == 3 {
            let own = lp.app.ids[0];
            assert!(lp.net.cancel(own) && !lp.net.cancel(own));
            // In the slot, and with the closure, of the one that is running.
            lp.net.every(MS, log("another"));
        }
    });
    reactor.app.ids.push(id);
    turn_until(&mut reactor, "the other one", |reactor| reactor.app.ran.len() >= 5);
    assert_eq!(reactor.app.ran[..5], ["tick", "tick", "tick", "another", "another"]);
    assert_eq!(Rc::strong_count(&held), 1, "a cancelled closure is dropped");
}

#[test]
fn a_periodic_timer_may_move_itself() {
    let mut reactor = reactor();
    let id = reactor.net.every(Duration::from_secs(3600), |lp| {
        lp.app.ran.push("tick");
        let own = lp.app.ids[0];
        assert!(lp.net.reset(own, MS));
    });
    reactor.app.ids.push(id);
    assert!(reactor.net.reset(id, MS));
    turn_until(&mut reactor, "three ticks", |reactor| reactor.app.ran.len() == 3);
}

#[test]
fn a_timer_that_is_due_can_still_be_cancelled_or_moved_by_one_that_runs_before_it() {
    let mut reactor = reactor();
    let first = reactor.net.after(MS, |lp| {
        lp.app.ran.push("first");
        let (cancelled, moved, periodic) = (lp.app.ids[0], lp.app.ids[1], lp.app.ids[2]);
        assert!(lp.net.cancel(cancelled) && lp.net.reset(moved, 20 * MS) && lp.net.cancel(periodic));
    });
    let cancelled = reactor.net.after(2 * MS, log("cancelled"));
    let moved = reactor.net.after(2 * MS, log("moved"));
    let periodic = reactor.net.every(2 * MS, log("periodic"));
    reactor.net.after(3 * MS, log("last"));
    reactor.app.ids.extend([cancelled, moved, periodic, first]);
    be_late();
    reactor.turn(None).unwrap();
    assert_eq!(reactor.app.ran, ["first", "last"]);
    turn_until(&mut reactor, "the moved one", |reactor| reactor.app.ran.len() > 2);
    assert_eq!(reactor.app.ran[2], "moved");
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn a_reset_from_outside_postpones_and_hastens() {
    let mut reactor = reactor();
    let hastened = reactor.net.after(Duration::from_secs(3600), log("hastened"));
    let postponed = reactor.net.after(MS, log("postponed"));
    assert!(reactor.net.reset(hastened, 2 * MS) && reactor.net.reset(postponed, 10 * MS));
    turn_until(&mut reactor, "both", |reactor| reactor.app.ran == ["hastened", "postponed"]);
    assert!(!reactor.net.reset(hastened, MS));
}

#[test]
fn a_cancelled_timer_never_runs_and_its_closure_is_dropped_at_once() {
    let mut reactor = reactor();
    let held = Rc::new(());
    let holding = Rc::clone(&held);
    let id = reactor.net.after(MS, move |_| drop(holding));
    assert!(reactor.net.cancel(id));
    assert_eq!(Rc::strong_count(&held), 1);
    turn_for(&mut reactor, 5 * MS);
    assert_eq!(reactor.net.stats().timers, 0);
}

#[test]
fn an_id_stays_stale_however_often_its_slot_is_used_again() {
    let mut reactor = reactor();
    let old = reactor.net.after(MS, log("old"));
    assert!(reactor.net.cancel(old));
    for _ in 0..1_000 {
        let id = reactor.net.after(MS, log("new"));
        assert!(!reactor.net.cancel(old) && !reactor.net.reset(old, MS));
        assert!(reactor.net.cancel(id));
    }
}

#[test]
fn a_one_shot_that_panics_is_gone_and_the_others_run() {
    let mut reactor = reactor();
    reactor.net.after(MS, |_| panic!("on purpose"));
    reactor.net.after(2 * MS, log("after it"));
    be_late();
    turn_and_panic(&mut reactor);
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor.turn(None).unwrap();
    assert_eq!(reactor.app.ran, ["after it"]);
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn a_periodic_timer_that_panics_is_cancelled_and_the_others_go_on() {
    let mut reactor = reactor();
    let id = reactor.net.every(2 * MS, |lp| {
        lp.app.ran.push("before the panic");
        panic!("on purpose");
    });
    reactor.net.every(3 * MS, log("tick"));
    be_late();
    turn_and_panic(&mut reactor);
    turn_until(&mut reactor, "ticks", |reactor| reactor.app.ran.len() >= 5);
    assert_eq!(reactor.app.ran[0], "before the panic");
    assert!(reactor.app.ran[1..].iter().all(|what| *what == "tick"));
    assert!(!reactor.net.cancel(id), "it was cancelled");
}
