//! A process without a free descriptor refuses peers at once, serves those it has, idles, and recovers.
//!
//! The limit and the descriptors are the whole process's, so the tests of this file take turns.

mod support;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, socket};
use nix::sys::time::TimeValLike;
use plimsoll::{BytesMut, CloseReason, Ctx, Handler, Reactor};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::{address_of, turn_for, turn_until};

const MS: Duration = Duration::from_millis(1);

/// Lowers the limit of descriptors for one test at a time, and puts it back.
struct Limit {
    soft: u64,
    hard: u64,
    _turn: MutexGuard<'static, ()>,
}

impl Limit {
    fn ours() -> Limit {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        Limit { soft, hard, _turn: turn }
    }

    /// Leaves exactly so many descriptors free.
    fn leave(&self, free: usize) {
        // The kernel gives out the lowest free number, and the limit is on numbers.
        let placeholder = |_| std::fs::File::open("/dev/null").expect("the limit is not lowered yet");
        let placeholders: Vec<_> = (0..=free).map(placeholder).collect();
        let first_forbidden = placeholders[free].as_raw_fd();
        setrlimit(Resource::RLIMIT_NOFILE, first_forbidden as u64, self.hard).expect("a lower limit");
    }

    /// Forbids every new descriptor, also in place of one that is given up.
    fn leave_none_ever(&self) {
        setrlimit(Resource::RLIMIT_NOFILE, 3, self.hard).expect("a lower limit");
    }

    fn lift(&self) {
        setrlimit(Resource::RLIMIT_NOFILE, self.soft, self.hard).expect("the former limit");
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.lift();
    }
}

#[derive(Default)]
struct Record {
    opened: usize,
    closed: usize,
}

struct Echo;

impl Handler<Record> for Echo {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Record>) {
        ctx.app.opened += 1;
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        ctx.send(&input[..]);
        input.clear();
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        assert!(matches!(why, CloseReason::Done), "{why:?}");
        ctx.app.closed += 1;
    }
}

fn echo() -> (Reactor<Record>, SocketAddr) {
    let mut reactor = Reactor::new(Record::default()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Echo)).expect("it listens");
    let address = address_of(&reactor, listener);
    (reactor, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the kernel answers");
    stream.set_nonblocking(true).expect("non-blocking");
    stream
}

/// What there is to read: nothing yet, bytes, or an end of either kind.
fn peek(mut stream: &TcpStream) -> Result<usize, ErrorKind> {
    stream.read(&mut [0; 16]).map_err(|e| e.kind())
}

#[track_caller]
fn refused(reactor: &mut Reactor<Record>, stream: &TcpStream) {
    let before = reactor.net.stats().turns;
    turn_until(reactor, "the peer is refused", |_| peek(stream) != Err(ErrorKind::WouldBlock));
    assert!(matches!(peek(stream), Ok(0) | Err(ErrorKind::ConnectionReset)), "{:?}", peek(stream));
    // In turns, since a busy machine may take its time for one; those that wait in vain take 20 ms.
    let turns = reactor.net.stats().turns - before;
    assert!(turns < 25, "{turns} turns");
}

#[track_caller]
fn echoed(reactor: &mut Reactor<Record>, mut stream: &TcpStream) {
    stream.write_all(b"x").expect("written");
    turn_until(reactor, "the echo", |_| peek(stream) == Ok(1));
}

/// Turns and processor time that a while of nothing costs.
fn idles(reactor: &mut Reactor<Record>) {
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("the kernel counts");
        (usage.user_time() + usage.system_time()).num_milliseconds()
    };
    let (turns, before) = (reactor.net.stats().turns, cpu());
    turn_for(reactor, 300 * MS);
    let (turns, spent) = (reactor.net.stats().turns - turns, cpu() - before);
    assert!(turns < 20, "{turns} turns in 300 ms");
    assert!(spent < 100, "{spent} ms of processor time in 300 ms");
}

