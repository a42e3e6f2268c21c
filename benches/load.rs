//! Load: the peers of a server that is being measured.
//!
//! Counts are exact only if the peers do the same in every run. So this program has one thread, its sockets block,
//! and what it does next depends on what it was told and never on the clock: the difference of two runs of different
//! length is the price of what the longer one did more. It is plain on purpose; the cleverness is in the
//! server.
//!
//! ```text
//!  echo    every connection: write, write, write …   then every connection: read, read, read …     R rounds
//!  churn   connect ─► one message ─► our end ─► the server's end ─► close                            N times
//!  idle    connect and exchange one message, N times; then nothing, for as long as it was told
//!  bulk    source ─► relay ─► sink, both ends here; the sink may stop reading half-way
//! ```
//!
//! The rule that it keeps: every byte that comes back is compared with what it should be. What stands at a place of
//! a stream depends on the place, so bytes that were lost, doubled, swapped or sent to another connection are an error.
//!
//! What it does not do: measure time. Under load a closed loop of one thread measures itself.
//!
//! ```text
//! cargo run --release --example echo -- 127.0.0.1:2007        # then, in another terminal:
//! cargo bench --bench load -- echo 2007 --connections 100 --rounds 500 --size 64
//! ```

use clap::{CommandFactory, Parser, Subcommand};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Whoever waits so long for a byte waits for ever: a server under valgrind answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a round writes on one connection before it reads. The kernel's buffers on the way hold as much even where
/// nothing is tuned, so that no two sides wait for each other.
const ROUND_MAX_BYTES: usize = 64 * 1024;

/// What `bulk` offers to a socket, or asks of it, at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Be the peers of a server on 127.0.0.1, and see that each byte comes back as it should.
#[derive(Parser)]
#[command(name = "load", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// What cargo says to the programs that it runs as benchmarks. This is none.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Rounds: write on every connection, then read everything back.
    Echo {
        port: u16,
        #[arg(long, default_value_t = 100)]
        connections: usize,
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Messages written at once.
        #[arg(long, default_value_t = 1)]
        depth: usize,
    },
    /// Connections one after the other, each with one message; we end first.
    Churn {
        port: u16,
        /// How many; each keeps one of the 28,000 ports of the kernel's range busy for a minute.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// Bytes of the message.
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// Connections that have exchanged one message and then are idle.
    Idle {
        port: u16,
        #[arg(long, default_value_t = 1000)]
        connections: usize,
        /// How many seconds they stay.
        #[arg(long, default_value_t = 10)]
        hold: u64,
    },
    /// One stream through a relay whose upstream is the sink.
    Bulk {
        port: u16,
        /// The port where the sink listens.
        #[arg(long)]
        sink: u16,
        /// Length of the stream.
        #[arg(long, default_value_t = 64)]
        mib: u64,
        /// For how many seconds the sink reads nothing when half of it has come.
        #[arg(long, default_value_t = 0)]
        stop: u64,
    },
}

fn main() -> ExitCode {
    let Arguments { command: Some(command), bench: _ } = Arguments::parse() else {
        // Run among the benchmarks, or by somebody who wants to know what it is.
        print!("{}", Arguments::command().render_help());
        return ExitCode::SUCCESS;
    };
    let done = match command {
        Command::Echo { port, connections, rounds, size, depth } => {
            echo(port, connections, rounds, size.saturating_mul(depth))
        }
        Command::Churn { port, count, size } => churn(port, count, size),
        Command::Idle { port, connections, hold } => idle(port, connections, Duration::from_secs(hold)),
        Command::Bulk { port, sink, mib, stop } => bulk(port, sink, mib << 20, Duration::from_secs(stop)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("load: {e}");
            ExitCode::FAILURE
        }
    }
}

fn echo(port: u16, connections: usize, rounds: usize, len: usize) -> io::Result<()> {
    let mut peers = dial_each(port, connections, len)?;
    for _ in 0..rounds {
        peers.iter_mut().try_for_each(Peer::write)?;
        peers.iter_mut().try_for_each(Peer::read)?;
    }
    println!("{connections} connections, {rounds} rounds of {len} bytes on each");
    Ok(())
}

fn churn(port: u16, count: usize, len: usize) -> io::Result<()> {
    for number in 0..count {
        let mut peer = Peer::dial(port, number, len)?;
        peer.write()?;
        peer.read()?;
        peer.end()?;
    }
    println!("{count} connections, {len} bytes on each");
    Ok(())
}

fn idle(port: u16, connections: usize, hold: Duration) -> io::Result<()> {
    let peers = dial_each(port, connections, 64)?;
    println!("{} open", peers.len());
    sleep(hold);
    Ok(())
}

/// Connections that have each exchanged one message: the server has accepted them, one in a turn, before the
/// count begins.
fn dial_each(port: u16, connections: usize, len: usize) -> io::Result<Vec<Peer>> {
    let dial = |number| {
        let mut peer = Peer::dial(port, number, len)?;
        peer.write()?;
        peer.read()?;
        Ok(peer)
    };
    (0..connections).map(dial).collect()
}

