//! What is played: one scene for each thing that a reactor is used for, as short as it can be and still come by
//! every system call.

use super::Scene;
use super::peer::{Act, Door, Host, Peer, speech};
use super::stage::{Entered, Ledger, Stage, Trouble, wrong};
use crate::connect::Target;
use crate::handler::{CloseReason, Ctx, Flow, Handler};
use crate::options::{AtLimit, DialOptions, ListenOptions, RelayOptions, StreamOptions};
use crate::sys::fault::{Call, Fault};
use crate::sys::{Address, Fd};
use bytes::{Bytes, BytesMut};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub fn all() -> Vec<Scene> {
    let scene = |name, play| Scene { name, play, given: &[] };
    vec![
        scene("echo", echo),
        scene("relay", relay),
        scene("dial", dial),
        scene("udp", udp),
        Scene { name: "udp, full", play: udp, given: &[(Call::SendBatch, 1, Fault::Fail(libc::EAGAIN))] },
        scene("timers", timers),
        scene("offload", offload),
        scene("unix", unix),
        scene("handover", handover),
        scene("turnover", turnover),
        scene("forward", forward),
        scene("crowd", crowd),
        Scene { name: "shortage", play: crowd, given: &[(Call::Accept, 2, Fault::Fail(libc::ENOMEM))] },
        Scene { name: "no fd", play: crowd, given: &[(Call::Accept, 1, Fault::Fail(libc::EMFILE))] },
        scene("stop", stop),
    ]
}

/// Gives back what comes: as it is, or in pieces that are linked and not copied.
struct Echo {
    in_pieces: bool,
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

fn tcp_address(address: &Address) -> SocketAddr {
    address.ip().expect("an address of ours")
}

fn tcp_peer(address: &Address, pattern: u8, script: &[Act]) -> Peer {
    let stream = TcpStream::connect(tcp_address(address)).expect("the backlog takes us");
    Peer::tcp(stream, pattern, script)
}

fn tcp_host(pattern: u8, script: &[Act]) -> (Host, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket of ours");
    let address = listener.local_addr().expect("it is bound");
    (Host { door: Door::Tcp(listener), pattern, script: script.to_vec() }, address)
}

/// Each peer has got back the beginning of what it sent.
fn echoed(stage: &Stage) -> Result<(), Trouble> {
    for (at, peer) in stage.peers.iter().enumerate() {
        let pattern = at as u8 + 1;
        if !peer.has_prefix_of(pattern) || peer.received.len() > peer.sent {
            return Err(wrong(format!("peer {at} has got what it did not send")));
        }
        if stage.passing && peer.received.len() != peer.sent {
            return Err(wrong(format!("peer {at} has got {} of {} bytes", peer.received.len(), peer.sent)));
        }
    }
    Ok(())
}

/// Two peers: small messages one by one, and a block that fills every buffer on its way before it is read.
fn echo(stage: &mut Stage) -> Result<(), Trouble> {
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

/// The first to hear something ends all others, and makes a new connection in their place.
struct Rival;

impl Handler<Ledger> for Rival {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.app.tokens.push(ctx.token);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        input.clear();
        for rival in std::mem::take(&mut ctx.app.tokens).into_iter().filter(|rival| *rival != ctx.token) {
            ctx.net.abort(rival);
            let port = ctx.app.counts[3] as u16;
            let asker = Entered::new(ctx.app, Asker { heard: 0 });
            ctx.net.connect(SocketAddr::from(([127, 0, 0, 1], port)), asker);
        }
        ctx.send("won");
        ctx.shutdown();
    }
}

/// Two rivals hear something in the same turn: the event of the one that is aborted stands behind the other's, and a
/// connection is made meanwhile.
fn turnover(stage: &mut Stage) -> Result<(), Trouble> {
    stage.cuts = true;
    let (host, upstream) = tcp_host(1, &[Act::Expect(100), Act::Send(3_000), Act::Shutdown]);
    stage.hosts.push(host);
    stage.reactor.app.counts[3] = u32::from(upstream.port());
    let listener = stage.net().listen("127.0.0.1:0", |ctx, _| Some(Entered::new(ctx.app, Rival)))?;
    let address = stage.address(listener)?;
    for pattern in 1..=2 {
        stage.peers.push(tcp_peer(&address, pattern, &[]));
    }
    stage.until("both are there", |stage| {
        let s = stage.reactor.net.stats();
        s.accepts + s.refused >= 2
    })?;
    for peer in &mut stage.peers {
        peer.go_on(&[Act::Send(10), Act::Shutdown]);
    }
    stage.until("everybody has ended", |stage| {
        stage.peers_ended() && stage.reactor.app.closes.iter().all(|closes| *closes > 0)
    })?;
    let won = stage.peers.iter().filter(|peer| peer.received == b"won").count();
    let [answers, false_answers, ..] = stage.reactor.app.counts;
    if stage.passing && (won, answers) != (1, 1) || false_answers > 0 {
        return Err(wrong(format!("{won} have won, {answers} answers came, {false_answers} pieces false")));
    }
    Ok(())
}

/// What comes is passed on to the first who came, in slices of the read buffer.
struct Forward;

impl Handler<Ledger> for Forward {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.app.tokens.push(ctx.token);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        let slices = input.split().freeze();
        let first = ctx.app.tokens[0];
        if first != ctx.token {
            ctx.net.send(first, slices);
        }
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_, Ledger>, _input: &mut BytesMut) {
        let first = ctx.app.tokens[0];
        if first == ctx.token {
            ctx.app.counts[0] += 1;
        } else {
            ctx.net.shutdown(first);
            ctx.shutdown();
        }
    }
}

