//! What is played: one scene for each thing that a reactor is used for, as short as it can be and still come by
//! every system call.
//!
//! They are kept by what their handlers do: give back what comes (`echo.rs`), carry it to somebody else (`carry.rs`),
//! or ask and count the answers (`ask.rs`). The others are about filters, datagrams, timers, sockets from elsewhere and
//! the stop.

mod ask;
mod carry;
mod datagrams;
pub mod echo;
mod filter;
mod handover;
mod stop;
mod timers;

use super::Scene;
use super::peer::{Act, Door, Host, Peer};
use crate::sys::Address;
use crate::sys::fault::{Call, Fault};
use std::net::{SocketAddr, TcpListener, TcpStream};

pub fn all() -> Vec<Scene> {
    let scene = |name, play| Scene { name, play, given: &[] };
    vec![
        scene("echo", echo::echo),
        scene("relay", carry::relay),
        scene("dial", ask::dial),
        scene("udp", datagrams::udp),
        Scene { name: "udp, full", play: datagrams::udp, given: &[(Call::SendBatch, 1, Fault::Fail(libc::EAGAIN))] },
        Scene {
            name: "udp, starved",
            play: datagrams::udp,
            given: &[
                (Call::ReceiveBatch, 1, Fault::Fail(libc::ENOMEM)),
                (Call::ReceiveBatch, 2, Fault::Fail(libc::ENOMEM)),
            ],
        },
        scene("timers", timers::timers),
        scene("offload", ask::offload),
        scene("unix", echo::unix),
        scene("handover", handover::handover),
        scene("turnover", ask::turnover),
        scene("forward", carry::forward),
        scene("crowd", echo::crowd),
        Scene { name: "shortage", play: echo::crowd, given: &[(Call::Accept, 2, Fault::Fail(libc::ENOMEM))] },
        Scene { name: "no fd", play: echo::crowd, given: &[(Call::Accept, 1, Fault::Fail(libc::EMFILE))] },
        scene("stop", stop::stop),
        scene("filter", filter::filter),
    ]
}

fn tcp_address(address: &Address) -> SocketAddr {
    address.ip().expect("an address of ours")
}

pub fn tcp_peer(address: &Address, pattern: u8, script: &[Act]) -> Peer {
    let stream = TcpStream::connect(tcp_address(address)).expect("the backlog takes us");
    Peer::tcp(stream, pattern, script)
}

fn tcp_host(pattern: u8, script: &[Act]) -> (Host, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket of ours");
    let address = listener.local_addr().expect("it is bound");
    (Host { door: Door::Tcp(listener), pattern, script: script.to_vec() }, address)
}
