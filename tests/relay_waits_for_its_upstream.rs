//! What a client sends while its upstream is being reached waits, up to the mark, and then goes out.

mod support;

use plimsoll::{Address, CloseReason, RelayOptions, StreamOptions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::time::Duration;
use support::witness::{reactor, relay_with};
use support::{DEADLINE, beside, join, pattern, peer, read_all, turn_for, turn_until};

const KIB: usize = 1024;
/// One read may come on top of a mark.
const READ: usize = 64 * KIB;

/// A Unix listener with a full backlog makes its peers come back by timer, for as long as the test likes.
#[test]
fn what_the_client_sends_while_the_upstream_is_being_reached_waits_up_to_the_mark() {
    use nix::sys::socket::{Backlog, listen};
    const MARK: usize = 100 * KIB;
    let name = format!("plimsoll-test-busy-{}", std::process::id());
    let server = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).expect("a name")).expect("bound");
    listen(&server, Backlog::new(0).expect("a backlog of none")).expect("listen again, with less room");
    let first = UnixStream::connect_addr(&UnixAddr::from_abstract_name(&name).expect("a name"));
    let first = first.expect("the one that there is room for");

    let mut reactor = reactor();
    let upstream = Address::Abstract(name.into_bytes().into());
    let options = RelayOptions::new().with(|o| o.high_water = MARK);
    let relay =
        relay_with(&mut reactor, upstream, options, StreamOptions::new().with(|o| o.connect_timeout = DEADLINE));
    let client = beside(move || {
        let mut stream = peer(relay);
        stream.write_all(&pattern(30 << 20, 8)).expect("written sooner or later");
        stream.shutdown(Shutdown::Write).expect("the half ends");
        read_all(&mut stream)
    });
    turn_until(&mut reactor, "the mark is crossed", |reactor| {
        reactor.app.pairs.first().is_some_and(|(_, b)| reactor.net.queued(*b) > MARK)
    });
    turn_for(&mut reactor, Duration::from_millis(100));
    let (a, b) = reactor.app.pairs[0];
    assert!(reactor.net.queued(b) <= MARK + READ, "{} bytes are queued", reactor.net.queued(b));
    assert!(reactor.app.closed.is_empty() && !reactor.app.opened.contains(&b), "the upstream is not there yet");
    assert_eq!(reactor.net.queued(a), 0);

    let server = beside(move || {
        let (waiting, _) = server.accept().expect("the one in the backlog");
        drop((waiting, first));
        let (mut stream, _) = server.accept().expect("the relay");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("the stream ends in order");
        stream.write_all(b"thank you").expect("written");
        all
    });
    assert!(join(&mut reactor, server) == pattern(30 << 20, 8));
    assert_eq!(join(&mut reactor, client), b"thank you");
    turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
    assert!(reactor.app.closed.iter().all(|(_, why)| matches!(why, CloseReason::Done)), "{:?}", reactor.app.closed);
}