/// A peer that has ended its half is sent what another one says, under both time-outs.
fn forward(stage: &mut Stage) -> Result<(), Trouble> {
    let options = ListenOptions::new().with(|o| {
        o.stream.idle_timeout = Some(Duration::from_secs(5));
        o.stream.stalled_timeout = Some(Duration::from_secs(5));
    });
    let listener = stage.net().listen_with("127.0.0.1:0", options, |ctx, _| Some(Entered::new(ctx.app, Forward)))?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::Send(10), Act::Shutdown]));
    stage.until("the first has ended its half", |stage| stage.reactor.app.counts[0] > 0 || stage.peers_ended())?;
    stage.peers.push(tcp_peer(&address, 2, &[Act::Send(3_000), Act::Shutdown]));
    stage.until("both have ended", Stage::peers_ended)?;
    let got = &stage.peers[0];
    if !got.has_prefix_of(2) || stage.passing && got.received.len() != 3_000 {
        return Err(wrong(format!("{} bytes were passed on, or false ones", got.received.len())));
    }
    Ok(())
}

/// Three peers, and room for one: the listener pauses and goes on.
fn crowd(stage: &mut Stage) -> Result<(), Trouble> {
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

/// One side of a relay: what comes before the two are joined is nobody's.
struct Side;

impl Handler<Ledger> for Side {
    fn on_data(&mut self, _: &mut Ctx<'_, Ledger>, _: &mut BytesMut) {}
}

/// A client and its upstream, joined; both write more than the buffers hold before they read.
fn relay(stage: &mut Stage) -> Result<(), Trouble> {
    let (host, upstream) = tcp_host(2, &[Act::SendDeaf(300_000), Act::Shutdown]);
    stage.hosts.push(host);
    let small = StreamOptions::new().with(|o| {
        o.send_buffer = Some(32 * 1024);
        o.receive_buffer = Some(32 * 1024);
    });
    let outward = std::rc::Rc::new(small.clone());
    let joint = RelayOptions::new().with(|o| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    });
    let options = ListenOptions::new().with(|o| o.stream = small);
    let listener = stage.net().listen_with("127.0.0.1:0", options, move |ctx, _| {
        let there = Entered::new(ctx.app, Side);
        let other = ctx.net.connect_with(upstream, outward.clone(), there);
        let here = Entered::new(ctx.app, Side);
        ctx.net.relay(ctx.token, other, joint.clone());
        Some(here)
    })?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::SendDeaf(300_000), Act::Shutdown]));
    let passing = stage.passing;
    stage.until("both sides have the other's bytes", |stage| {
        stage.peers_ended() && (stage.peers.len() == 2 || !passing)
    })?;
    for (at, peer) in stage.peers.iter().enumerate() {
        let other = if at == 0 { 2 } else { 1 };
        if !peer.has_prefix_of(other) || peer.received.len() > 300_000 {
            return Err(wrong(format!("side {at} has got what the other did not send")));
        }
        if stage.passing && peer.received.len() != 300_000 {
            return Err(wrong(format!("side {at} has got {} bytes", peer.received.len())));
        }
    }
    Ok(())
}

