//! Handing connections over: out of one reactor and into another, or to code and from code of another kind.
//!
//! A connection is more than its descriptor: bytes may have been read and not consumed, taken and not sent. A
//! [`Detached`] carries all of it, so that nothing is lost on the way, and it may cross threads.
//!
//! ```text
//!   reactor A: net.detach(token) ──► Detached { fd, unread, unsent, … } ──► reactor B: net.adopt(detached, handler)
//!                 └─► on_close(Detached)            through a mailbox                   └─► on_open, on_data(unread)
//! ```

use crate::connection::{Connection, Flags, Phase};
use crate::handler::{CloseReason, Handler};
use crate::handlers::Newborn;
use crate::listener::KernelOptions;
use crate::net::Net;
use crate::sys::{self, Address, Fd};
use crate::token::Token;
use bytes::{Bytes, BytesMut};
use std::io;

impl<A: 'static> Net<A> {
    /// Takes over a connected stream socket, with what an earlier owner had read and not consumed, and taken
    /// and not sent.
    ///
    /// `on_open` is called first, then `on_data` with what had been left unconsumed, in this turn or the next. The
    /// connection has the default options; the socket is made non-blocking. One that has ended meanwhile is taken over
    /// too, if its peer is known ([`Detached::peer`]): the handler gets what had come before, and then the end.
    ///
    /// # Errors
    /// The descriptor is no connected stream socket (InvalidInput, ENOTCONN), cannot be watched (ENOSPC, ENOMEM), or the
    /// loop is stopping. The socket is closed then, and what came with it is lost; a TCP peer that was owed output
    /// gets an RST.
    pub fn adopt(&mut self, connection: impl Into<Detached>, handler: impl Handler<A>) -> io::Result<Token> {
        let Detached { fd, peer, unread, unsent, ended, shutdown } = connection.into();
        let owes = !unsent.is_empty();
        if owes {
            // Should this fail below, its peer must not take the cut stream for a whole one. Best effort.
            let _ = sys::socket::set_linger_zero(&fd);
        }
        self.sockets.refuse_if_stopping()?;
        sys::socket::set_nonblocking(&fd)?;
        if !sys::socket::is_stream(&fd)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket"));
        }
        let peer = match peer {
            // The connection may have ended since, and the kernel does not know its peer then, but may hold its last bytes.
            Some(peer) => peer,
            None => sys::socket::peer_address(&fd)?,
        };
        let options = self.sockets.default_stream.clone();
        KernelOptions::of(&options).apply(KernelOptions::INITIAL, &fd, &peer)?;
        let mut conn = Connection::new(Some(fd), peer, Phase::Open, options, self.sockets.now);
        conn.flags.set(Flags::OPEN_DUE);
        if ended {
            conn.flags.set(Flags::EOF_READ);
        }
        let held = unread.len() as u64;
        if !unread.is_empty() {
            conn.unread = Some(Box::new(unread));
            conn.flags.set(Flags::OFFER);
        }
        let token = self.sockets.add_connection(conn)?;
        if owes && let Some(fd) = self.sockets.connection(token).and_then(|conn| conn.fd.as_ref()) {
            let _ = sys::socket::clear_linger(fd);
        }
        self.sockets.stats.held += held;
        self.newborn.push((token, Newborn::Connection(Box::new(handler))));
        self.sockets.opened(token);
        self.sockets.mark_ready(token);
        for piece in unsent {
            self.sockets.push_unsent(token, piece);
        }
        if shutdown {
            self.sockets.shutdown(token);
        }
        Ok(token)
    }

    /// Gives an open connection away, to another reactor (through its mailbox) or to code of your own. The
    /// handler gets `on_close` with [`CloseReason::Detached`]. What is still in the `input` of a running
    /// `on_data` is the caller's to take along. `None` if the connection is not open, or has a filter; then it is as it
    /// was. The socket is this loop's no more when this returns; the token does nothing from now on.
    pub fn detach(&mut self, token: Token) -> Option<Detached> {
        self.sockets.spill(token);
        let conn = self.sockets.connection_mut(token)?;
        if conn.phase != Phase::Open || conn.flags.has(Flags::FILTERED.or(Flags::BROKEN)) {
            return None;
        }
        let held = conn.held();
        let fd = conn.fd.take()?;
        let unread = conn.unread.take().map(|unread| *unread).unwrap_or_default();
        let ended = conn.flags.has(Flags::EOF_READ);
        let shutdown = conn.flags.has(Flags::SHUTDOWN);
        let peer = conn.peer.clone();
        let unsent = conn.take_output();
        self.sockets.stats.held -= held as u64;
        // Without this the old loop would go on being told about a socket that is another's.
        let _ = self.sockets.poller.remove(&fd);
        self.sockets.end(token, CloseReason::Detached);
        Some(Detached { fd, peer: Some(peer), unread, unsent, ended, shutdown })
    }
}

