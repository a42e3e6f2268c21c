//! Handlers that give back what comes: over TCP and Unix sockets, to two peers at once, and to more than there is
//! room for.

use super::super::peer::{Act, Door, Host, Peer};
use super::super::stage::{Entered, Ledger, Stage, Trouble, wrong};
use super::ask::Asker;
use super::tcp_peer;
use crate::handler::{Ctx, Handler};
use crate::options::{AtLimit, ListenOptions, StreamOptions};
use crate::sys::Address;
use bytes::BytesMut;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

/// Gives back what comes: as it is, or in pieces that are linked and not copied.
pub struct Echo {
    pub in_pieces: bool,
}

impl Handler<Ledger> for Echo {
    fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        if self.in_pieces {
            while !input.is_empty() {
                let piece = input.split_to(input.len().min(5_000)).freeze();
                ctx.send(piece);
            }
        } else {
            ctx.send(&input[..]);
            input.clear();
        }
    }
}

/// Each peer has got back what it sent, or the beginning of it if it was harmed.
pub fn echoed(stage: &Stage) -> Result<(), Trouble> {
    for (at, peer) in stage.peers.iter().enumerate() {
        let pattern = at as u8 + 1;
        if !peer.has_prefix_of(pattern) || peer.received.len() > peer.sent {
            return Err(wrong(format!("peer {at} has got what it did not send")));
        }
    }
    stage.all_but_the_harmed(|_, peer| peer.received.len() == peer.sent)
}

/// Two peers: small messages one by one, and a block that fills every buffer on its way before it is read.
pub fn echo(stage: &mut Stage) -> Result<(), Trouble> {
    let stream = StreamOptions::new().with(|o| {
        o.send_buffer = Some(32 * 1024);
        o.receive_buffer = Some(32 * 1024);
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    });
    let options = ListenOptions::new().with(|o| o.stream = stream);
    let mut in_pieces = false;
    let listener = stage.net().listen_with("127.0.0.1:0", options, move |ctx, _| {
        in_pieces = !in_pieces;
        Some(Entered::new(ctx.app, Echo { in_pieces }))
    })?;
    let address = stage.address(listener)?;
    let ping_pong = [Act::Send(64), Act::Expect(64), Act::Send(20_000), Act::Expect(20_064), Act::Shutdown];
    stage.peers.push(tcp_peer(&address, 1, &ping_pong));
    stage.peers.push(tcp_peer(&address, 2, &[Act::SendDeaf(400_000), Act::Shutdown]));
    stage.until("peers have their echo", Stage::peers_ended)?;
    echoed(stage)
}

/// Three peers, and room for one: the listener pauses and goes on.
pub fn crowd(stage: &mut Stage) -> Result<(), Trouble> {
    let options = ListenOptions::new().with(|o| {
        o.max_connections = Some(1);
        o.at_limit = AtLimit::Pause;
    });
    let listener = stage
        .net()
        .listen_with("127.0.0.1:0", options, |ctx, _| Some(Entered::new(ctx.app, Echo { in_pieces: false })))?;
    let address = stage.address(listener)?;
    for pattern in 1..=3 {
        stage.peers.push(tcp_peer(&address, pattern, &[Act::Send(100), Act::Expect(100), Act::Shutdown]));
    }
    stage.until("each has its turn", Stage::peers_ended)?;
    echoed(stage)
}

/// A path with a file left behind, an abstract name, and a connection of our own.
pub fn unix(stage: &mut Stage) -> Result<(), Trouble> {
    // Several threads may play this at once.
    static PLAYS: AtomicU32 = AtomicU32::new(0);
    let name = format!("plimsoll-sweep-{}-{}", std::process::id(), PLAYS.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(format!("{name}.sock"));
    let _ = std::fs::remove_file(&path);
    drop(UnixListener::bind(&path).expect("a file of ours"));
    let place = Address::Path(path.clone().into());
    let listened = stage.net().listen(place, |ctx, _| Some(Entered::new(ctx.app, Echo { in_pieces: true })));
    if let Err(e) = listened {
        let _ = std::fs::remove_file(&path);
        return Err(e.into());
    }
    let peer = UnixStream::connect(&path).expect("the backlog takes us");
    stage.peers.push(Peer::unix(peer, 1, &[Act::Send(64), Act::Expect(64), Act::SendDeaf(600_000), Act::Shutdown]));
    let host = unix_host(&name);
    stage.hosts.push(host);
    let asker = Entered::new(&mut stage.reactor.app, Asker { heard: 0 });
    stage.net().connect(Address::Abstract(name.into_bytes().into()), asker);
    stage.until("the peer has its echo, and we have our answer", |stage| {
        stage.peers[0].end.is_some() && stage.reactor.app.closes[0] == 1
    })?;
    stage.hosts.clear();
    stage.until("everybody has ended", Stage::peers_ended)?;
    let told = stage.reactor.app.counts;
    let peer = &stage.peers[0];
    if !peer.has_prefix_of(1) || told[1] > 0 {
        return Err(wrong("what came is not what was sent"));
    }
    if stage.unharmed() && told[0] != 1 {
        return Err(wrong("no answer has come"));
    }
    stage.all_but_the_harmed(|at, peer| at > 0 || peer.received.len() == 600_064)
}

fn unix_host(name: &str) -> Host {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a short name");
    let listener = UnixListener::bind_addr(&address).expect("a name of ours");
    listener.set_nonblocking(true).expect("a socket of ours");
    Host { door: Door::Unix(listener), pattern: 1, script: vec![Act::Expect(100), Act::Send(3_000), Act::Shutdown] }
}
