//! Unix stream sockets, by path and by abstract name, behave as TCP sockets do, and their files are looked after.

mod support;

use plimsoll::{Address, ListenOptions, Reactor, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::witness::Witness;
use support::{DEADLINE, beside, join, pattern, turn_for, turn_until, witness};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("plimsoll-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Directory(path)
    }

    fn socket(&self) -> (PathBuf, Address) {
        let path = self.0.join("socket");
        let address = Address::Path(path.clone().into());
        (path, address)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn echo<A: 'static>(reactor: &mut Reactor<A>, address: &Address) -> std::io::Result<Token> {
    reactor.net.serve(address, |ctx, input| {
        ctx.send(&input[..]);
        input.clear();
    })
}

fn with_deadlines(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(DEADLINE)).expect("a read time-out");
    stream.set_write_timeout(Some(DEADLINE)).expect("a write time-out");
    stream
}

/// Sends everything, ends its half, and reads at the same time until the other half ends.
fn exchange(stream: UnixStream, data: Vec<u8>) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a second handle");
    let writer = beside(move || {
        writer.write_all(&data).expect("written");
        writer.shutdown(Shutdown::Write).expect("the half ends");
    });
    let mut all = Vec::new();
    with_deadlines(stream).read_to_end(&mut all).expect("the stream ends in order");
    writer.join().expect("everything is written");
    all
}

#[test]
fn bulk_data_is_echoed_by_path_and_by_abstract_name() {
    let directory = Directory::new("bulk");
    let (path, by_path) = directory.socket();
    let name = format!("plimsoll-bulk-{}", std::process::id());
    let by_name = Address::Abstract(name.clone().into_bytes().into());
    let mut reactor = Reactor::new(()).expect("a reactor");
    for address in [&by_path, &by_name] {
        let listener = echo(&mut reactor, address).expect("it listens");
        assert_eq!(reactor.net.local_address(listener).as_ref(), Some(address));
    }
    let by_path = beside(move || exchange(UnixStream::connect(path).expect("connected"), pattern(20 << 20, 1)));
    let name = SocketAddr::from_abstract_name(name).expect("a name");
    let by_name = beside(move || exchange(UnixStream::connect_addr(&name).expect("connected"), pattern(20 << 20, 2)));
    assert!(join(&mut reactor, by_path) == pattern(20 << 20, 1));
    assert!(join(&mut reactor, by_name) == pattern(20 << 20, 2));
    turn_until(&mut reactor, "both end", |reactor| reactor.net.tokens().is_empty());
    assert_eq!(reactor.net.stats().held, 0);
}

/// A Unix socket that is asked about OUT reports it whenever its peer has read: so it is asked only while output
/// waits.
#[test]
fn room_is_no_event_while_nothing_waits_for_it() {
    let directory = Directory::new("quiet");
    let (path, address) = directory.socket();
    let mut reactor = witness::reactor();
    reactor.net.listen(&address, |_, _| Some(Witness)).expect("it listens");
    let peer = with_deadlines(UnixStream::connect(path).expect("connected"));
    turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened.len() == 1);
    send_and_read(&mut reactor, &peer);
}

/// Many small sends, each read before the next, and no event for any.
#[track_caller]
fn send_and_read(reactor: &mut Reactor<witness::Record>, mut peer: &UnixStream) {
    let (token, before) = (reactor.app.opened[0], *reactor.net.stats());
    for _ in 0..200 {
        reactor.net.send(token, b"x");
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
        peer.read_exact(&mut [0]).expect("it comes");
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
    }
    let after = *reactor.net.stats();
    assert_eq!((after.writes - before.writes, after.writes_full - before.writes_full), (200, 0));
    assert!(after.events - before.events < 10, "{} events", after.events - before.events);
}

