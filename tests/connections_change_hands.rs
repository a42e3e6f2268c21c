//! A connection given to another owner, on another thread too, goes with all that was read and not consumed and all
//! that was taken and not sent.

mod support;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use plimsoll::{Bytes, BytesMut, CloseReason, Ctx, Detached, Fd, Handler, ListenOptions, Mailbox, Reactor, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use support::witness::{self, Record, Witness};
use support::{address_of, beside, join, pattern, peer, read_all, reset, turn_for, turn_until, upstream};

/// A reactor on a thread of its own, until it is stopped by mail; what its witnesses saw is what it ends with.
fn other_loop() -> (Mailbox<Record>, JoinHandle<Record>) {
    let (tell, told) = mpsc::channel();
    let thread = beside(move || {
        let mut reactor = witness::reactor();
        tell.send(reactor.net.mailbox()).expect("somebody waits for it");
        reactor.run().expect("it runs");
        reactor.into_app()
    });
    (told.recv().expect("a mailbox"), thread)
}

fn post(mailbox: &Mailbox<Record>, letter: impl FnOnce(&mut plimsoll::Loop<'_, Record>) + Send + 'static) {
    mailbox.post(letter).expect("the other loop runs");
}

/// Leaves everything unconsumed, until it is given away.
struct Reluctant;

impl Handler<Record> for Reluctant {
    fn on_data(&mut self, _: &mut Ctx<'_, Record>, _: &mut BytesMut) {}
    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

/// A connection of `reactor` with its peer, whose handler consumes nothing.
fn open(reactor: &mut Reactor<Record>) -> (TcpStream, Token) {
    let listener = reactor.net.listen("127.0.0.1:0", |ctx: &mut Ctx<'_, Record>, _| {
        ctx.app.opened.push(ctx.token);
        Some(Reluctant)
    });
    let before = reactor.app.opened.len();
    let peer = peer(address_of(reactor, listener.expect("it listens")));
    turn_until(reactor, "it is open", |reactor| reactor.app.opened.len() > before);
    (peer, reactor.app.opened[before])
}

#[test]
fn unread_and_unsent_bytes_go_along_to_a_reactor_on_another_thread() {
    let (mailbox, other) = other_loop();
    let mut reactor = witness::reactor();
    let (mut peer, token) = open(&mut reactor);
    peer.write_all(&pattern(300_000, 1)).expect("written");
    turn_until(&mut reactor, "it is unread", |reactor| reactor.net.unread(token) == 300_000);
    // Linked, packed and cut by the kernel somewhere in the middle.
    let mut sent = pattern(12 << 20, 2);
    reactor.net.send(token, sent.clone());
    for _ in 0..1_000 {
        reactor.net.send(token, b"small");
        sent.extend_from_slice(b"small");
    }
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(reactor.net.queued(token) > 0);

    let detached = reactor.net.detach(token).expect("it is open");
    assert_eq!(detached.unread.len(), 300_000);
    assert!(!detached.unsent.is_empty());
    assert_eq!(reactor.net.stats().held, 0);
    post(&mailbox, |lp| {
        let token = lp.net.adopt(detached, Witness).expect("adopted");
        lp.net.send(token, b", and more");
    });
    turn_until(&mut reactor, "it has left", |reactor| reactor.app.why(token).is_some());
    assert!(matches!(reactor.app.why(token), Some(CloseReason::Detached)));
    assert!(reactor.net.detach(token).is_none(), "stale");

    // Our loop is not turned any more: what follows is the other's work.
    peer.write_all(b"and still").expect("written");
    peer.shutdown(Shutdown::Write).expect("the half ends");
    sent.extend_from_slice(b", and more");
    assert!(read_all(&mut peer) == sent, "what was taken is sent, in order, once");
    post(&mailbox, |lp| lp.stop());
    let record = other.join().expect("the other loop ends");
    let mut expected = pattern(300_000, 1);
    expected.extend_from_slice(b"and still");
    assert_eq!(record.opened.len(), 1);
    assert!(record.input_of(record.opened[0]) == expected, "what was read is seen, in order, once");
    assert!(matches!(record.why(record.opened[0]), Some(CloseReason::Done)), "{:?}", record.closed);
}

/// Gives its own connection away in the middle of `on_data`, with a prefix consumed and a reply sent.
struct Handover(Mailbox<Record>);

impl Handler<Record> for Handover {
    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
        let line = input.split_to(end + 1);
        ctx.send(line.freeze());
        ctx.send(pattern(2_000, 3));
        let token = ctx.token;
        let mut detached = ctx.detach(token).expect("it is open");
        assert!(detached.unread.is_empty(), "what is in `input` is ours to take along");
        detached.unread = input.split();
        post(&self.0, |lp| {
            lp.net.adopt(detached, Witness).expect("adopted");
        });
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

#[test]
fn a_connection_can_be_given_away_in_its_own_callback() {
    let (mailbox, other) = other_loop();
    let mut reactor = witness::reactor();
    let shared = mailbox.clone();
    let listener = reactor.net.listen("127.0.0.1:0", move |_, _| Some(Handover(shared.clone())));
    let address = address_of(&reactor, listener.expect("it listens"));
    let peers: Vec<_> = (0..20)
        .map(|index| {
            beside(move || {
                let mut peer = peer(address);
                peer.write_all(format!("hello {index}\nand the rest").as_bytes()).expect("written");
                peer.write_all(&pattern(50_000, 4)).expect("written");
                peer.shutdown(Shutdown::Write).expect("the half ends");
                let mut expected = format!("hello {index}\n").into_bytes();
                expected.extend_from_slice(&pattern(2_000, 3));
                assert!(read_all(&mut peer) == expected);
            })
        })
        .collect();
    peers.into_iter().for_each(|peer| join(&mut reactor, peer));
    turn_until(&mut reactor, "all have left", |reactor| reactor.app.closed.len() == 20);
    assert!(reactor.app.closed.iter().all(|(_, why)| matches!(why, CloseReason::Detached)));
    post(&mailbox, |lp| lp.stop());
    let record = other.join().expect("the other loop ends");
    let mut expected = b"and the rest".to_vec();
    expected.extend_from_slice(&pattern(50_000, 4));
    assert_eq!(record.opened.len(), 20);
    for token in &record.opened {
        assert!(record.input_of(*token) == expected);
    }
}

#[test]
fn an_end_that_was_read_goes_along() {
    let mut reactor = witness::reactor();
    let (mut peer, token) = open(&mut reactor);
    peer.write_all(b"the last word").expect("written");
    turn_until(&mut reactor, "it is unread", |reactor| reactor.net.unread(token) == 13);
    reactor.net.send(token, pattern(12 << 20, 5));
    peer.shutdown(Shutdown::Write).expect("the half ends");
    turn_for(&mut reactor, Duration::from_millis(20));
    let detached = reactor.net.detach(token).expect("our half is open");
    let adopted = reactor.net.adopt(detached, Witness).expect("adopted");
    let read = beside(move || read_all(&mut peer));
    assert!(join(&mut reactor, read) == pattern(12 << 20, 5));
    turn_until(&mut reactor, "both halves end", |reactor| reactor.app.why(adopted).is_some());
    assert!(matches!(reactor.app.why(adopted), Some(CloseReason::Done)));
    assert_eq!(reactor.app.ended, [adopted]);
}

#[test]
fn an_end_of_ours_that_waits_behind_unsent_output_goes_along() {
    let mut reactor = witness::reactor();
    let (mut peer, token) = open(&mut reactor);
    reactor.net.send(token, pattern(12 << 20, 6));
    reactor.net.shutdown(token);
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(reactor.net.queued(token) > 0);
    let detached = reactor.net.detach(token).expect("the peer's half is open");
    let adopted = reactor.net.adopt(detached, Witness).expect("adopted");
    assert_eq!(reactor.net.send(adopted, b"x"), plimsoll::Flow::Closed, "our half has ended");
    let read = beside(move || {
        let all = read_all(&mut peer);
        peer.write_all(b"and yours").expect("written");
        all
    });
    assert!(join(&mut reactor, read) == pattern(12 << 20, 6));
    turn_until(&mut reactor, "both halves end", |reactor| reactor.app.why(adopted).is_some());
    assert!(matches!(reactor.app.why(adopted), Some(CloseReason::Done)));
    assert_eq!(reactor.app.input_of(adopted), b"and yours");
}

/// Waits until the kernel knows that a connection is over in both directions.
fn await_the_end(fd: &Fd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut fds, 30_000u16), Ok(1), "it is over in time");
    assert!(fds[0].any() == Some(true) && fds[0].revents().is_some_and(|told| told.contains(PollFlags::POLLHUP)));
}

/// How a connection ends while nobody owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// By the peer's FIN, after ours.
    Orderly,
    /// By an RST.
    Cut,
    /// By an RST, after our FIN.
    CutAfterOurs,
    /// By an RST, after the peer's FIN.
    CutAfterTheirs,
}

/// Detaches a connection with eight bytes unread, lets it end, adopts it, and turns until its handler has gone.
fn adopted_after(ending: Ending, unsent: usize) -> (Reactor<Record>, Token) {
    let mut reactor = witness::reactor();
    let (mut peer, token) = open(&mut reactor);
    peer.write_all(b"detached").expect("written");
    turn_until(&mut reactor, "it is unread", |reactor| reactor.net.unread(token) == 8);
    reactor.net.send(token, pattern(unsent, 8));
    if matches!(ending, Ending::Orderly | Ending::CutAfterOurs) {
        reactor.net.shutdown(token);
    }
    turn_for(&mut reactor, Duration::from_millis(20));
    let detached = reactor.net.detach(token).expect("it is open");
    assert_eq!(detached.unsent.is_empty(), unsent == 0);
    peer.write_all(b" and alone").expect("written");
    match ending {
        Ending::Orderly => drop(peer),
        Ending::Cut | Ending::CutAfterOurs => reset(peer),
        Ending::CutAfterTheirs => {
            peer.shutdown(Shutdown::Write).expect("the half ends");
            reset(peer);
        }
    }
    await_the_end(&detached.fd);
    let address = detached.peer.clone();
    let opened = reactor.app.opened.len();
    let adopted = reactor.net.adopt(detached, Witness).expect("it was connected");
    assert_eq!(reactor.net.peer_address(adopted), address);
    turn_until(&mut reactor, "its end is told", |reactor| reactor.app.why(adopted).is_some());
    assert_eq!(reactor.app.opened[opened..], [adopted], "on_open, before anything else");
    assert_eq!(reactor.net.stats().held, 0);
    (reactor, adopted)
}

#[test]
fn what_came_before_the_end_of_a_connection_without_an_owner_is_seen() {
    let (reactor, adopted) = adopted_after(Ending::Orderly, 0);
    assert_eq!(reactor.app.input_of(adopted), b"detached and alone");
    assert_eq!(reactor.app.ended, [adopted]);
    assert!(matches!(reactor.app.why(adopted), Some(CloseReason::Done)), "{:?}", reactor.app.closed);
    // Linux keeps what had arrived before the RST.
    for (ending, unsent) in [(Ending::Cut, 0), (Ending::Cut, 12 << 20), (Ending::CutAfterOurs, 0)] {
        let (reactor, adopted) = adopted_after(ending, unsent);
        assert_eq!(reactor.app.input_of(adopted), b"detached and alone", "{ending:?}");
        assert_eq!(reactor.app.ended, [], "{ending:?}: the peer's end was no end in order");
        let why = reactor.app.why(adopted);
        assert!(matches!(why, Some(CloseReason::Error(e)) if e.kind() == ErrorKind::ConnectionReset), "{why:?}");
    }
    let (reactor, adopted) = adopted_after(Ending::CutAfterTheirs, 12 << 20);
    assert_eq!(reactor.app.input_of(adopted), b"detached and alone");
    // Behind a FIN, this is how Linux tells of an RST.
    let why = reactor.app.why(adopted);
    assert!(matches!(why, Some(CloseReason::Error(e)) if e.kind() == ErrorKind::BrokenPipe), "{why:?}");
}

#[test]
fn what_came_before_the_end_of_a_unix_connection_without_an_owner_is_seen() {
    for cut in [false, true] {
        let mut reactor = witness::reactor();
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let token = reactor.net.adopt(Fd::from_owned(ours.into()), Reluctant).expect("a Unix stream is one");
        if cut {
            // A Unix socket that is closed with something unread is cut.
            reactor.net.send(token, b"who reads this?");
        } else {
            reactor.net.shutdown(token);
        }
        turn_for(&mut reactor, Duration::from_millis(1));
        let detached = reactor.net.detach(token).expect("it is open");
        theirs.write_all(b"the last word").expect("written");
        drop(theirs);
        await_the_end(&detached.fd);
        let adopted = reactor.net.adopt(detached, Witness).expect("it was connected");
        turn_until(&mut reactor, "its end is told", |reactor| reactor.app.why(adopted).is_some());
        assert_eq!(reactor.app.opened, [adopted]);
        assert_eq!(reactor.app.input_of(adopted), b"the last word");
        match reactor.app.why(adopted) {
            Some(CloseReason::Error(e)) => assert!(cut && e.kind() == ErrorKind::ConnectionReset, "{e}"),
            why => assert!(!cut && matches!(why, Some(CloseReason::Done)), "{why:?}"),
        }
    }
}

#[test]
fn a_socket_that_has_ended_is_adopted_from_an_owner_who_knows_its_peer() {
    let ended = || {
        let (listener, address) = upstream();
        let mut theirs = peer(address);
        let ours = support::accept(&listener);
        theirs.write_all(b"the last word").expect("written");
        reset(theirs);
        let fd = Fd::from_owned(ours.into());
        await_the_end(&fd);
        (Detached::from(fd), address)
    };
    let mut reactor = witness::reactor();
    // The kernel no longer tells it from one that never was connected.
    let refused = reactor.net.adopt(ended().0, Witness);
    assert_eq!(refused.expect_err("no peer").kind(), ErrorKind::NotConnected);
    let (detached, address) = ended();
    let adopted = reactor.net.adopt(Detached { peer: Some(address.into()), ..detached }, Witness).expect("adopted");
    turn_until(&mut reactor, "its end is told", |reactor| reactor.app.why(adopted).is_some());
    assert_eq!(reactor.app.input_of(adopted), b"the last word");
    let why = reactor.app.why(adopted);
    assert!(matches!(why, Some(CloseReason::Error(e)) if e.kind() == ErrorKind::ConnectionReset), "{why:?}");
}

/// Writes down the order of its callbacks.
struct Order;

impl Handler<Vec<&'static str>> for Order {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Vec<&'static str>>) {
        ctx.app.push("open");
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, Vec<&'static str>>, input: &mut BytesMut) {
        ctx.app.push("data");
        input.clear();
    }
    fn on_high_water(&mut self, ctx: &mut Ctx<'_, Vec<&'static str>>, _: usize) {
        ctx.app.push("high");
    }
    fn on_write_complete(&mut self, ctx: &mut Ctx<'_, Vec<&'static str>>) {
        ctx.app.push("complete");
    }
}

