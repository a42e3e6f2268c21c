//! Handlers by the slot of their socket, so that they lie beside the network and not in it.
//!
//! A verb that brings a handler (`connect`, `listen`, `swap`) may be called while the place for it is borrowed by the
//! callback that calls the verb. So it is a *newborn* first, and finds its place when the callback has returned,
//! which is before anything can happen to its socket.

use crate::handler::{Ctx, Handler};
use crate::sys::Address;
use crate::sys::datagram::Received;
use crate::token::Token;
use std::collections::BTreeMap;

/// What is to find its place beside the network before its first callback.
pub(crate) enum Newborn<A> {
    Connection(Box<dyn Handler<A>>),
    Listener(Acceptor<A>),
    Datagram(Receiver<A>),
}

pub(crate) type Acceptor<A> = Box<dyn FnMut(&mut Ctx<'_, A>, &Address) -> Option<Box<dyn Handler<A>>>>;
pub(crate) type Receiver<A> = Box<dyn FnMut(&mut Ctx<'_, A>, Received<'_>)>;

/// Handlers, by the slot of their socket, so that they lie beside the network.
pub(crate) struct Handlers<A> {
    pub connections: Vec<Option<Box<dyn Handler<A>>>>,
    /// Few and rarely called, so found by search.
    pub listeners: BTreeMap<Token, Acceptor<A>>,
    pub datagrams: BTreeMap<Token, Receiver<A>>,
}

impl<A: 'static> Handlers<A> {
    pub fn insert(&mut self, token: Token, handler: Box<dyn Handler<A>>) {
        let slot = token.slot();
        if slot >= self.connections.len() {
            self.connections.resize_with(slot + 1, || None);
        }
        self.connections[slot] = Some(handler);
    }

    pub fn take(&mut self, token: Token) -> Option<Box<dyn Handler<A>>> {
        self.connections.get_mut(token.slot())?.take()
    }
}

pub(crate) fn boxed_acceptor<A: 'static, H: Handler<A>>(
    mut factory: impl FnMut(&mut Ctx<'_, A>, &Address) -> Option<H> + 'static,
) -> Acceptor<A> {
    Box::new(move |ctx, peer| factory(ctx, peer).map(|handler| Box::new(handler) as Box<dyn Handler<A>>))
}