/// Asks once, reads the answer to its end, and counts it.
struct Asker {
    heard: usize,
}

impl Handler<Ledger> for Asker {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.send(speech(7, 100));
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        let before = self.heard;
        self.heard += input.len();
        ctx.app.counts[1] += u32::from(input[..] != speech(1, self.heard)[before..]);
        input.clear();
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_, Ledger>, _: &mut BytesMut) {
        ctx.app.counts[0] += u32::from(self.heard == 3_000);
        ctx.shutdown();
    }
}

/// A dialer whose host ends every connection after its answer: whatever fails, three answers come in the end.
fn dial(stage: &mut Stage) -> Result<(), Trouble> {
    let (host, upstream) = tcp_host(1, &[Act::Expect(100), Act::Send(3_000), Act::Shutdown]);
    stage.hosts.push(host);
    let options = DialOptions::new().with(|o| {
        o.first_delay = Duration::from_millis(10);
        o.max_delay = Duration::from_millis(50);
    });
    let dial = stage.net().dial(upstream, options, |ctx| Entered::new(ctx.app, Asker { heard: 0 }));
    stage.until("three answers", |stage| stage.reactor.app.counts[0] >= 3)?;
    if !stage.net().cancel_dial(dial) {
        return Err(wrong("the dialer is gone"));
    }
    stage.hosts.clear();
    stage.until("hosts have their end", Stage::peers_ended)?;
    if stage.reactor.app.counts[1] > 0 {
        return Err(wrong("an answer differs from what was sent"));
    }
    Ok(())
}

/// Datagrams go back to where they came from; one socket asks, through the loop as well.
fn udp(stage: &mut Stage) -> Result<(), Trouble> {
    const DATAGRAMS: u32 = 12;
    let server = stage.net().udp("127.0.0.1:0", |ctx, datagram| {
        ctx.app.counts[0] += 1;
        let (from, data) = (datagram.from.clone(), Bytes::copy_from_slice(datagram.data));
        ctx.net.send_from(ctx.token, from, data, datagram.interface, datagram.local);
    })?;
    let asker = stage.net().udp("127.0.0.1:0", |ctx, datagram| {
        // In order, each once; one that the kernel would not have is left out.
        let number = u32::from_be_bytes(datagram.data.try_into().unwrap_or([0xff; 4]));
        ctx.app.counts[2] += u32::from(number < ctx.app.counts[3]);
        ctx.app.counts[3] = number + 1;
        ctx.app.counts[1] += 1;
    })?;
    let to = stage.address(server)?;
    let (first, second) = (0..DATAGRAMS / 2, DATAGRAMS / 2..DATAGRAMS);
    for batch in [first, second] {
        for number in batch.clone() {
            stage.net().send_to(asker, &to, &number.to_be_bytes()[..]);
        }
        let end = batch.end;
        stage.until("all datagrams are back, or dropped", |stage| {
            let dropped = stage.reactor.net.stats().datagrams_dropped;
            u64::from(stage.reactor.app.counts[1]) + dropped >= u64::from(end)
        })?;
    }
    let outside = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    outside.set_nonblocking(true).expect("a socket of ours");
    outside.send_to(b"abcd", tcp_address(&to)).expect("loopback takes it");
    let dropped = stage.reactor.net.stats().datagrams_dropped;
    let answer = std::cell::Cell::new(None);
    stage.until("a stranger is answered", |stage| {
        let mut buffer = [0; 16];
        if let Ok((n, _)) = outside.recv_from(&mut buffer) {
            answer.set(Some(buffer[..n].to_vec()));
        }
        answer.take().inspect(|bytes| assert_eq!(bytes, b"abcd")).is_some()
            || stage.reactor.net.stats().datagrams_dropped > dropped
    })?;
    let [asked, back, disorder, _] = stage.reactor.app.counts;
    if disorder > 0 || stage.passing && (asked, back) != (DATAGRAMS + 1, DATAGRAMS) {
        return Err(wrong(format!("{asked} datagrams came, {back} came back, {disorder} out of order")));
    }
    Ok(())
}