#[test]
fn output_that_waits_goes_out_when_there_is_room() {
    let directory = Directory::new("room");
    let (path, address) = directory.socket();
    let mut reactor = witness::reactor();
    reactor.net.listen(&address, |_, _| Some(Witness)).expect("it listens");
    let peer = with_deadlines(UnixStream::connect(path).expect("connected"));
    turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened.len() == 1);
    let token = reactor.app.opened[0];
    // Again and again: the interest in room is given back when the queue is empty, and must be asked for anew.
    for round in 0..5 {
        reactor.net.send(token, pattern(3 << 20, round));
        turn_for(&mut reactor, Duration::from_millis(5));
        assert!(reactor.net.queued(token) > 0, "the kernel cannot have taken 3 MiB");
        assert!(reactor.net.stats().writes_full > round);
        let mut reader = peer.try_clone().expect("a second handle");
        let read = beside(move || {
            let mut all = vec![0; 3 << 20];
            reader.read_exact(&mut all).expect("it comes");
            all
        });
        assert!(join(&mut reactor, read) == pattern(3 << 20, round));
        turn_until(&mut reactor, "the queue is empty", |reactor| reactor.net.queued(token) == 0);
    }
    // And now that nothing waits, the room that the peer makes by reading is no event any more.
    send_and_read(&mut reactor, &peer);
}

#[test]
fn a_listen_that_is_refused_leaves_no_file() {
    let directory = Directory::new("refused");
    let (path, address) = directory.socket();
    let mut reactor = Reactor::new(()).expect("a reactor");
    reactor.net.stop();
    assert!(echo(&mut reactor, &address).is_err(), "the loop is stopping");
    assert!(!path.exists(), "a file is left behind");
    reactor.run().expect("nothing is to be stopped");
    let listener = echo(&mut reactor, &address).expect("the path is free");
    assert!(path.exists());
    assert!(echo(&mut reactor, &address).is_err(), "it is in use, by ourselves");
    assert!(path.exists(), "and the file of the one that listens stays");
    reactor.net.close(listener);
}

#[test]
fn a_file_that_a_dead_server_left_is_replaced_and_ours_goes_with_the_listener() {
    let directory = Directory::new("stale");
    let (path, address) = directory.socket();
    drop(UnixListener::bind(&path).expect("a server"));
    assert!(path.exists(), "the kernel leaves the file");
    let mut reactor = Reactor::new(()).expect("a reactor");
    let listener = echo(&mut reactor, &address).expect("the file is nobody's");
    let peer = {
        let path = path.clone();
        beside(move || exchange(UnixStream::connect(path).expect("connected"), b"hello".to_vec()))
    };
    assert_eq!(join(&mut reactor, peer), b"hello");
    reactor.net.close(listener);
    turn_for(&mut reactor, Duration::from_millis(1));
    assert!(!path.exists());
    // And again, now by a stop.
    echo(&mut reactor, &address).expect("it listens");
    assert!(path.exists());
    reactor.net.stop();
    reactor.run().expect("it stops");
    assert!(!path.exists());
}

fn address_in_use(address: &Address) {
    let mut reactor = Reactor::new(()).expect("a reactor");
    assert_eq!(echo(&mut reactor, address).expect_err("it is taken").kind(), ErrorKind::AddrInUse);
}

#[test]
fn the_file_of_a_live_server_is_not_stolen() {
    let directory = Directory::new("live");
    let (path, address) = directory.socket();
    let server = UnixListener::bind(&path).expect("a server");
    address_in_use(&address);
    server.accept().expect("somebody has knocked, to see whether there is anybody");
    // Nor when it is so busy that nobody gets through to it.
    use nix::sys::socket::{Backlog, listen};
    listen(&server, Backlog::new(0).expect("a backlog of none")).expect("listen again, with less room");
    let _first = UnixStream::connect(&path).expect("the one that there is room for");
    address_in_use(&address);
    assert!(path.exists());
    server.accept().expect("it is the server's still");
}

