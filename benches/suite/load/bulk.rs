//! One stream through a relay, both of its ends here.
//!
//! ```text
//!   source ──▸ relay ──▸ sink          what goes on it: M MiB, and what came before the window opened
//!     the end of the source reaches the sink, and the end of the sink the source
//! ```
//!
//! One thread writes and reads by turns, so the stream is no faster than this thread; that is why the figure of this
//! scenario is what the relay has *spent* for a GiB and not only how many of them went through in a second.
//!
//! The sink may stop reading when half of the stream has come. A relay that is bounded then stops reading the source;
//! how much the source could still write is counted (`accepted_while_stopped_bytes`), most of which is in the buffers
//! of the kernel.

use super::pattern::{CHUNK_BYTES, Pattern};
use super::peer::{PATIENCE, about};
use super::upstream::Upstream;
use super::window::{Clock, Processor, Window};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// A stream of a given length.
pub struct Stream {
    /// Bytes before the window opens.
    pub warm_up: u64,
    /// Bytes while it is open.
    pub measured: u64,
    /// For how long the sink stops when half of all has come.
    pub stop: Option<Duration>,
    pub processor: Processor,
}

/// How it went.
pub struct Carried {
    pub window: Window,
    /// While the window was open and the sink read.
    pub seconds: f64,
    pub accepted_while_stopped: u64,
}

impl Stream {
    /// Sends it through the relay at `port`.
    pub fn run(&self, port: u16, upstream: &Upstream) -> io::Result<Carried> {
        let source = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|e| about("the relay", e))?;
        source.set_nodelay(true)?;
        source.set_nonblocking(true)?;
        let sink = upstream.accept()?;
        sink.set_nonblocking(true)?;
        let total = self.warm_up + self.measured;
        let pattern = Pattern::noise();
        let mut ends = Ends { source, sink, pattern, input: vec![0; CHUNK_BYTES], total, sent: 0, received: 0 };

        let clock = Clock::new();
        let mut window = Window::by_hand(self.processor);
        ends.carry(self.warm_up)?;
        window.open(clock.now())?;
        let (mut stopped_seconds, mut accepted_while_stopped) = (0.0, 0);
        if let Some(stop) = self.stop {
            ends.carry(total / 2)?;
            let began = clock.now();
            accepted_while_stopped = ends.stop(stop)?;
            stopped_seconds = (clock.now() - began) as f64 / 1e9;
        }
        ends.carry(total)?;
        window.close(clock.now())?;
        ends.end()?;

        let seconds = window.seconds() - stopped_seconds;
        Ok(Carried { window, seconds, accepted_while_stopped })
    }
}

struct Ends {
    source: TcpStream,
    sink: TcpStream,
    pattern: Pattern,
    input: Vec<u8>,
    total: u64,
    sent: u64,
    received: u64,
}

impl Ends {
    /// Writes and reads until the sink has had `until` bytes.
    fn carry(&mut self, until: u64) -> io::Result<()> {
        while self.received < until {
            let writable = self.sent < self.total;
            if !wait(writable.then_some(&self.source), Some(&self.sink), PATIENCE)? {
                let e = io::Error::new(io::ErrorKind::TimedOut, "the stream stands still");
                return Err(self.about(e));
            }
            self.send()?;
            self.receive()?;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let len = (self.total - self.sent).min(CHUNK_BYTES as u64) as usize;
        if len == 0 {
            return Ok(());
        }
        let written = at_once(self.source.write(self.pattern.at(self.sent, len)));
        self.sent += written.map_err(|e| self.about(e))?.unwrap_or(0) as u64;
        if self.sent == self.total {
            self.source.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        match at_once(self.sink.read(&mut self.input)).map_err(|e| self.about(e))? {
            None => Ok(()),
            Some(0) => Err(self.about(io::Error::other("the relay has ended the stream"))),
            Some(n) if self.received + n as u64 > self.sent => {
                Err(self.about(io::Error::other("more came than was sent")))
            }
            Some(n) => {
                self.pattern.compare(self.received, &self.input[..n]).map_err(|e| self.about(e))?;
                self.received += n as u64;
                Ok(())
            }
        }
    }

    /// Only writes, for as long as the sink stops; how much was taken in that time.
    fn stop(&mut self, length: Duration) -> io::Result<u64> {
        writeln!(io::stdout(), "stopped")?;
        let (before, clock) = (self.sent, Clock::new());
        while let Some(rest) = length.checked_sub(Duration::from_nanos(clock.now())).filter(|rest| !rest.is_zero()) {
            // That nothing moves is what it is about.
            if wait((self.sent < self.total).then_some(&self.source), None, rest)? {
                self.send()?;
            }
        }
        writeln!(io::stdout(), "resumed")?;
        Ok(self.sent - before)
    }

    /// The end of the source has been said: it comes to the sink, whose end comes back.
    fn end(mut self) -> io::Result<()> {
        expect_end(&mut self.sink, "the end of the source did not come to the sink")?;
        self.sink.shutdown(Shutdown::Write)?;
        expect_end(&mut self.source, "the end of the sink did not come back to the source")
    }

    fn about(&self, e: io::Error) -> io::Error {
        let Ends { total, sent, received, .. } = self;
        about(&format!("the stream of {total} bytes, of which {sent} were sent and {received} came"), e)
    }
}

/// Waits for it, and sees that there is nothing before it.
fn expect_end(stream: &mut TcpStream, otherwise: &str) -> io::Result<()> {
    if !wait(None, Some(stream), PATIENCE)? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, otherwise));
    }
    match stream.read(&mut [0; 1]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(io::Error::other(format!("{otherwise}: there are bytes behind it"))),
        Err(e) => Err(about(otherwise, e)),
    }
}

/// Whether there is room in `source` or something in `sink`, before the time is over.
fn wait(source: Option<&TcpStream>, sink: Option<&TcpStream>, at_most: Duration) -> io::Result<bool> {
    let source = source.map(|source| PollFd::new(source.as_fd(), PollFlags::POLLOUT));
    let sink = sink.map(|sink| PollFd::new(sink.as_fd(), PollFlags::POLLIN));
    // Rounded up: to wait for nothing until the last millisecond is over would be to spin.
    let at_most = PollTimeout::try_from(at_most + Duration::from_millis(1)).map_err(io::Error::other)?;
    let n = match (source, sink) {
        (Some(source), Some(sink)) => poll(&mut [source, sink], at_most),
        (Some(one), None) | (None, Some(one)) => poll(&mut [one], at_most),
        (None, None) => poll(&mut [], at_most),
    };
    Ok(n? > 0)
}

/// `None` where the socket would block.
fn at_once(moved: io::Result<usize>) -> io::Result<Option<usize>> {
    match moved {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}
