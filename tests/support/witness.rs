//! A handler that writes down what it is told, and a relay made of two of them.

use super::address_of;
use plimsoll::{BytesMut, CloseReason, Ctx, Handler, Reactor, RelayOptions, StreamOptions, Target, Token};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;

/// What the witnesses of one reactor have seen.
#[derive(Debug, Default)]
pub struct Record {
    pub opened: Vec<Token>,
    /// What came, by connection.
    pub input: BTreeMap<Token, Vec<u8>>,
    pub ended: Vec<Token>,
    pub closed: Vec<(Token, CloseReason)>,
    /// Relayed pairs: client, upstream.
    pub pairs: Vec<(Token, Token)>,
}

impl Record {
    /// Why a connection ended, if it has.
    ///
    /// # Panics
    /// When it ended twice.
    #[track_caller]
    pub fn why(&self, token: Token) -> Option<&CloseReason> {
        let mut endings = self.closed.iter().filter(|(closed, _)| *closed == token).map(|(_, why)| why);
        let first = endings.next();
        assert!(endings.next().is_none(), "{token} ended twice");
        first
    }

    /// The error that kept a connection from being made, if that is how it ended.
    #[track_caller]
    pub fn connect_error(&self, token: Token) -> Option<ErrorKind> {
        match self.why(token) {
            Some(CloseReason::Connect(e)) => Some(e.kind()),
            _ => None,
        }
    }

    pub fn input_of(&self, token: Token) -> &[u8] {
        self.input.get(&token).map_or(&[], |bytes| &bytes[..])
    }
}

/// Takes what comes and answers nothing.
pub struct Witness;

impl Handler<Record> for Witness {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Record>) {
        ctx.app.opened.push(ctx.token);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        ctx.app.input.entry(ctx.token).or_default().extend_from_slice(input);
        input.clear();
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        ctx.app.input.entry(ctx.token).or_default().extend_from_slice(input);
        ctx.app.ended.push(ctx.token);
        ctx.shutdown();
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

pub fn reactor() -> Reactor<Record> {
    Reactor::new(Record::default()).expect("a reactor")
}

/// A relay on any free port, each client joined to an upstream of its own.
pub fn relay(reactor: &mut Reactor<Record>, upstream: impl Into<Target>, options: RelayOptions) -> SocketAddr {
    relay_with(reactor, upstream, options, StreamOptions::new())
}

/// [`relay`] with options for the connection to the upstream.
pub fn relay_with(
    reactor: &mut Reactor<Record>,
    upstream: impl Into<Target>,
    options: RelayOptions,
    outward: StreamOptions,
) -> SocketAddr {
    let upstream = upstream.into();
    let listener = reactor.net.listen("127.0.0.1:0", move |ctx, _| {
        let other = ctx.net.connect_with(upstream.clone(), outward.clone(), Witness);
        ctx.app.pairs.push((ctx.token, other));
        ctx.net.relay(ctx.token, other, options.clone()).then_some(Witness)
    });
    address_of(reactor, listener.expect("it listens"))
}
