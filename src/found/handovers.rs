//! Connections that cannot send what an earlier owner had left.

use super::{App, Told, connected, failing, here, turn};
use crate::handler::{CloseReason, Ctx, Handler};
use crate::handover::Detached;
use crate::options::ListenOptions;
use crate::reactor::Reactor;
use crate::sim::World;
use crate::sys::fault::{self, Call, Fault};
use bytes::{Bytes, BytesMut};

/// Pieces so large that each is offered to the kernel by itself.
fn unsent(pieces: usize) -> Vec<Bytes> {
    vec![Bytes::from(vec![7; 128 * 1024]); pieces]
}

/// Reads whatever comes.
struct Reader;

impl Handler<App> for Reader {
    fn on_data(&mut self, _: &mut Ctx<'_, App>, input: &mut BytesMut) {
        input.clear();
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        ctx.app.why = Some(why);
    }
}

fn detached(world: &World) -> (Reactor<App>, Detached) {
    let (mut reactor, token, _peer) = connected(world, ListenOptions::new());
    let detached = reactor.net.detach(token).expect("it is open");
    turn(&mut reactor, 5);
    reactor.app = App::default();
    (reactor, detached)
}

#[test]
fn what_an_adopted_connection_could_not_send_is_held_by_nobody_and_costs_nobody() {
    let world = World::calm();
    let (mut reactor, mut detached) = detached(&world);
    detached.ended = true;
    // Together more than the memory budget.
    detached.unsent = unsent(32);
    fault::install(failing(Call::Send, 1..=1, libc::ECONNRESET));
    reactor.net.adopt(detached, Told("second")).expect("it is connected");
    turn(&mut reactor, 10);
    fault::remove();
    assert!(matches!(reactor.app.why, Some(CloseReason::Error(_))), "{:?}", reactor.app.why);
    assert_eq!(reactor.net.stats().held, 0);
    reactor.app = App::default();
    let _other = world.connect(here());
    turn(&mut reactor, 10);
    assert!(reactor.app.token.is_some());
    assert!(reactor.app.why.is_none(), "it holds nothing: {:?}", reactor.app.why);
}

/// Those of the pieces behind it say less.
#[test]
fn an_adopted_connection_ends_by_the_first_error_that_it_met() {
    let world = World::calm();
    let (mut reactor, mut detached) = detached(&world);
    detached.unsent = unsent(2);
    let plan = failing(Call::Send, 1..=1, libc::ECONNRESET).with(Call::Send, 2, Fault::Fail(libc::EPIPE)).with(
        Call::Recv,
        1,
        Fault::Fail(libc::EAGAIN),
    );
    fault::install(plan);
    reactor.net.adopt(detached, Reader).expect("it is connected");
    turn(&mut reactor, 10);
    fault::remove();
    match &reactor.app.why {
        Some(CloseReason::Error(e)) => assert_eq!(e.raw_os_error(), Some(libc::ECONNRESET), "{e}"),
        other => panic!("{other:?}"),
    }
}