#[test]
fn on_open_comes_first_from_wherever_the_connection_was_adopted() {
    for len in [1_000, 12 << 20] {
        for place in ["before the loop", "mail", "deferred", "told"] {
            let mut reactor = Reactor::new(Vec::new()).expect("a reactor");
            let (listener, address) = upstream();
            let stream = peer(address);
            let mut kept = support::accept(&listener);
            kept.write_all(b"input").expect("written");
            let detached = Detached::from(Fd::from_owned(stream.into()));
            let detached = Detached { unsent: vec![Bytes::from(pattern(len, 7))], ..detached };
            match place {
                "before the loop" => drop(reactor.net.adopt(detached, Order).expect("adopted")),
                "mail" => drop(reactor.net.mailbox().post(|lp| {
                    lp.net.adopt(detached, Order).expect("adopted");
                })),
                "deferred" => reactor.net.defer(|lp| {
                    lp.net.adopt(detached, Order).expect("adopted");
                }),
                _ => reactor.net.defer(|lp| {
                    let token = lp.net.adopt(detached, Order).expect("adopted");
                    // Runs in the turn that was to open it.
                    lp.net.defer(move |lp| lp.net.tell::<Order>(token, |_, ctx| ctx.app.push("told")));
                    lp.net.tell::<Order>(token, |_, ctx| ctx.app.push("told"));
                }),
            }
            turn_until(&mut reactor, "its callbacks", |reactor| {
                reactor.app.contains(if len > 1_000 { &"high" } else { &"data" })
            });
            assert_eq!(reactor.app[0], "open", "adopted by {place}, {len} bytes unsent: {:?}", reactor.app);
            assert_eq!(reactor.app.iter().filter(|call| **call == "open").count(), 1);
        }
    }
}

