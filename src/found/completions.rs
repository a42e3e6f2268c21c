//! How often a handler hears that its output is out.

use super::{App, connected_to};
use crate::handler::{Ctx, Handler};
use crate::options::ListenOptions;
use crate::sim::World;
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// Answers a long message by a reply that is flushed at once, and a short one by another; counts what it is told.
#[derive(Default)]
struct Counts {
    answered: u32,
    completed: Vec<u32>,
}

impl Handler<App> for Counts {
    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        input.clear();
        self.answered += 1;
        let reply = if self.answered == 1 { Bytes::from(vec![7; 2_000]) } else { Bytes::from_static(b"short") };
        match self.answered {
            1 => ctx.send(reply),
            _ => ctx.send(&reply[..]),
        };
    }

    fn on_write_complete(&mut self, _: &mut Ctx<'_, App>) {
        self.completed.push(self.answered);
    }
}

#[test]
fn a_drain_that_was_not_told_yet_is_one_with_that_of_the_next_answer() {
    let world = World::calm();
    let options = ListenOptions::new().with(|o| {
        o.stream.eager_flush = 100;
        // Two reads in one turn.
        o.stream.input_limit = 10;
    });
    let (mut reactor, token, peer) = connected_to(&world, options, Counts::default);
    peer.send(&[1; 15]);
    world.pass(Duration::from_secs(1));
    for _ in 0..5 {
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
    }
    reactor.net.tell::<Counts>(token, |counts, _| {
        assert_eq!((counts.answered, &counts.completed[..]), (2, &[2][..]), "once, for both");
    });
    reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
    assert_eq!(reactor.net.stats().tells_dropped, 0);
    assert_eq!(reactor.net.stats().bytes_written, 2_005);
}
