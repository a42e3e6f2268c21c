//! Sockets that others have made, and that go to others.

use super::super::peer::{Act, Peer};
use super::super::stage::{Entered, Ledger, Stage, Trouble, wrong};
use super::echo::{Echo, echoed};
use super::tcp_peer;
use crate::handler::{Ctx, Handler};
use crate::options::ListenOptions;
use crate::sys::Fd;
use bytes::BytesMut;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

/// Leaves everything for whoever comes after it.
struct Hoarder;

impl Handler<Ledger> for Hoarder {
    fn on_data(&mut self, _: &mut Ctx<'_, Ledger>, _: &mut BytesMut) {}
}

/// Sockets that somebody else has made: a listener, and a connection that is given away with input unread and comes
/// back. And what can be asked of a connection.
pub fn handover(stage: &mut Stage) -> Result<(), Trouble> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listener = stage.net().listen_fd(Fd::from_owned(listener.into()), ListenOptions::default(), |ctx, _| {
        let told = ctx.net.tcp_info(ctx.token).is_some() && ctx.net.interfaces().is_ok();
        ctx.app.counts[0] += u32::from(told);
        Some(Entered::new(ctx.app, Echo { in_pieces: false }))
    })?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::Send(100), Act::Expect(100), Act::Shutdown]));
    let (ours, theirs) = UnixStream::pair().expect("two descriptors");
    stage.peers.push(Peer::unix(theirs, 2, &[Act::Send(100), Act::Expect(100), Act::Shutdown]));
    let first = stage.adopt(Fd::from_owned(ours.into()), Hoarder)?;
    stage.until("it has read", move |stage| {
        stage.reactor.net.unread(first) == 100 || !stage.reactor.net.is_open(first)
    })?;
    if let Some(detached) = stage.net().detach(first) {
        stage.adopt(detached, Echo { in_pieces: true })?;
    } else if stage.unharmed() {
        return Err(wrong("it cannot be given away"));
    }
    stage.until("peers have their echo", Stage::peers_ended)?;
    if stage.unharmed() && stage.reactor.app.counts[0] != 1 {
        return Err(wrong("nothing is told of the connection"));
    }
    echoed(stage)
}