/// One connection with timers of its own, timers of the loop, mail from this thread and from another.
fn timers(stage: &mut Stage) -> Result<(), Trouble> {
    struct Ticker {
        heard: usize,
    }
    impl Handler<Ledger> for Ticker {
        fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
            ctx.timer(1, Duration::from_millis(20));
        }
        fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
            self.heard += input.len();
            input.clear();
            if self.heard == 5 {
                ctx.send("heard");
            }
        }
        fn on_timer(&mut self, ctx: &mut Ctx<'_, Ledger>, key: u32) {
            ctx.send("tick ");
            if key < 3 {
                ctx.timer(key + 1, Duration::from_millis(20));
            } else {
                ctx.app.counts[0] += 1;
            }
        }
    }
    let listener = stage.net().listen("127.0.0.1:0", |ctx, _| Some(Entered::new(ctx.app, Ticker { heard: 0 })))?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::Expect(15), Act::Send(5), Act::Expect(20), Act::Shutdown]));
    stage.net().after(Duration::from_millis(30), |lp| lp.app.counts[1] += 1);
    let every = stage.net().every(Duration::from_millis(15), |lp| lp.app.counts[2] += 1);
    let mailbox = stage.net().mailbox();
    // Between two turns the loop counts as asleep, so the first post of each rings.
    for _ in 0..3 {
        let sent = mailbox.post(|lp| lp.app.counts[3] += 1);
        sent.map_err(|_| wrong("mail is refused"))?;
        stage.until("mail arrives", |stage| stage.reactor.app.counts[3] % 2 == 1)?;
        let mailbox = mailbox.clone();
        let other = std::thread::spawn(move || mailbox.post(|lp| lp.app.counts[3] += 1).is_ok());
        let posted = other.join().expect("posting does not panic");
        stage.until("mail of another thread arrives", |stage| stage.reactor.app.counts[3] % 2 == 0)?;
        if !posted {
            return Err(wrong("mail is refused"));
        }
    }
    let passing = stage.passing;
    stage.until("every timer runs", |stage| {
        let [ticks, once, many, _] = stage.reactor.app.counts;
        once == 1 && many >= 4 && (ticks == 1 || !passing)
    })?;
    stage.net().cancel(every);
    stage.until("the peer has its ticks", Stage::peers_ended)?;
    if stage.passing && stage.peers[0].received != b"tick tick tick heard" {
        return Err(wrong(String::from_utf8_lossy(&stage.peers[0].received)));
    }
    Ok(())
}

/// Work on another thread, and a name that is looked up there.
fn offload(stage: &mut Stage) -> Result<(), Trouble> {
    let (host, upstream) = tcp_host(1, &[Act::Expect(100), Act::Send(3_000), Act::Shutdown]);
    stage.hosts.push(host);
    let handler = Entered::new(&mut stage.reactor.app, Asker { heard: 0 });
    stage.net().connect(Target::from(("localhost", upstream.port())), handler);
    let done = |lp: &mut crate::handler::Loop<'_, Ledger>, sum: Result<u32, _>| {
        lp.app.counts[2] += sum.unwrap_or(0);
    };
    let submitted = stage.net().offload(|| (1..=4).sum::<u32>(), done);
    let accepted = submitted.is_ok();
    if !accepted && stage.passing {
        return Err(wrong("work is refused"));
    }
    stage.until("the sum comes back", |stage| !accepted || stage.reactor.app.counts[2] == 10)?;
    stage.until("the connection has ended", |stage| stage.reactor.app.closes == [1])?;
    stage.hosts.clear();
    stage.until("its peer has, too", Stage::peers_ended)?;
    if stage.passing && stage.reactor.app.counts[..2] != [1, 0] {
        return Err(wrong("the answer is not what was sent"));
    }
    Ok(())
}

