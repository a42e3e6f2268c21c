//! A hand-rolled, single-threaded epoll reactor for Linux: callbacks, bounded buffers, high-water marks.
//!
//! A [`Reactor`] is one thread, one epoll instance and one loop. Its [`net`](Reactor::net) holds every socket, and
//! everything a program can ask of them is a method of [`Net`]: a *verb*. What a program is told comes as callbacks
//! of its [`Handler`]s, one for each connection. No verb calls a handler; what it causes is delivered later in the
//! same turn of the loop, or in the next. So any verb may be used in any callback, on any connection.
//!
//! ```
//! use plimsoll::Reactor;
//! use std::io::{Read, Write};
//! use std::time::Duration;
//!
//! # fn main() -> std::io::Result<()> {
//! let mut reactor = Reactor::new(())?;
//! let echo = reactor.net.serve("127.0.0.1:0", |ctx, input| {
//!     ctx.send(&input[..]);
//!     input.clear();
//! })?;
//!
//! // A server calls `reactor.run()` now. Here the peer lives on the same thread, so the loop is turned by hand.
//! let address = reactor.net.local_address(echo).and_then(|address| address.ip()).expect("an IP address");
//! let mut peer = std::net::TcpStream::connect(address)?;
//! peer.write_all(b"does it float?")?;
//! while reactor.net.stats().bytes_written < 14 {
//!     reactor.turn(Some(Duration::from_secs(1)))?;
//! }
//! let mut answer = [0; 14];
//! peer.read_exact(&mut answer)?;
//! assert_eq!(&answer, b"does it float?");
//! # Ok(())
//! # }
//! ```
//!
//! # The verbs
//!
//! | to… | verbs of [`Net`] |
//! |---|---|
//! | serve | [`serve`](Net::serve), [`listen`](Net::listen), [`listen_fd`](Net::listen_fd) |
//! | connect | [`connect`](Net::connect), [`dial`](Net::dial) (again and again), [`cancel_dial`](Net::cancel_dial), [`adopt`](Net::adopt) |
//! | send | [`send`](Net::send), [`flush`](Net::flush), [`queued`](Net::queued) |
//! | read at one's own pace | [`pause_reading`](Net::pause_reading), [`resume_reading`](Net::resume_reading), [`want`](Net::want), [`unread`](Net::unread) |
//! | end: half, whole, now | [`shutdown`](Net::shutdown), [`close`](Net::close), [`abort`](Net::abort) |
//! | hand on | [`relay`](Net::relay), [`detach`](Net::detach), [`swap`](Net::swap), [`filter`](Net::filter) |
//! | exchange datagrams | [`udp`](Net::udp), [`send_to`](Net::send_to), [`send_from`](Net::send_from), [`broadcast`](Net::broadcast), [`join_multicast`](Net::join_multicast) |
//! | wait | [`after`](Net::after), [`every`](Net::every), [`reset`](Net::reset), [`cancel`](Net::cancel), [`now`](Net::now), [`Ctx::timer`] |
//! | do it later, or elsewhere | [`defer`](Net::defer), [`tell`](Net::tell), [`offload`](Net::offload), [`mailbox`](Net::mailbox) |
//! | know | [`is_open`](Net::is_open), [`local_address`](Net::local_address), [`peer_address`](Net::peer_address), [`tcp_info`](Net::tcp_info), [`tokens`](Net::tokens), [`stats`](Net::stats) |
//! | tune | [`options`](Net::options) at run time, and the structs of [`options`] |
//! | stop | [`stop`](Net::stop), [`on_signal`](Net::on_signal), [`stop_on_signals`](Net::stop_on_signals) |
//!
//! Every socket has a [`Token`]. A verb given the token of a socket that is gone does nothing, and what it returns
//! says so.
//!
//! # Limits
//!
//! Output that the peer does not take waits in memory. [`send`](Net::send) answers [`Flow::High`] when more than the
//! high mark (1 MiB) waits; from then on the connection is not read, so that a handler which only answers is bounded
//! without heeding it. A handler with a source of its own stops there and goes on in
//! [`on_low_water`](Handler::on_low_water). Past the hard limit (64 MiB) the connection ends. Input that a handler
//! leaves unconsumed is bounded by the input limit (1 MiB). All limits and times stand in [`options`].
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | what it brings |
//! |---|---|
//! | `crc32c` | a CRC32C trailer on length-prefixed frames: [`codec`] |
//! | `sim` | a test kit, `plimsoll::sim`: a simulated kernel, network and clock for handlers of your own |
//! | `fault` | `plimsoll::fault`: the n-th system call of a kind fails, is cut short or comes late; part of `sim` |
//!
//! `sim` and `fault` are for tests: name them under `[dev-dependencies]`, and the program that you ship has nothing of
//! them.
//!
//! # Where to go on
//!
//! [`Handler`] for the callbacks, [`CloseReason`] for how connections end, [`codec`] for lines and frames. The
//! directory `docs/` of the repository has a map of the source and follows one message through a turn of the loop.
#![cfg_attr(doctest, doc = include_str!("../README.md"))]
#![deny(unsafe_code)]

mod closures;
pub mod codec;
mod connect;
mod connection;
mod datagram;
mod deadlines;
mod dial;
mod ending;
mod filter;
#[cfg(test)]
mod found;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod handler;
mod handlers;
mod handover;
mod intake;
mod listener;
mod mailbox;
mod net;
pub mod options;
mod outflow;
mod output;
mod poller;
mod reactor;
mod relay;
mod signal;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod sockets;
mod stats;
#[cfg(test)]
mod sweep;
mod sys;
mod timer;
mod token;
mod workers;

pub use bytes::{Bytes, BytesMut};
pub use closures::{Letter, Mailbox, PostError, WorkRefused};
pub use connect::Target;
pub use datagram::Admission;
pub use dial::DialToken;
pub use filter::Filter;
pub use handler::{CloseReason, Ctx, Flow, Handler, Loop, Payload};
pub use handover::Detached;
pub use net::Net;
pub use options::{AtLimit, DialOptions, ListenOptions, ReactorOptions, RelayOptions, StreamOptions, UdpOptions};
pub use reactor::Reactor;
pub use stats::Stats;
pub use sys::datagram::{Interface, Received as Datagram};
#[cfg(feature = "fault")]
pub use sys::fault;
pub use sys::signum;
pub use sys::{Address, Fd, KeepAlive, TcpInfo, ToAddress};
pub use timer::TimerId;
pub use token::Token;
pub use workers::WorkPanicked;