#[test]
fn a_listening_socket_goes_to_another_loop_with_those_who_wait() {
    let (mailbox, other) = other_loop();
    let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = socket.local_addr().expect("an address");
    let copy = socket.try_clone().expect("a second handle");
    let mut reactor = witness::reactor();
    let listener = reactor.net.listen_fd(Fd::from_owned(socket.into()), ListenOptions::new(), |_, _| Some(Witness));
    let listener = listener.expect("adopted");
    let _first = peer(address);
    turn_until(&mut reactor, "it is let in", |reactor| reactor.app.opened.len() == 1);
    let mut second = peer(address);
    second.write_all(b"who serves me?").expect("written");
    // Ours goes, the socket stays.
    reactor.net.close(listener);
    turn_for(&mut reactor, Duration::from_millis(1));
    post(&mailbox, |lp| {
        let fd = Fd::from_owned(copy.into());
        lp.net.listen_fd(fd, ListenOptions::new(), |_, _| Some(Witness)).expect("adopted");
    });
    second.shutdown(Shutdown::Write).expect("the half ends");
    assert_eq!(read_all(&mut second), b"");
    post(&mailbox, |lp| lp.stop());
    let record = other.join().expect("the other loop ends");
    assert_eq!(record.input_of(record.opened[0]), b"who serves me?");
    assert_eq!(reactor.app.opened.len(), 1);
}

