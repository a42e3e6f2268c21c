//! A hand-rolled, single-threaded epoll reactor for Linux: callbacks, bounded buffers, high-water marks.
//!
//! ```no_run
//! use plimsoll::Reactor;
//!
//! fn main() -> std::io::Result<()> {
//!     let mut reactor = Reactor::new(())?;
//!     reactor.net.serve("127.0.0.1:2007", |ctx, input| {
//!         ctx.send(&input[..]);
//!         input.clear();
//!     })?;
//!     reactor.run()
//! }
//! ```
#![deny(unsafe_code)]

pub mod codec;
mod connect;
mod connection;
mod datagram;
mod dial;
mod filter;
mod handler;
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
mod sockets;
mod stats;
mod sys;
mod timer;
mod token;
mod workers;

pub use bytes::{Bytes, BytesMut};
pub use connect::Target;
pub use datagram::Datagrams;
pub use dial::DialToken;
pub use filter::Filter;
pub use handler::{CloseReason, Ctx, Flow, Handler, Loop, Payload};
pub use net::{Detached, Letter, Mailbox, Net, PostError, WorkRefused};
pub use options::{AtLimit, DialOptions, ListenOptions, ReactorOptions, RelayOptions, StreamOptions, UdpOptions};
pub use reactor::Reactor;
pub use stats::Stats;
pub use sys::datagram::{Interface, Received as Datagram};
pub use sys::signum;
pub use sys::{Address, Fd, KeepAlive, TcpInfo, ToAddress};
pub use timer::TimerId;
pub use token::Token;
pub use workers::WorkPanicked;
