//! What the simulated kernel knows of a connection: a second opinion on what the library says of it.

use crate::net::Net;
use crate::sim::{Peer, here};
use crate::sys::{Address, sim};
use crate::token::Token;

/// What has gone through the program's end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Bytes that the kernel has taken from the program.
    pub taken: u64,
    /// Bytes that it has given to the program.
    pub read: u64,
    /// Bytes that it has for the program.
    pub unread: usize,
    pub moved_at: u64,
    pub taken_at: u64,
}

/// Nothing is known of a connection without a descriptor.
pub fn probe<A: 'static>(net: &Net<A>, token: Token) -> Option<Probe> {
    let fd = net.sockets.connection(token)?.fd.as_ref()?.raw();
    sim::with(|kernel| {
        let stream = kernel.stream(kernel.find(fd).ok()?)?;
        let ledger = stream.ledger;
        Some(Probe {
            taken: stream.sent,
            read: ledger.read,
            unread: stream.rx.len(),
            moved_at: ledger.moved_at,
            taken_at: ledger.taken_at,
        })
    })?
}

/// The simulated clock, in nanoseconds.
pub fn now() -> u64 {
    sim::with(|kernel| kernel.now).unwrap_or_default()
}

/// Milliseconds, in nanoseconds.
pub const MS: u64 = 1_000_000;

/// Whom a peer is connected to.
pub fn remote_address(peer: Peer) -> Option<Address> {
    here(|kernel| kernel.stream(peer.id).and_then(|stream| stream.remote.clone()))
}

/// Bytes that are under way from a peer.
pub fn under_way(peer: Peer) -> usize {
    here(|kernel| kernel.stream(peer.id).map_or(0, |stream| stream.tx.len()))
}

/// Bytes that the slower of both ends of a connection can have under way.
pub fn window(peer: Peer) -> usize {
    here(|kernel| {
        let stream = kernel.stream(peer.id)?;
        let other = kernel.stream(stream.peer?)?;
        Some(stream.rx_limit.min(other.tx_limit))
    })
    .unwrap_or(1)
}