/// One connection that writes its stream by `len` bytes and reads it back.
struct Peer {
    stream: TcpStream,
    /// Where in its stream the next message begins; what was written before has been read.
    position: u64,
    message: Vec<u8>,
}

impl Peer {
    /// `number` makes its stream one of its own.
    fn dial(port: u16, number: usize, len: usize) -> io::Result<Peer> {
        if !(1..=ROUND_MAX_BYTES).contains(&len) {
            return Err(io::Error::other(format!("a round takes 1 to {ROUND_MAX_BYTES} bytes of a connection")));
        }
        let stream = dial(port)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // Neighbours are far apart in the pattern, so that no short message is another one's.
        let position = number as u64 * 7919;
        Ok(Peer { stream, position, message: vec![0; len] })
    }

    fn write(&mut self) -> io::Result<()> {
        self.stream.write_all(pattern(self.position, self.message.len()))
    }

    fn read(&mut self) -> io::Result<()> {
        self.stream.read_exact(&mut self.message)?;
        compare(self.position, &self.message)?;
        self.position += self.message.len() as u64;
        Ok(())
    }

    /// Ends our half, and waits for the other's end.
    fn end(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        match self.stream.read(&mut self.message)? {
            0 => Ok(()),
            n => Err(io::Error::other(format!("{n} bytes more than were sent"))),
        }
    }
}

fn bulk(port: u16, sink: u16, total: u64, stop: Duration) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, sink))?;
    let mut source = dial(port)?;
    wait_for(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PATIENCE)?;
    let (mut sink, _) = listener.accept()?;
    source.set_nonblocking(true)?;
    sink.set_nonblocking(true)?;

    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut sent, mut received) = (0, 0);
    // When the sink reads on, once it has stopped.
    let mut stopped: Option<Instant> = None;
    loop {
        let rest = stopped.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        let wanted = [
            (sent < total).then(|| PollFd::new(source.as_fd(), PollFlags::POLLOUT)),
            rest.is_zero().then(|| PollFd::new(sink.as_fd(), PollFlags::POLLIN)),
        ];
        let mut wanted: Vec<PollFd> = wanted.into_iter().flatten().collect();
        if rest.is_zero() {
            wait_for(&mut wanted, PATIENCE)?;
        } else {
            // That nothing moves is what it is about.
            wait(&mut wanted, rest)?;
        }
        if sent < total {
            let len = (total - sent).min(CHUNK_BYTES as u64) as usize;
            sent += at_once(source.write(pattern(sent, len)))?.unwrap_or(0) as u64;
            if sent == total {
                source.shutdown(Shutdown::Write)?;
            }
        }
        if !rest.is_zero() {
            continue;
        }
        let Some(n) = at_once(sink.read(&mut chunk))? else { continue };
        if n == 0 {
            break;
        }
        compare(received, &chunk[..n])?;
        received += n as u64;
        if !stop.is_zero() && stopped.is_none() && received >= total / 2 {
            println!("the reader stops");
            stopped = Some(Instant::now() + stop);
        }
    }
    println!("{sent} bytes sent, {} bytes lost", sent - received);
    if received < total {
        return Err(io::Error::other(format!("the stream ended after {received} of {total} bytes")));
    }
    // The sink's end is carried back.
    drop(sink);
    wait_for(&mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)], PATIENCE)?;
    match source.read(&mut chunk)? {
        0 => Ok(()),
        n => Err(io::Error::other(format!("{n} bytes came back"))),
    }
}

fn dial(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// `None` where the socket would block.
fn at_once(moved: io::Result<usize>) -> io::Result<Option<usize>> {
    match moved {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether one of them was ready in time.
fn wait(wanted: &mut [PollFd], at_most: Duration) -> io::Result<bool> {
    let at_most = PollTimeout::try_from(at_most).map_err(io::Error::other)?;
    Ok(poll(wanted, at_most)? > 0)
}

fn wait_for(wanted: &mut [PollFd], at_most: Duration) -> io::Result<()> {
    if wait(wanted, at_most)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

// ── The pattern ──────────────────────────────────────────────────────────────────────────────────────────────

/// The pattern repeats itself after a prime number of bytes. Whatever loses or doubles a buffer does so by a round
/// number, and cannot come out even.
const PERIOD: usize = 65_521;

/// One period, and as much more as is asked for at once, so that what begins anywhere in it lies in one piece.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // Of a multiplicative hash the upper bits are the good ones.
    let noise = |place: usize| ((place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u8;
    (0..PERIOD + CHUNK_BYTES).map(|place| noise(place % PERIOD)).collect()
});

/// What a stream has from `position` on.
fn pattern(position: u64, len: usize) -> &'static [u8] {
    let start = (position % PERIOD as u64) as usize;
    &PATTERN[start..start + len]
}

fn compare(position: u64, found: &[u8]) -> io::Result<()> {
    let expected = pattern(position, found.len());
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => Err(io::Error::other(format!("byte {} of a stream is not what was sent", position + at as u64))),
    }
}