#[test]
fn what_is_no_connected_stream_is_not_adopted() {
    let mut reactor = witness::reactor();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let wrong = reactor.net.adopt(Fd::from_owned(datagrams.into()), Witness);
    assert_eq!(wrong.expect_err("no stream").kind(), ErrorKind::InvalidInput);
    let (listener, _) = upstream();
    let wrong = reactor.net.adopt(Fd::from_owned(listener.into()), Witness);
    assert_eq!(wrong.expect_err("not connected").kind(), ErrorKind::NotConnected);
    for domain in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Unix] {
        let never = socket(domain, SockType::Stream, SockFlag::empty(), None).expect("a socket");
        let wrong = reactor.net.adopt(Fd::from_owned(never), Witness);
        assert_eq!(wrong.expect_err("never connected").kind(), ErrorKind::NotConnected);
    }
    let (one, mut other) = UnixStream::pair().expect("a pair");
    let token = reactor.net.adopt(Fd::from_owned(one.into()), Witness).expect("a Unix stream is one");
    other.write_all(b"hello").expect("written");
    turn_until(&mut reactor, "it arrives", |reactor| reactor.app.input_of(token) == b"hello");
    reactor.net.close(token);
    let read = beside(move || other.read(&mut [0; 8]).expect("the end"));
    assert_eq!(join(&mut reactor, read), 0);
}
