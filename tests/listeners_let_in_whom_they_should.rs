//! A listener lets in the peers that it was asked to let in, on the addresses it was given, and no more of them.

mod support;

use plimsoll::{AtLimit, BytesMut, CloseReason, Ctx, Handler, ListenOptions, Reactor, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use support::witness::{Record, Witness, reactor};
use support::{Told, address_of, beside, hook, join, peer, read_all, turn_for, turn_until};

const MS: Duration = Duration::from_millis(1);

fn listen(reactor: &mut Reactor<Record>, address: &str, options: ListenOptions) -> (Token, SocketAddr) {
    let listener = reactor.net.listen_with(address, options, |_, _| Some(Witness)).expect("it listens");
    (listener, address_of(reactor, listener))
}

/// Whether a peer is let in: whether a byte of its arrives.
#[track_caller]
fn let_in(reactor: &mut Reactor<Record>, mut stream: &TcpStream) {
    let before: usize = reactor.app.input.values().map(Vec::len).sum();
    stream.write_all(b"x").expect("written");
    turn_until(reactor, "the byte arrives", |reactor| {
        reactor.app.input.values().map(Vec::len).sum::<usize>() == before + 1
    });
}

/// What a peer reads next, while the loop turns.
fn read_one(reactor: &mut Reactor<Record>, stream: &TcpStream) -> Result<usize, ErrorKind> {
    let mut stream = stream.try_clone().expect("a second handle");
    let read = beside(move || stream.read(&mut [0; 1]).map_err(|e| e.kind()));
    join(reactor, read)
}

#[test]
fn an_ipv6_listener_takes_both_families_or_only_its_own() {
    let mut reactor = reactor();
    let (_, dual) = listen(&mut reactor, "[::]:0", ListenOptions::new());
    let by_v4 = peer(SocketAddr::from(([127, 0, 0, 1], dual.port())));
    let_in(&mut reactor, &by_v4);
    let token = reactor.app.opened[0];
    let mapped = reactor.net.peer_address(token).and_then(|address| address.ip()).expect("an IP address");
    assert_eq!(mapped.ip().to_canonical(), by_v4.local_addr().expect("an address").ip());
    assert_eq!(mapped.port(), by_v4.local_addr().expect("an address").port());
    let by_v6 = peer(format!("[::1]:{}", dual.port()).parse().expect("an address"));
    let_in(&mut reactor, &by_v6);

    let (_, only_v6) = listen(&mut reactor, "[::]:0", ListenOptions::new().with(|o| o.only_v6 = true));
    let v4 = SocketAddr::from(([127, 0, 0, 1], only_v6.port()));
    assert_eq!(TcpStream::connect(v4).expect_err("not its family").kind(), ErrorKind::ConnectionRefused);
    let by_v6 = peer(format!("[::1]:{}", only_v6.port()).parse().expect("an address"));
    let_in(&mut reactor, &by_v6);
}

#[test]
fn the_factory_and_the_handler_know_the_peer() {
    let mut reactor = Reactor::new(Vec::new()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |ctx: &mut Ctx<'_, Vec<SocketAddr>>, peer| {
        assert_eq!(ctx.peer_address(ctx.token).as_ref(), Some(peer));
        ctx.app.extend(peer.ip());
        Some(|_: &mut Ctx<'_, Vec<SocketAddr>>, _: &mut BytesMut| {})
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let peers: Vec<_> = (0..20).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are let in", |reactor| reactor.app.len() == 20);
    let theirs: Vec<_> = peers.iter().map(|peer| peer.local_addr().expect("an address")).collect();
    assert_eq!(reactor.app, theirs);
}

#[test]
fn a_taken_port_is_an_error_unless_it_is_to_be_shared() {
    let mut reactor = reactor();
    let (_, taken) = listen(&mut reactor, "127.0.0.1:0", ListenOptions::new());
    let again = reactor.net.listen(taken, |_, _| Some(Witness));
    assert_eq!(again.expect_err("taken").kind(), ErrorKind::AddrInUse);

    let share = ListenOptions::new().with(|o| o.reuse_port = true);
    let (one, shared) = listen(&mut reactor, "127.0.0.1:0", share.clone());
    let (other, same) = listen(&mut reactor, &shared.to_string(), share);
    assert_eq!(shared, same);
    assert_ne!(one, other);
    // Either may have a peer; once one is closed the other has them all.
    let peers: Vec<_> = (0..16).map(|_| peer(shared)).collect();
    turn_until(&mut reactor, "all are let in", |reactor| reactor.app.opened.len() == peers.len());
    reactor.net.close(one);
    turn_for(&mut reactor, MS);
    let peers: Vec<_> = (0..16).map(|_| peer(shared)).collect();
    turn_until(&mut reactor, "all are let in", |reactor| reactor.app.opened.len() == 2 * peers.len());
}

#[test]
fn a_port_can_be_listened_on_again_at_once() {
    let mut reactor = reactor();
    let (listener, address) = listen(&mut reactor, "127.0.0.1:0", ListenOptions::new());
    let peer = peer(address);
    turn_until(&mut reactor, "it is let in", |reactor| reactor.app.opened.len() == 1);
    // We end first, so that the connection lingers in TIME-WAIT on our side.
    reactor.net.close(reactor.app.opened[0]);
    reactor.net.close(listener);
    let mut peer = peer;
    let read = beside(move || read_all(&mut peer));
    assert_eq!(join(&mut reactor, read), b"");
    turn_for(&mut reactor, MS);
    listen(&mut reactor, &address.to_string(), ListenOptions::new());
}

#[test]
fn the_backlog_holds_as_many_as_was_asked() {
    let mut reactor = reactor();
    let (_, address) = listen(&mut reactor, "127.0.0.1:0", ListenOptions::new().with(|o| o.backlog = 3));
    let connect = || TcpStream::connect_timeout(&address, 100 * MS);
    // The kernel's bound is one more than it is told.
    let waiting: Vec<_> = (0..4).map(|_| connect().expect("there is room")).collect();
    assert_eq!(connect().expect_err("no room").kind(), ErrorKind::TimedOut);
    for stream in &waiting {
        let_in(&mut reactor, stream);
    }
    let_in(&mut reactor, &connect().expect("there is room again"));
}

#[test]
fn at_its_limit_a_listener_that_pauses_leaves_peers_waiting_until_one_ends() {
    let mut reactor = reactor();
    let (_, address) = listen(&mut reactor, "127.0.0.1:0", ListenOptions::new().with(|o| o.max_connections = Some(3)));
    let mut peers: Vec<_> = (0..8).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "three are let in", |reactor| reactor.app.opened.len() == 3);
    let turns = reactor.net.stats().turns;
    turn_for(&mut reactor, 50 * MS);
    assert_eq!(reactor.app.opened.len(), 3);
    assert!(reactor.net.stats().turns - turns < 10, "it spins: {} turns", reactor.net.stats().turns - turns);
    for round in 1..=5 {
        drop(peers.remove(0));
        turn_until(&mut reactor, "the next one is let in", |reactor| reactor.app.opened.len() == 3 + round);
        turn_for(&mut reactor, 2 * MS);
        assert_eq!((reactor.app.opened.len(), reactor.app.closed.len()), (3 + round, round));
    }
    assert_eq!(reactor.net.stats().refused, 0);
}

#[test]
fn at_its_limit_a_listener_that_refuses_ends_peers_at_once() {
    let mut reactor = reactor();
    let options = ListenOptions::new().with(|o| {
        o.max_connections = Some(3);
        o.at_limit = AtLimit::Refuse;
    });
    let (_, address) = listen(&mut reactor, "127.0.0.1:0", options);
    let mut served: Vec<_> = (0..3).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "three are let in", |reactor| reactor.app.opened.len() == 3);
    for _ in 0..5 {
        let refused = peer(address);
        assert_eq!(read_one(&mut reactor, &refused), Ok(0));
    }
    assert_eq!((reactor.net.stats().refused, reactor.app.opened.len(), reactor.app.closed.len()), (5, 3, 0));
    drop(served.remove(0));
    turn_until(&mut reactor, "one ends", |reactor| reactor.app.closed.len() == 1);
    let_in(&mut reactor, &peer(address));
}

#[test]
fn a_connection_that_was_detached_is_not_counted_any_more() {
    let mut reactor = reactor();
    let (_, address) = listen(&mut reactor, "127.0.0.1:0", ListenOptions::new().with(|o| o.max_connections = Some(1)));
    let _first = peer(address);
    turn_until(&mut reactor, "one is let in", |reactor| reactor.app.opened.len() == 1);
    let second = peer(address);
    turn_for(&mut reactor, 10 * MS);
    assert_eq!(reactor.app.opened.len(), 1);
    let detached = reactor.net.detach(reactor.app.opened[0]).expect("it is open");
    let_in(&mut reactor, &second);
    drop(detached);
}

#[test]
fn a_factory_may_refuse_with_and_without_a_word() {
    let mut reactor = reactor();
    let mut count = 0;
    let listener = reactor.net.listen("127.0.0.1:0", move |ctx: &mut Ctx<'_, Record>, _| {
        count += 1;
        match count {
            1 => None,
            2 => {
                ctx.send(b"not you");
                None
            }
            3 => {
                ctx.abort();
                None
            }
            _ => Some(Witness),
        }
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let first = peer(address);
    assert_eq!(read_one(&mut reactor, &first), Ok(0));
    let mut second = peer(address);
    let second = beside(move || read_all(&mut second));
    assert_eq!(join(&mut reactor, second), b"not you");
    let third = peer(address);
    assert_eq!(read_one(&mut reactor, &third), Err(ErrorKind::ConnectionReset));
    let_in(&mut reactor, &peer(address));
    assert_eq!(reactor.net.stats().refused, 3);
    turn_until(&mut reactor, "its peer has gone", |reactor| reactor.app.closed.len() == 1);
    assert_eq!(reactor.net.tokens(), []);
}

#[test]
fn a_listener_may_be_closed_in_its_own_factory() {
    let mut reactor = reactor();
    reactor.app.pairs.clear();
    let listener = reactor.net.listen("127.0.0.1:0", |ctx: &mut Ctx<'_, Record>, _| {
        let (listener, _) = ctx.app.pairs[0];
        ctx.net.close(listener);
        Some(Witness)
    });
    let listener = listener.expect("it listens");
    reactor.app.pairs.push((listener, listener));
    let address = address_of(&reactor, listener);
    let first = peer(address);
    let others: Vec<_> = (0..5).map(|_| peer(address)).collect();
    let_in(&mut reactor, &first);
    for other in &others {
        assert_eq!(
            read_one(&mut reactor, other),
            Err(ErrorKind::ConnectionReset),
            "the backlog went with the listener"
        );
    }
    assert_eq!(TcpStream::connect(address).expect_err("closed").kind(), ErrorKind::ConnectionRefused);
    let_in(&mut reactor, &first);
    assert_eq!(reactor.app.opened.len(), 1);
}

#[test]
fn a_listening_socket_of_another_maker_can_be_adopted() {
    let mut reactor = reactor();
    let inherited = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = inherited.local_addr().expect("an address");
    // Came before we did, and is served like the others.
    let early = peer(address);
    let fd = plimsoll::Fd::from_owned(inherited.into());
    let listener = reactor.net.listen_fd(fd, ListenOptions::new(), |_, _| Some(Witness)).expect("adopted");
    assert_eq!(address_of(&reactor, listener), address);
    let_in(&mut reactor, &early);
    let_in(&mut reactor, &peer(address));

    let (connected, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let fd = plimsoll::Fd::from_owned(connected.into());
    let wrong = reactor.net.listen_fd(fd, ListenOptions::new(), |_, _| Some(Witness));
    assert_eq!(wrong.expect_err("it does not listen").kind(), ErrorKind::InvalidInput);
}

/// Counts what came in each turn.
struct Counted;

impl Handler<Vec<u64>> for Counted {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Vec<u64>>) {
        let turn = ctx.stats().turns;
        ctx.app.push(turn);
    }
    fn on_data(&mut self, _: &mut Ctx<'_, Vec<u64>>, _: &mut BytesMut) {}
    fn on_close(&mut self, _: &mut Ctx<'_, Vec<u64>>, why: CloseReason) {
        assert!(matches!(why, CloseReason::Done | CloseReason::Stopped));
    }
}

#[test]
fn no_turn_accepts_more_than_the_budget() {
    for budget in [1, 7] {
        let mut reactor = Reactor::new(Vec::new()).expect("a reactor");
        let options = ListenOptions::new().with(|o| o.accept_budget = budget);
        let listener = reactor.net.listen_with("127.0.0.1:0", options, |_, _| Some(Counted)).expect("it listens");
        let address = address_of(&reactor, listener);
        let peers: Vec<_> = (0..100).map(|_| peer(address)).collect();
        turn_until(&mut reactor, "all are let in", |reactor| reactor.app.len() == peers.len());
        let most = reactor.app.chunk_by(|one, other| one == other).map(<[u64]>::len).max();
        assert_eq!(most, Some(budget as usize));
    }
}

#[test]
fn a_listener_that_somebody_else_shuts_down_costs_no_processor() {
    use nix::sys::socket::{Shutdown, shutdown};
    use std::os::fd::AsRawFd;
    let mut reactor = reactor();
    let shared = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let ours = plimsoll::Fd::from_owned(shared.try_clone().expect("a second handle").into());
    reactor.net.listen_fd(ours, ListenOptions::new(), |_, _| Some(Witness)).expect("it listens");
    turn_for(&mut reactor, MS);
    shutdown(shared.as_raw_fd(), Shutdown::Both).expect("shut down");
    let before = reactor.net.stats().turns;
    turn_for(&mut reactor, 250 * MS);
    let turns = reactor.net.stats().turns - before;
    assert!(turns < 50, "{turns} turns in 250 ms");
}

#[test]
fn a_socket_that_is_opened_and_closed_in_one_on_close_keeps_nothing() {
    let kept = std::rc::Rc::new(());
    let (lent, mut reactor) = (kept.clone(), Reactor::new(false).expect("a reactor"));
    let listener = reactor.net.listen("127.0.0.1:0", move |_, _| {
        let lent = lent.clone();
        Some(hook(move |ctx: &mut Ctx<'_, bool>, told: Told<'_>| match told {
            Told::Eof(_) => ctx.shutdown(),
            Told::Close(_) => {
                let (one, two) = (lent.clone(), lent.clone());
                let listener = ctx.net.listen("127.0.0.1:0", move |_, _| {
                    let _ = &one;
                    None::<fn(&mut Ctx<'_, bool>, &mut BytesMut)>
                });
                let udp = ctx.net.udp("127.0.0.1:0", move |_, _| drop(two.clone()));
                ctx.net.close(listener.expect("it listens"));
                ctx.net.close(udp.expect("it is bound"));
                *ctx.app = true;
            }
            _ => {}
        }))
    });
    let listener = listener.expect("it listens");
    drop(peer(address_of(&reactor, listener)));
    turn_until(&mut reactor, "on_close", |reactor| reactor.app);
    reactor.net.close(listener);
    turn_for(&mut reactor, MS);
    assert_eq!(std::rc::Rc::strong_count(&kept), 1);
}