/// A connection between two owners: see [`Net::detach`] and [`Net::adopt`]. It may go to another thread.
#[derive(Debug)]
pub struct Detached {
    /// The socket.
    pub fd: Fd,
    /// Where its peer is; [`Net::detach`] fills it in. With `None` the kernel is asked, which forgets it when both
    /// halves of a TCP connection have ended, in order or by an RST: then [`Net::adopt`] cannot tell it from one that
    /// was never made.
    pub peer: Option<Address>,
    /// Read from it and not consumed.
    pub unread: BytesMut,
    /// Taken by `send` and not yet by the kernel, oldest first.
    pub unsent: Vec<Bytes>,
    /// Whether the peer's end was read.
    pub ended: bool,
    /// Whether our half has ended, or is to end behind `unsent`.
    pub shutdown: bool,
}

impl From<Fd> for Detached {
    fn from(fd: Fd) -> Detached {
        Detached { fd, peer: None, unread: BytesMut::new(), unsent: Vec::new(), ended: false, shutdown: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reactor;
    use crate::handler::Ctx;
    use crate::sim::World;
    use crate::sys::fault::{self, Call, Fault, Plan};

    struct Tells;

    impl Handler<Option<Token>> for Tells {
        fn on_data(&mut self, _: &mut Ctx<'_, Option<Token>>, _: &mut BytesMut) {}

        fn on_close(&mut self, ctx: &mut Ctx<'_, Option<Token>>, why: CloseReason) {
            assert!(matches!(why, CloseReason::Done), "{why:?}");
            *ctx.app = None;
        }
    }

    /// Found by random programs, in stormy weather.
    #[test]
    fn a_connection_that_was_shut_down_before_it_was_adopted_ends_in_order() {
        let world = World::calm();
        let mut reactor = Reactor::new(None::<Token>).expect("a reactor");
        let listener = reactor.net.serve("10.0.0.1:7", |ctx, _| *ctx.app = Some(ctx.token)).expect("a listener");
        let peer = world.connect(reactor.net.local_address(listener).expect("its address"));
        peer.send(b"?");
        while reactor.app.is_none() {
            reactor.turn(None).expect("a turn");
        }
        let token = reactor.app.expect("a connection");
        reactor.net.shutdown(token);
        reactor.turn(Some(std::time::Duration::ZERO)).expect("a turn");
        let detached = reactor.net.detach(token).expect("it is open");
        let adopted = reactor.net.adopt(detached, Tells).expect("it is connected");
        reactor.app = Some(adopted);
        // The peer's end comes before ours is told to the kernel once more, and is not looked at.
        reactor.net.pause_reading(adopted);
        peer.shutdown();
        reactor.turn(Some(std::time::Duration::ZERO)).expect("a turn");
        reactor.net.resume_reading(adopted);
        for _ in 0..10 {
            reactor.turn(Some(std::time::Duration::from_millis(1))).expect("a turn");
        }
        assert_eq!(reactor.app, None, "it was told of the end");
    }

    /// Found by random programs, in stormy weather.
    #[test]
    fn a_stream_that_is_cut_because_nobody_could_adopt_it_does_not_look_whole() {
        let world = World::calm();
        let mut reactor = Reactor::new(None::<Token>).expect("a reactor");
        let listener = reactor.net.serve("10.0.0.1:7", |ctx, _| *ctx.app = Some(ctx.token)).expect("a listener");
        for fails in [true, false] {
            let peer = world.connect(reactor.net.local_address(listener).expect("its address"));
            peer.send(b"a request for more than the kernel takes");
            reactor.app = None;
            while reactor.app.is_none() {
                reactor.turn(None).expect("a turn");
            }
            let token = reactor.app.expect("a connection");
            reactor.net.send(token, vec![b'x'; 1 << 20]);
            reactor.net.flush(token);
            let detached = reactor.net.detach(token).expect("it is open");
            assert!(!detached.unsent.is_empty());
            let nth = if fails { 1 } else { 99 };
            fault::install(Plan::new().with(Call::EpollAdd, nth, Fault::Fail(28)));
            let adopted = reactor.net.adopt(detached, |_: &mut crate::Ctx<'_, _>, _: &mut BytesMut| {});
            fault::remove();
            assert_eq!(adopted.is_err(), fails);
            peer.takes();
            if let Ok(token) = adopted {
                reactor.net.close(token);
            }
            for _ in 0..100 {
                reactor.turn(Some(std::time::Duration::from_millis(1))).expect("a turn");
            }
            assert_eq!(peer.error().is_some(), fails);
            assert_eq!(peer.has_ended(), !fails);
        }
    }
}