#[test]
fn the_101st_peer_is_refused_at_once_and_the_hundred_go_on() {
    let limit = Limit::ours();
    let (mut reactor, address) = echo();
    let peers: Vec<_> = (0..130).map(|_| connect(address)).collect();
    limit.leave(100);
    turn_until(&mut reactor, "a hundred are let in", |reactor| reactor.app.opened == 100);
    for peer in &peers[100..] {
        refused(&mut reactor, peer);
    }
    assert_eq!((reactor.net.stats().refused, reactor.app.opened), (30, 100));
    idles(&mut reactor);
    for peer in &peers[..100] {
        echoed(&mut reactor, peer);
    }
    assert_eq!(reactor.app.closed, 0);
}

#[test]
fn peers_are_let_in_again_when_others_have_gone() {
    let limit = Limit::ours();
    let (mut reactor, address) = echo();
    let mut peers: Vec<_> = (0..12).map(|_| connect(address)).collect();
    limit.leave(10);
    for peer in peers.drain(10..) {
        refused(&mut reactor, &peer);
    }
    for round in 1..=20 {
        // Gives back its number and, when the loop has turned, that of its connection: one for each side of the next.
        drop(peers.remove(0));
        turn_until(&mut reactor, "one ends", |reactor| reactor.app.closed == round);
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
        let next = connect(address);
        echoed(&mut reactor, &next);
        peers.push(next);
    }
    assert_eq!(reactor.app.opened, 30);
    assert_eq!(reactor.net.stats().refused, 2);
}

/// In one turn a connection ends and a peer comes: there is room for it as soon as the turn is over.
#[test]
fn a_peer_is_not_refused_while_a_descriptor_is_about_to_be_released() {
    let limit = Limit::ours();
    let (mut reactor, address) = echo();
    let peers: Vec<_> = (0..10).map(|_| connect(address)).collect();
    let late = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("a socket");
    limit.leave(10);
    turn_until(&mut reactor, "ten are let in", |reactor| reactor.app.opened == 10);
    // A wait that finds nobody takes the listener out of the kernel's list, where it would come first.
    turn_for(&mut reactor, MS);
    // The loop hears of the one and then of the other, in one turn.
    peers[0].shutdown(Shutdown::Both).expect("it ends");
    let SocketAddr::V4(v4) = address else { unreachable!("an IPv4 listener") };
    nix::sys::socket::connect(late.as_raw_fd(), &SockaddrIn::from(v4)).expect("the kernel answers");
    let late = TcpStream::from(late);
    late.set_nonblocking(true).expect("non-blocking");
    echoed(&mut reactor, &late);
    assert_eq!((reactor.net.stats().refused, reactor.app.closed), (0, 1));
}

#[test]
fn without_a_spare_the_listener_rests_and_peers_wait_until_there_are_descriptors() {
    let limit = Limit::ours();
    let (mut reactor, address) = echo();
    let served = connect(address);
    echoed(&mut reactor, &served);
    let waiting: Vec<_> = (0..5).map(|_| connect(address)).collect();
    limit.leave_none_ever();
    turn_for(&mut reactor, 150 * MS);
    idles(&mut reactor);
    echoed(&mut reactor, &served);
    assert_eq!(reactor.app.opened, 1);
    limit.lift();
    for peer in &waiting {
        echoed(&mut reactor, peer);
    }
    assert_eq!((reactor.net.stats().refused, reactor.app.opened), (0, 6));
    // And the spare is there again.
    let late: Vec<_> = (0..2).map(|_| connect(address)).collect();
    limit.leave(1);
    echoed(&mut reactor, &late[0]);
    refused(&mut reactor, &late[1]);
}

#[test]
fn connecting_without_a_descriptor_says_why() {
    let limit = Limit::ours();
    let (mut reactor, address) = echo();
    limit.leave(0);
    struct Failing;
    impl Handler<Record> for Failing {
        fn on_data(&mut self, _: &mut Ctx<'_, Record>, _: &mut BytesMut) {}
        fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
            let CloseReason::Connect(e) = why else { panic!("{why:?}") };
            assert_eq!(e.raw_os_error(), Some(nix::libc::EMFILE));
            ctx.app.closed += 1;
        }
    }
    reactor.net.connect(address, Failing);
    turn_until(&mut reactor, "the outcome", |reactor| reactor.app.closed == 1);
}
