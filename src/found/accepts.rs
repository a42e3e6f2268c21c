//! Listeners on a machine that has no descriptor left.

use super::{connected, here, turn};
use crate::options::ListenOptions;
use crate::sim::World;
use crate::sys::fault::{self, Call, Fault, Plan};
use std::time::Duration;

#[test]
fn a_storm_without_descriptors_does_not_overflow_the_batch() {
    let world = World::calm();
    let options = ListenOptions::new().with(|o| o.accept_budget = u32::MAX);
    let (mut reactor, _, _peer) = connected(&world, options);
    world.limit_descriptors(world.open_descriptors());
    for _ in 0..40 {
        world.connect(here());
        turn(&mut reactor, 1);
    }
    assert_eq!(reactor.net.stats().refused, 40);
}

/// As a security module may have it: accept(2) says EPERM, and the peer stays in the queue.
#[test]
fn a_forbidden_peer_does_not_keep_a_listener_without_descriptors_turning() {
    let world = World::calm();
    let (mut reactor, _, _peer) = connected(&world, ListenOptions::new());
    let errno = |nth| if nth % 2 == 1 { libc::EMFILE } else { libc::EPERM };
    let plan = (1..=4_000).fold(Plan::new(), |plan, nth| plan.with(Call::Accept, nth, Fault::Fail(errno(nth))));
    world.connect(here());
    fault::install(plan);
    let began = world.elapsed();
    for _ in 0..1_000 {
        reactor.turn(Some(Duration::from_secs(1))).expect("the loop turns");
    }
    let time = world.elapsed() - began;
    let made = fault::remove().expect("the plan").made(Call::Accept);
    assert!(time > Duration::from_millis(100), "{made} calls in {time:?}");
}
