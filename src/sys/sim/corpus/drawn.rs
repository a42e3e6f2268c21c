//! Programs drawn by chance: what nobody thought of.
//!
//! Two ends of a connection, and some thirty operations on either, which may well be pointless. Each has settled
//! before the next, so there is nothing that the two kernels could see in another order. Only which of two sockets is
//! ready first, if one operation makes both so, is open on the real one; hence nobody waits for a part of the events.

use super::super::chance::Chance;
use super::stage::Stage;
use super::{ALL, QUIET, same};
use crate::sys::epoll::{EDGE, IN, OUT, RDHUP};

const OPERATIONS: usize = 30;

/// What is asked of epoll.
const INTERESTS: [u32; 6] = [ALL, QUIET, IN, IN | RDHUP, OUT | EDGE, 0];

fn play(s: &mut Stage, seed: u64) {
    s.note("drawn", "from seed", seed);
    let mut chance = Chance::new(seed);
    let unix = chance.once_in(3);
    if unix {
        s.unix_listener("l");
    } else {
        s.tcp_listener("l");
    }
    s.connect("a", "l");
    s.watch("a", ALL);
    if !chance.once_in(3) {
        s.accept("l", "b");
        s.watch("b", ALL);
    }
    for _ in 0..OPERATIONS {
        let ends = [["a", "b"], ["b", "a"]][chance.below(2) as usize];
        let Some(who) = ends.into_iter().find(|who| s.fds.contains_key(who)) else { break };
        operate(s, &mut chance, who, unix);
        s.settle();
    }
    s.wait();
}

fn operate(s: &mut Stage, chance: &mut Chance, who: &'static str, unix: bool) {
    match chance.below(21) {
        0..=2 => s.send(who, &b"0123456789".repeat(600)[..length(chance)]),
        3..=5 => s.recv(who, length(chance)),
        6..=9 => s.wait(),
        10 => {
            s.shutdown(who);
            if !unix {
                s.acknowledged(who);
            }
        }
        11 if chance.once_in(3) => s.close(who),
        12 if chance.once_in(3) => s.abort(who),
        13 if !unix => s.urgent(who, &b"ab!"[chance.below(3) as usize..]),
        14 => s.rewatch(who, INTERESTS[chance.below(6) as usize]),
        15 => s.watch(who, INTERESTS[chance.below(6) as usize]),
        16 if chance.once_in(2) => s.unwatch(who),
        17 if s.fds.contains_key("l") && chance.once_in(2) => s.accept("l", "b"),
        18 if s.fds.contains_key("l") && chance.once_in(4) => s.close("l"),
        19 => s.peer(who),
        20 => fill_and_drain(s, chance, who),
        _ => s.take_error(who),
    }
}

/// A buffer that is full makes two kernels differ in how much they take next. So it is drained before anything is sent.
fn fill_and_drain(s: &mut Stage, chance: &mut Chance, who: &'static str) {
    let other = if who == "a" { "b" } else { "a" };
    if !s.fds.contains_key(other) {
        return;
    }
    s.fill(who);
    s.ignore_events();
    for _ in 0..chance.below(3) {
        match chance.below(4) {
            0 => s.rewatch(who, INTERESTS[chance.below(6) as usize]),
            1 => s.rewatch(other, INTERESTS[chance.below(6) as usize]),
            2 => s.shutdown(who),
            _ => s.wait(),
        }
    }
    s.drain(other);
}

/// Of a write or a read: most are small.
fn length(chance: &mut Chance) -> usize {
    let longest = if chance.once_in(8) { 6_000 } else { 12 };
    1 + chance.below(longest) as usize
}

#[test]
fn drawn_programs_see_the_same() {
    let number = |name, otherwise| std::env::var(name).map_or(otherwise, |number| number.parse().expect("a number"));
    let first: u64 = number("CORPUS_SEED", 0);
    for seed in first..first + number("CORPUS_SEEDS", 60) {
        same(|s| play(s, seed));
    }
}
