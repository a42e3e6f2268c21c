//! Fan-out: one publisher, and many who get all that it says.
//!
//! The publisher writes a burst of frames at once, and the next one when every subscriber that reads has the last
//! whole: the server is never given more than it can get rid of, so whoever misses a frame has been wronged. A
//! subscriber says `S` first, the publisher `P`; no server answers that, so probes are published until all have heard
//! one, and a last one from which on everybody counts.
//!
//! ```text
//!   subscriber   S        ◂ probe ◂ probe ◂ last probe ┊ ◂ frame ◂ frame …      compared at its place
//!   publisher      P probe ▸ probe ▸        last probe ▸ ┊ burst ▸ … all have it: burst ▸
//! ```
//!
//! The sleeper subscribes and does not read. It is to cost the others nothing, and the server no more than its bound;
//! so it must be past that bound before anything is measured. Its window and its segments are tiny, which keeps
//! the kernel's buffers toward it small, and it is filled with a few MiB (`FILL_FRAMES`) while only one other
//! subscriber is there to be kept waiting. At the end it wakes up and reads: it must have missed something, and what
//! it has must be whole frames.

use super::pattern::{CHUNK_BYTES, HEADER_BYTES, Pattern};
use super::peer::{MESSAGE_MAX_BYTES, PATIENCE, about, reset_on_close};
use super::poll::Poll;
use super::window::{Clock, Latencies, Phase, Window};
use nix::sys::socket::sockopt::{RcvBuf, TcpMaxSeg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;

/// The time that a server is given to see the `S` of each subscriber, before the first probe. It is no promise: whoever
/// is seen later hears a later probe. But it mostly saves the others those, so that counts are the same in every run.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_EACH: Duration = Duration::from_micros(20);

/// How long a probe is waited for before the next, and how many there are before we give up.
const PROBE_WAIT: Duration = Duration::from_millis(100);
const PROBES_MAX: u64 = 300;

/// How long the sleeper, awake, reads in vain before it is sent a probe, and how many of these before we give up.
const WAKE_WAIT: Duration = Duration::from_millis(20);
const WAKE_PROBES_MAX: usize = 1500;

/// A header and a number. No other frame is so short.
const PROBE_BYTES: usize = HEADER_BYTES + 8;
/// From here on a subscriber counts every byte.
const LAST_PROBE: u64 = u64::MAX;
/// For the sleeper, when it has woken up. The last probe may have had room where a frame had none.
const WAKE_PROBE: u64 = u64::MAX - 1;

/// What the sleeper is filled with, 8 MiB: more than any bound of a server here, be it of bytes (1 MiB) or of messages
/// (1024), and than its kernel buffers. They are published one by one, since some bounds count what was read at once.
const FILL_FRAMES: u64 = 2048;
const FILL_FRAME_BYTES: usize = 4096;

/// The least that the kernel gives; and a segment so short that the server's side of it stays at some tens of KiB,
/// since the kernel sizes a send buffer by segments.
const SLEEPER_RECEIVE_BYTES: usize = 2304;
const SLEEPER_SEGMENT_BYTES: u32 = 536;

/// A publisher and its subscribers.
pub struct FanOut {
    publisher: TcpStream,
    subscribers: Vec<Subscriber>,
    sleeper: Option<Sleeper>,
    poll: Poll,
    input: Vec<u8>,
    probes: u64,
    /// Frames that were published, whether or not a window was open.
    published: u64,
    pub clock: Clock,
}

struct Subscriber {
    stream: TcpStream,
    received: u64,
}

struct Sleeper {
    stream: TcpStream,
    input: Vec<u8>,
}

/// What is published: bursts of `burst` frames of `size` bytes.
#[derive(Clone, Copy)]
pub struct Bursts {
    pub size: usize,
    pub burst: usize,
    /// How many frames at most; the window may close before.
    pub messages: Option<u64>,
}

/// What the sleeper has found when it woke up.
pub struct Slept {
    pub bytes: u64,
    pub missed: u64,
}

impl FanOut {
    /// All have subscribed and heard the last probe; the sleeper, if there is one, has no room for more.
    pub fn new(port: u16, subscribers: usize, sleeper: bool) -> io::Result<FanOut> {
        let publisher = say(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?, b'P')?;
        publisher.set_write_timeout(Some(PATIENCE))?;
        let mut all = FanOut {
            publisher,
            subscribers: Vec::with_capacity(subscribers),
            sleeper: None,
            poll: Poll::new()?,
            input: vec![0; CHUNK_BYTES],
            probes: 0,
            published: 0,
            clock: Clock::new(),
        };
        if sleeper {
            all.subscribe(port, 1)?;
            let stream = doze_off(port)?;
            all.subscribers.push(Subscriber { stream, received: 0 });
            all.probe()?;
            let stream = all.subscribers.pop().map(|sleeper| sleeper.stream);
            all.sleeper = stream.map(|stream| Sleeper { stream, input: Vec::new() });
            all.fill()?;
        }
        all.subscribe(port, subscribers - all.subscribers.len())?;
        all.probe()?;
        Ok(all)
    }

    /// Publishes until the window closes or the messages are used up; how many while it was open.
    pub fn publish(&mut self, bursts: Bursts, window: &mut Window, to: &mut Latencies) -> io::Result<u64> {
        let pattern = Pattern::frames(bursts.size);
        let len = bursts.size * bursts.burst;
        self.watch()?;
        let (mut position, mut published) = (0, 0);
        while bursts.messages.is_none_or(|messages| published < messages) {
            let began = self.clock.now();
            let until = position + len as u64;
            self.burst(pattern.at(position, len))?;
            self.deliver(position, until, &pattern)?;
            position = until;
            published += bursts.burst as u64;
            self.published += bursts.burst as u64;
            let now = self.clock.now();
            to.record(began, now);
            // With a number of messages, the window is open all the time and others close it.
            match window.tick(now)? {
                Phase::Opened => {
                    to.clear();
                    published = 0;
                }
                Phase::Closed => break,
                _ => {}
            }
        }
        Ok(published)
    }

    /// Wakes the sleeper and has it read, up to a probe that fits again, or to its end.
    ///
    /// # Errors
    /// Where a frame is torn or wrong, and where it was sent everything.
    pub fn wake(&mut self, bursts: Bursts) -> io::Result<Option<Slept>> {
        let Some(mut sleeper) = self.sleeper.take() else { return Ok(None) };
        setsockopt(&sleeper.stream, RcvBuf, &CHUNK_BYTES)?;
        sleeper.stream.set_nonblocking(false)?;
        sleeper.stream.set_read_timeout(Some(WAKE_WAIT))?;
        let patterns = [Pattern::frames(FILL_FRAME_BYTES), Pattern::frames(bursts.size)];
        let (mut bytes, mut frames, mut over, mut probes) = (0, 0, false, 0);
        while probes < WAKE_PROBES_MAX {
            match sleeper.stream.read(&mut self.input) {
                Ok(0) => over = true,
                Ok(n) => {
                    bytes += n as u64;
                    sleeper.input.extend_from_slice(&self.input[..n]);
                    let (found, last) = sleeper.take_frames(&patterns)?;
                    frames += found;
                    over = last;
                }
                Err(e) if is_nothing(&e) => {
                    self.publisher.write_all(&probe(WAKE_PROBE))?;
                    probes += 1;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => over = true,
                Err(e) => return Err(about("the sleeper", e)),
            }
            if over {
                if frames >= self.published {
                    return Err(io::Error::other("the sleeper was sent everything: what is kept for it has no bound"));
                }
                return Ok(Some(Slept { bytes, missed: self.published - frames }));
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the sleeper woke up and was sent nothing more"))
    }

    fn subscribe(&mut self, port: u16, subscribers: usize) -> io::Result<()> {
        for number in 0..subscribers {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .map_err(|e| about(&format!("subscriber {number} cannot connect"), e))?;
            self.subscribers.push(Subscriber { stream: say(stream, b'S')?, received: 0 });
        }
        Ok(())
    }

    /// Until every subscriber has heard of the publisher, and then exactly up to the last probe.
    fn probe(&mut self) -> io::Result<()> {
        let first = self.probes;
        sleep(SETTLE + SETTLE_EACH * self.subscribers.len() as u32);
        self.publisher.write_all(&probe(first))?;
        for subscriber in &self.subscribers {
            subscriber.stream.set_nonblocking(false)?;
            subscriber.stream.set_read_timeout(Some(PROBE_WAIT))?;
            while let Err(e) = subscriber.stream.peek(&mut [0; 1]) {
                if !is_nothing(&e) || self.probes - first == PROBES_MAX {
                    return Err(about("a subscriber has heard nothing of the publisher", e));
                }
                self.probes += 1;
                self.publisher.write_all(&probe(self.probes))?;
            }
        }
        self.publisher.write_all(&probe(LAST_PROBE))?;
        for subscriber in &mut self.subscribers {
            subscriber.stream.set_read_timeout(Some(PATIENCE))?;
            let mut frame = [0; PROBE_BYTES];
            while frame != probe(LAST_PROBE) {
                subscriber.stream.read_exact(&mut frame).map_err(|e| about("a subscriber did not hear a probe", e))?;
                if frame[..HEADER_BYTES] != probe(0)[..HEADER_BYTES] {
                    return Err(io::Error::other(format!("a subscriber has heard {frame:?}, and not a probe")));
                }
            }
            subscriber.received = 0;
            subscriber.stream.set_nonblocking(true)?;
        }
        Ok(())
    }

    /// Fills what there is toward the sleeper, at the pace of the one who reads.
    fn fill(&mut self) -> io::Result<()> {
        let pattern = Pattern::frames(FILL_FRAME_BYTES);
        self.watch()?;
        for frame in 0..FILL_FRAMES {
            let position = frame * FILL_FRAME_BYTES as u64;
            self.burst(pattern.at(position, FILL_FRAME_BYTES))?;
            self.deliver(position, position + FILL_FRAME_BYTES as u64, &pattern)?;
            self.published += 1;
        }
        Ok(())
    }

    fn watch(&mut self) -> io::Result<()> {
        self.poll = Poll::new()?;
        for (tag, subscriber) in self.subscribers.iter().enumerate() {
            self.poll.add(&subscriber.stream, tag as u64)?;
        }
        Ok(())
    }

    fn burst(&self, frames: &[u8]) -> io::Result<()> {
        (&self.publisher).write_all(frames).map_err(|e| about("the server does not read the publisher", e))
    }

    /// Reads until every subscriber is at `until`.
    fn deliver(&mut self, from: u64, until: u64, pattern: &Pattern) -> io::Result<()> {
        let mut behind = self.subscribers.len();
        while behind > 0 {
            let n = self.poll.wait(false).map_err(|e| {
                let what = format!("{behind} of {} subscribers miss what was published", self.subscribers.len());
                about(&what, e)
            })?;
            for index in 0..n {
                let (tag, _) = self.poll.event(index);
                let subscriber = &mut self.subscribers[tag as usize];
                subscriber
                    .read(&mut self.input, from, until, pattern)
                    .map_err(|e| about(&format!("subscriber {tag}, after {} bytes", subscriber.received), e))?;
                behind -= usize::from(subscriber.received == until);
            }
        }
        Ok(())
    }
}

impl Subscriber {
    #[inline]
    fn read(&mut self, input: &mut [u8], from: u64, until: u64, pattern: &Pattern) -> io::Result<()> {
        let n = match self.stream.read(input) {
            Ok(0) => return Err(io::Error::other("the server has ended it")),
            Ok(n) => n,
            Err(e) if is_nothing(&e) => return Ok(()),
            Err(e) => return Err(e),
        };
        debug_assert!((from..until).contains(&self.received));
        if self.received + n as u64 > until {
            return Err(io::Error::other("more came than was published"));
        }
        pattern.compare(self.received, &input[..n])?;
        self.received += n as u64;
        Ok(())
    }
}

impl Sleeper {
    /// Compares and forgets the whole frames; how many there were besides probes, and whether the probe that it
    /// was sent awake was the last of them.
    fn take_frames(&mut self, patterns: &[Pattern; 2]) -> io::Result<(u64, bool)> {
        let (mut start, mut frames, mut last) = (0, 0, false);
        while let Some(header) = self.input[start..].first_chunk::<HEADER_BYTES>() {
            let len = HEADER_BYTES + u32::from_be_bytes(*header) as usize;
            if len > MESSAGE_MAX_BYTES {
                return Err(io::Error::other(format!("the sleeper was sent a torn frame: its header says {header:?}")));
            }
            let Some(frame) = self.input[start..].get(..len) else { break };
            last = frame == probe(WAKE_PROBE);
            if len != PROBE_BYTES {
                let compared = patterns.each_ref().map(|pattern| pattern.compare_frame(frame));
                if let [Err(_), Err(e)] = compared {
                    return Err(about("the sleeper was sent a torn frame", e));
                }
                frames += 1;
            }
            start += len;
        }
        self.input.drain(..start);
        Ok((frames, last && self.input.is_empty()))
    }
}

fn say(mut stream: TcpStream, role: u8) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    reset_on_close(&stream)?;
    stream.write_all(&[role])?;
    Ok(stream)
}

/// A subscriber with as little room as can be had; that must be said before it connects.
fn doze_off(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    setsockopt(&stream, RcvBuf, &SLEEPER_RECEIVE_BYTES)?;
    setsockopt(&stream, TcpMaxSeg, &SLEEPER_SEGMENT_BYTES)?;
    connect(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))?;
    say(stream, b'S')
}

fn probe(number: u64) -> [u8; PROBE_BYTES] {
    let mut frame = [0; PROBE_BYTES];
    frame[..HEADER_BYTES].copy_from_slice(&8_u32.to_be_bytes());
    frame[HEADER_BYTES..].copy_from_slice(&number.to_be_bytes());
    frame
}

fn is_nothing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