#[test]
fn a_file_that_is_no_stream_socket_is_left_alone() {
    let directory = Directory::new("precious");
    let (path, address) = directory.socket();
    std::fs::write(&path, "precious").expect("a file");
    address_in_use(&address);
    assert_eq!(std::fs::read(&path).expect("it is still there"), b"precious");
    std::fs::remove_file(&path).expect("removed");

    let target = directory.0.join("target");
    std::fs::write(&target, "precious").expect("a file");
    std::os::unix::fs::symlink(&target, &path).expect("a link");
    address_in_use(&address);
    assert_eq!(std::fs::read(&path).expect("it is still there"), b"precious");
    std::fs::remove_file(&path).expect("removed");

    std::fs::create_dir(&path).expect("a directory");
    address_in_use(&address);
    std::fs::remove_dir(&path).expect("removed");

    let _datagrams = UnixDatagram::bind(&path).expect("a socket of another kind");
    address_in_use(&address);
    assert!(path.exists());
}

#[test]
fn a_listener_removes_no_file_that_it_did_not_make() {
    let directory = Directory::new("adopted");
    let (path, _) = directory.socket();
    let server = UnixListener::bind(&path).expect("a server");
    let mut reactor = witness::reactor();
    let fd = plimsoll::Fd::from_owned(server.into());
    let listener = reactor.net.listen_fd(fd, ListenOptions::new(), |_, _| Some(Witness)).expect("adopted");
    let _peer = UnixStream::connect(&path).expect("connected");
    turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened.len() == 1);
    reactor.net.close(listener);
    turn_for(&mut reactor, Duration::from_millis(1));
    assert!(Path::exists(&path), "whoever made it removes it");
}

#[test]
fn a_path_without_a_server_says_why() {
    let directory = Directory::new("nobody");
    let (path, address) = directory.socket();
    let mut reactor = witness::reactor();
    let missing = reactor.net.connect(&address, Witness);
    turn_until(&mut reactor, "the outcome", |reactor| reactor.app.why(missing).is_some());
    assert_eq!(reactor.app.connect_error(missing), Some(ErrorKind::NotFound));
    drop(UnixListener::bind(&path).expect("a server"));
    let stale = reactor.net.connect(&address, Witness);
    turn_until(&mut reactor, "the outcome", |reactor| reactor.app.why(stale).is_some());
    assert_eq!(reactor.app.connect_error(stale), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn a_full_backlog_is_waited_for_up_to_the_time_out_without_spinning() {
    use nix::sys::socket::{Backlog, listen};
    let directory = Directory::new("full");
    let (path, address) = directory.socket();
    let server = UnixListener::bind(&path).expect("a server");
    listen(&server, Backlog::new(0).expect("a backlog of none")).expect("listen again, with less room");
    let _first = UnixStream::connect(&path).expect("the one that there is room for");
    let mut reactor = witness::reactor();
    let options = plimsoll::StreamOptions::new().with(|o| o.connect_timeout = Duration::from_millis(150));
    let start = Instant::now();
    let impatient = reactor.net.connect_with(&address, options, Witness);
    let patient = reactor.net.connect(&address, Witness);
    reactor.net.send(patient, b"at last");
    reactor.net.shutdown(patient);
    turn_until(&mut reactor, "the time-out", |reactor| reactor.app.why(impatient).is_some());
    assert_eq!(reactor.app.connect_error(impatient), Some(ErrorKind::TimedOut));
    assert!(start.elapsed() < Duration::from_secs(2));
    let turns = reactor.net.stats().turns;
    turn_for(&mut reactor, Duration::from_millis(100));
    assert!(reactor.net.stats().turns - turns < 50, "{} turns", reactor.net.stats().turns - turns);
    let server = beside(move || {
        server.accept().expect("the one in the backlog");
        let mut all = Vec::new();
        let (mut stream, _) = server.accept().expect("the patient one");
        stream.read_to_end(&mut all).expect("the stream ends in order");
        all
    });
    assert_eq!(join(&mut reactor, server), b"at last");
    turn_until(&mut reactor, "the end", |reactor| reactor.app.why(patient).is_some());
}
