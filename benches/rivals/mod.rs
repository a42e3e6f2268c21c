//! Rivals: the same four servers, written four times.
//!
//! ```text
//!  plimsoll    this library, as a user writes it
//!  tokio       current_thread, a task for each connection
//!  mio         a loop by hand on mio::Poll
//!  floor       the bare system calls: what is left when nothing is abstracted from
//! ```
//!
//! | role | what it does |
//! |---|---|
//! | echo | sends back what comes |
//! | frames | the same by frames: a length of four bytes, big-endian, and as many bytes; one answer for each |
//! | relay | joins each peer to a connection of its own to an upstream; ends are carried across one by one |
//! | fan-out | what a publisher sends (a first byte of `P`, then frames) goes to each subscriber (a first byte of `S`) |
//!
//! A comparison is worth what its weakest rival is worth. So each is written as those who know it would write it, and is
//! short enough that they can check it. The rules that all keep: one thread; a backlog of 4,096; `TCP_NODELAY` on
//! every connection; reads of up to 64 KiB, where tokio's buffer is an option, since it has one for each connection;
//! what the kernel does not take waits in memory, and a peer that is owed output is not read; no byte is lost and
//! no frame torn. A subscriber that does not keep up loses whole frames and nobody else does.
//!
//! On fan-out the others hand on all whole frames of a read in one piece. Plimsoll is given them one by one, as a handler
//! has them, and has to gather them itself: how many writes it makes of them is the library's doing.
//!
//! What they do not do: stop in order, log, or live through a lack of descriptors. A server that cannot go on
//! says so and ends, and with it the measurement.

mod floor;
mod mio;
mod plimsoll;
mod tokio;

use ::nix::sys::resource::{Resource, getrlimit, setrlimit};
use ::nix::sys::socket::sockopt::TcpNoDelay;
use ::nix::sys::socket::{Backlog, listen, setsockopt};
use clap::ValueEnum;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// What one read asks for.
const READ_BYTES: usize = 64 * 1024;

/// A frame with its length. A longer one ends its connection.
const FRAME_MAX_BYTES: usize = 64 * 1024;

/// What may wait for a slow subscriber before it loses frames: the high mark that Plimsoll has by default.
const SUBSCRIBER_MAX_BYTES: usize = 1024 * 1024;

/// Events fetched by one wait; tokio's own default.
const EVENTS: usize = 1024;

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Echo,
    Frames,
    Relay,
    FanOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    Plimsoll,
    /// Echo: input is passed on as it is and not as a copy.
    PlimsollSplit,
    /// The loop polls before it blocks.
    PlimsollSpin,
    Tokio,
    /// Frames: answers are gathered by a `BufWriter`.
    TokioBuffered,
    Mio,
    Floor,
    /// Frames: the answers to what one read brought are one write.
    FloorGathered,
    /// The loop polls and never blocks.
    FloorSpin,
}

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Where a relay connects to.
    #[arg(long)]
    pub upstream: Option<SocketAddr>,
    /// Bytes of a connection's buffer, where a side has one: each connection of tokio does, and each direction of its
    /// relay.
    #[arg(long)]
    pub buffer: Option<usize>,
}

impl Options {
    fn upstream(&self) -> io::Result<SocketAddr> {
        self.upstream.ok_or_else(|| io::Error::other("a relay needs --upstream"))
    }
}

/// Who plays a role.
pub fn sides(role: Role) -> &'static [&'static str] {
    match role {
        Role::Echo => &["plimsoll", "plimsoll-split", "plimsoll-spin", "tokio", "mio", "floor", "floor-spin"],
        Role::Frames => &["plimsoll", "tokio", "tokio-buffered", "mio", "floor", "floor-gathered"],
        Role::Relay | Role::FanOut => &["plimsoll", "tokio", "mio", "floor"],
    }
}

/// Serves on a free port of 127.0.0.1, which it prints, until the process is ended.
///
/// # Errors
/// The side does not play this role, or what the server could not go on with.
pub fn serve(side: &str, role: Role, options: Options) -> io::Result<()> {
    let known = Side::from_str(side, false).ok().filter(|_| sides(role).contains(&side));
    let side = known.ok_or_else(|| io::Error::other(format!("{side} does not play {role:?}")))?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    match side {
        Side::Plimsoll | Side::PlimsollSplit | Side::PlimsollSpin => plimsoll::serve(side, role, &options),
        Side::Tokio | Side::TokioBuffered => tokio::serve(side, role, &options),
        Side::Mio => mio::serve(role, &options),
        Side::Floor | Side::FloorGathered | Side::FloorSpin => floor::serve(side, role, &options),
    }
}

/// The listening socket of those who have no listener of their own. It does not block, and its connections inherit that
/// they do not gather small writes, which spares a call for each.
fn listener() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // The standard library has asked for a backlog of its own choice; the last word counts.
    listen(&listener, Backlog::new(4096)?)?;
    setsockopt(&listener, TcpNoDelay, &true)?;
    listener.set_nonblocking(true)?;
    announce(listener.local_addr()?)?;
    Ok(listener)
}

fn announce(address: SocketAddr) -> io::Result<()> {
    writeln!(io::stdout(), "listening on {address}")?;
    io::stdout().flush()
}

/// The bytes of the frame that `input` begins with, length included; `None` if it is not whole.
#[inline]
fn first_frame(input: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some(header) = input.first_chunk::<4>() else { return Ok(None) };
    let len = 4 + u32::from_be_bytes(*header) as usize;
    if len > FRAME_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is over the limit"));
    }
    Ok(input.get(..len))
}

/// How many of the bytes of `input` are whole frames.
fn whole_frames(input: &[u8]) -> io::Result<usize> {
    let mut whole = 0;
    while let Some(frame) = first_frame(&input[whole..])? {
        whole += frame.len();
    }
    Ok(whole)
}