/// A path with a file left behind, an abstract name, and a connection of our own.
fn unix(stage: &mut Stage) -> Result<(), Trouble> {
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
    if stage.passing && (peer.received.len() != 600_064 || told[0] != 1) {
        return Err(wrong(format!("{} bytes of echo, {} answers", peer.received.len(), told[0])));
    }
    Ok(())
}

fn unix_host(name: &str) -> Host {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a short name");
    let listener = UnixListener::bind_addr(&address).expect("a name of ours");
    listener.set_nonblocking(true).expect("a socket of ours");
    Host { door: Door::Unix(listener), pattern: 1, script: vec![Act::Expect(100), Act::Send(3_000), Act::Shutdown] }
}

/// Leaves everything for whoever comes after it.
struct Hoarder;

impl Handler<Ledger> for Hoarder {
    fn on_data(&mut self, _: &mut Ctx<'_, Ledger>, _: &mut BytesMut) {}
}

/// Sockets that somebody else has made: a listener, and a connection that is given away with input unread and comes
/// back. And what can be asked of a connection.
fn handover(stage: &mut Stage) -> Result<(), Trouble> {
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
    } else if stage.passing {
        return Err(wrong("it cannot be given away"));
    }
    stage.until("peers have their echo", Stage::peers_ended)?;
    if stage.passing && stage.reactor.app.counts[0] != 1 {
        return Err(wrong("nothing is told of the connection"));
    }
    echoed(stage)
}

/// Says much, and is told to stop while most of it is still queued.
struct Talker;

impl Handler<Ledger> for Talker {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.app.counts[0] += u32::from(ctx.send(speech(9, 200_000)) == Flow::Closed);
    }

    fn on_data(&mut self, _: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        input.clear();
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Ledger>, why: CloseReason) {
        ctx.app.counts[1] += u32::from(matches!(why, CloseReason::Stopped));
    }
}

/// A stop with nothing queued, with much queued, and with a connection that is closed already.
fn stop(stage: &mut Stage) -> Result<(), Trouble> {
    let stream = StreamOptions::new().with(|o| o.send_buffer = Some(16 * 1024));
    let options = ListenOptions::new().with(|o| o.stream = stream);
    let talk = stage.net().listen_with("127.0.0.1:0", options, |ctx, _| Some(Entered::new(ctx.app, Talker)))?;
    let idle = stage.net().listen("127.0.0.1:0", |ctx, _| Some(Entered::new(ctx.app, Echo { in_pieces: false })))?;
    let (talk, idle) = (stage.address(talk)?, stage.address(idle)?);
    stage.peers.push(tcp_peer(&idle, 1, &[Act::Send(10), Act::Expect(10)]));
    stage.until("a peer has its echo", |stage| stage.peers[0].received.len() == 10 || stage.peers[0].end.is_some())?;
    // These hear nothing until they have found for a while that they cannot send: by then they are told to stop.
    stage.peers.push(tcp_peer(&talk, 2, &[]));
    stage.peers.push(tcp_peer(&talk, 3, &[Act::Send(10)]));
    stage.until("the speech begins", |stage| {
        stage.reactor.net.stats().accepts + stage.reactor.net.stats().refused >= 3
    })?;
    stage.net().stop();
    stage.until("all have ended", |stage| stage.reactor.is_stopped())?;
    stage.until("peers have read to the end", Stage::peers_ended)?;
    for peer in &stage.peers[1..] {
        if !peer.has_prefix_of(9) || stage.passing && peer.received.len() != 200_000 {
            return Err(wrong(format!("a peer has got {} bytes of the speech", peer.received.len())));
        }
    }
    Ok(())
}
