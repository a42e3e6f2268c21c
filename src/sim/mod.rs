//! A test kit: a simulated kernel and network, in which your own handlers run on the real [`Reactor`].
//!
//! While a [`World`] lives, everything that this thread's reactors do with sockets happens in it, and only there:
//! descriptors, buffers, delays, resets and the clock are simulated. A test that takes an hour of the world's time
//! takes a millisecond of yours, and a run is a function of its seed and of your program: what failed once fails again
//! (as long as the program itself leaves nothing to chance, see below).
//!
//! ```text
//!   your handlers          peers that you play         the seed
//!        │                        │                       │ delays, sizes, order, failures
//!   Reactor ──── sockets ──── simulated kernel ───────────┘
//!        └─ one thread, no real descriptor, no real time
//! ```
//!
//! # Examples
//!
//! ```
//! use plimsoll::Reactor;
//! use plimsoll::sim::World;
//! use std::time::Duration;
//!
//! for seed in 0..100 {
//!     let world = World::new(seed);
//!     let mut reactor = Reactor::new(())?;
//!     let echo = reactor.net.serve("10.0.0.1:7", |ctx, input| {
//!         ctx.send(&input[..]);
//!         input.clear();
//!     })?;
//!
//!     // A peer that sends, ends its half and reads what comes; another that cuts the line after a second.
//!     let peer = world.connect(&reactor.net.local_address(echo).expect("it listens"));
//!     peer.takes();
//!     peer.send(&[7; 100_000]);
//!     peer.shutdown();
//!     let other = world.connect("10.0.0.1:7");
//!     other.send(b"never read");
//!     world.after(Duration::from_secs(1), move |_| other.reset());
//!
//!     // An hour later nothing is left but the listener. It takes no hour.
//!     reactor.net.after(Duration::from_secs(3_600), |lp| lp.net.stop());
//!     reactor.run()?;
//!     assert_eq!(peer.received().len(), 100_000, "seed {seed}");
//!     assert!(peer.has_ended(), "seed {seed}");
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What to know
//!
//! - One world a thread, and everything of it on that thread: a reactor or a [`Fd`](crate::Fd) of a world means nothing
//!   on another. A [`Mailbox`](crate::Mailbox) takes mail from another thread, but the world may not be woken by it.
//!   What a program [offloads](crate::Net::offload) runs on the loop's thread, at a time that the seed chooses.
//! - Make the world first and drop it last. A reactor that was made before it has real descriptors, and finds none of
//!   the world's: to serve fails with *Bad file descriptor* (EBADF).
//! - What the seed does not decide, a program may bring in: [`Instant::now`](std::time::Instant::now) is the real clock
//!   still ([`Net::now`](crate::Net::now) is the world's), a `HashMap` has an order of its own in each run, other
//!   threads and other sources of chance do as they like. Leave them out, and a seed is worth keeping;
//!   [`trace`](World::trace) tells whether two runs were the same.
//! - A loop that would sleep for ever (nothing ready, nothing under way, no timer) is told so: its turn ends with
//!   the error *Resource deadlock avoided* (EDEADLK). A test may want just that: [`settle`](World::settle) runs until
//!   all is at rest.
//! - In a [storm](Weather::stormy) a verb may be refused and a polite peer cut, as on a machine without memory. Make
//!   the listeners in calm weather and [change it](World::set_weather) then; and if all that is served must be served
//!   whole, interrupted and cut short but never refused, take
//!   `Weather { shortages: 0, accept_failures: 0, ..Weather::stormy() }`.
//! - Signals are not simulated, nor are the file system beyond the paths of Unix sockets, or multicast.
//! - Faults of your choice (*the third send answers ENOBUFS*) are the affair of [`fault`](crate::fault), which works
//!   in a world as it does outside.
//!
//! The feature `sim` brings all this; a build without it has nothing of it.

#[cfg(test)]
mod programs;

use crate::reactor::Reactor;
use crate::sys::sim::kernel::{Id, Kernel};
use crate::sys::sim::stream::{Manner, State};
use crate::sys::{Address, ToAddress, sim};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

pub use crate::sys::sim::chance::Weather;

/// A simulated machine, network and clock for this thread, from its making until it is dropped.
///
/// Drop what lives in it first. A reactor that outlives its world can be dropped, but not used.
pub struct World {
    began: u64,
    /// It belongs to its thread.
    here: PhantomData<Rc<()>>,
}

impl World {
    /// A world with delays, small packets and small buffers, all from `seed`: its weather is
    /// [windy](Weather::windy), in which writes are cut short, and no call fails for good that could have succeeded.
    ///
    /// # Panics
    /// If this thread has a world already.
    #[track_caller]
    pub fn new(seed: u64) -> World {
        World::with_weather(seed, Weather::windy())
    }

    /// A world in which everything arrives at once, and nothing is left to chance.
    ///
    /// # Panics
    /// As [`new`](World::new).
    #[track_caller]
    pub fn calm() -> World {
        World::with_weather(0, Weather::calm())
    }

    /// A world with this weather.
    ///
    /// # Panics
    /// As [`new`](World::new), and if the weather lets a buffer or a segment be empty, so that nothing would ever move.
    #[track_caller]
    pub fn with_weather(seed: u64, weather: Weather) -> World {
        weather.check();
        sim::install(seed, weather);
        World { began: here(|kernel| kernel.now), here: PhantomData }
    }

    /// Changes the weather, for what happens from now on.
    ///
    /// # Panics
    /// If it lets a buffer or a segment be empty, so that nothing would ever move.
    #[track_caller]
    pub fn set_weather(&self, weather: Weather) {
        weather.check();
        here(|kernel| kernel.weather = weather);
    }

    // ── Peers ────────────────────────────────────────────────────────────────────────────────────────────────

    /// A peer from outside that connects to a socket of the program. What it is told to send waits until it is
    /// connected; if nobody listens, it [was cut](Peer::error).
    ///
    /// # Panics
    /// If that is no address.
    #[track_caller]
    pub fn connect(&self, to: impl ToAddress) -> Peer {
        Peer::connect(None, &meant(to))
    }

    /// The same, from an address of the peer's own.
    ///
    /// # Panics
    /// If one is no address, or a path and the other none.
    #[track_caller]
    pub fn connect_from(&self, from: impl ToAddress, to: impl ToAddress) -> Peer {
        let (from, to) = (meant(from), meant(to));
        assert_eq!(from.is_unix(), to.is_unix(), "nobody at {from} can connect to {to}");
        Peer::connect(Some(&from), &to)
    }

    /// A server from outside, for the program to connect to.
    ///
    /// # Errors
    /// The address is in use, or none.
    pub fn listen(&self, at: impl ToAddress) -> io::Result<Harbor> {
        Harbor::open(&at.to_address()?)
    }

    /// A datagram socket from outside.
    ///
    /// # Errors
    /// The address is in use, or none.
    pub fn datagrams(&self, at: impl ToAddress) -> io::Result<DatagramPeer> {
        let at = at.to_address()?;
        here(|kernel| {
            let id = kernel.make_datagram(at.is_unix());
            kernel.bind_datagram(id, &at)?;
            Ok(DatagramPeer { id })
        })
        .map_err(io::Error::from_raw_os_error)
    }

    /// What a host's name stands for. Unknown names are not found; addresses and `localhost` need no telling.
    pub fn host(&self, name: &str, addresses: &[IpAddr]) {
        here(|kernel| kernel.hosts.insert(name.to_owned(), addresses.to_vec()));
    }

    /// An address that swallows what is sent to it: who connects to it hears nothing, not even no.
    ///
    /// # Panics
    /// If that is no address.
    #[track_caller]
    pub fn silence(&self, address: impl ToAddress) {
        let address = meant(address);
        here(|kernel| kernel.silent.push(address));
    }

    // ── Time ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Runs a reactor until all is at rest: nothing is ready or under way, and no timer or errand is to come. It may also
    /// have been stopped.
    ///
    /// # Errors
    /// Those of [`run`](Reactor::run), but for `Deadlock`, which is what it is after.
    pub fn settle<A: 'static>(&self, reactor: &mut Reactor<A>) -> io::Result<()> {
        match reactor.run() {
            Err(e) if e.kind() == io::ErrorKind::Deadlock => Ok(()),
            ended => ended,
        }
    }

    /// How much time has passed in this world.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(here(|kernel| kernel.now) - self.began)
    }

    /// Has something done when this much time has passed, while a reactor waits or in [`pass`](World::pass): a peer
    /// acts, a [`Mailbox`](crate::Mailbox) gets mail.
    pub fn after(&self, time: Duration, errand: impl FnOnce(&World) + 'static) {
        let began = self.began;
        let errand = move || {
            // Another name of the world that runs the errand, which does not end it.
            let world = ManuallyDrop::new(World { began, here: PhantomData });
            errand(&world);
        };
        sim::errand(time, Box::new(errand));
    }

    /// Lets time pass without a reactor.
    pub fn pass(&self, time: Duration) {
        let until = here(|kernel| kernel.now.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
        while let Some(errand) = here(|kernel| kernel.pass(until)) {
            errand();
        }
    }

    // ── The program's side ───────────────────────────────────────────────────────────────────────────────────

    /// How many descriptors the program has open.
    pub fn open_descriptors(&self) -> usize {
        here(|kernel| kernel.open_descriptors())
    }

    /// How many it may have; 1,024 at first. One more is EMFILE.
    pub fn limit_descriptors(&self, most: usize) {
        here(|kernel| kernel.limit_descriptors(most));
    }

    /// System calls that the program has made.
    pub fn calls(&self) -> u64 {
        here(|kernel| kernel.calls())
    }

    /// How often it has waited, which a reactor does once a turn.
    pub fn turns(&self) -> u64 {
        here(|kernel| kernel.waits())
    }

    /// A number made of every call, its answer and its time: two runs that have the same were the same.
    pub fn trace(&self) -> u64 {
        here(|kernel| kernel.trace())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        sim::remove();
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("elapsed", &self.elapsed()).field("calls", &self.calls()).finish_non_exhaustive()
    }
}

/// The address that a test means.
#[track_caller]
fn meant(address: impl ToAddress) -> Address {
    match address.to_address() {
        Ok(address) => address,
        Err(e) => panic!("{e}"),
    }
}

/// The kernel of this thread's world.
#[track_caller]
fn here<T>(f: impl FnOnce(&mut Kernel) -> T) -> T {
    sim::with(f).expect("a peer lives on the thread of its World, and as long as that: there is none here")
}

/// The other end of one of the program's streams, played by the test.
///
/// It is a name: copies are the same peer, and dropping it changes nothing. All that it does happens at once, but for
/// the way to the program, which takes its time. It never waits: what it sends is taken whole. What it knows when the
/// connection is over, whoever ended it, it knows until the world ends. In another world nobody knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    id: Id,
}

impl Peer {
    #[track_caller]
    fn connect(from: Option<&Address>, to: &Address) -> Peer {
        here(|kernel| {
            let id = kernel.make_outsider(to.is_unix());
            if let (Some(from), Some(stream)) = (from, kernel.stream_mut(id)) {
                stream.local = Some(from.clone());
            }
            // How it goes is told by the peer.
            let _ = kernel.connect(id, to);
            Peer { id }
        })
    }

    /// Sends; lost without a word if the connection is over.
    #[track_caller]
    pub fn send(self, data: &[u8]) {
        let _ = here(|kernel| kernel.send(self.id, &[io::IoSlice::new(data)], false));
    }

    /// The same, and makes the last byte TCP's urgent one, which the program will not read.
    #[track_caller]
    pub fn send_urgent(self, data: &[u8]) {
        let _ = here(|kernel| kernel.send(self.id, &[io::IoSlice::new(data)], true));
    }

    /// Reads what has come, at most `max` bytes.
    #[track_caller]
    pub fn read(self, max: usize) -> Vec<u8> {
        let mut data = Vec::new();
        here(|kernel| {
            let _ = kernel.recv(self.id, max, |bytes| data.extend_from_slice(bytes));
            if let Some(stream) = kernel.stream_mut(self.id) {
                stream.taken.extend_from_slice(&data);
            }
        });
        data
    }

    /// From now on it reads everything as it comes; see [`received`](Peer::received).
    #[track_caller]
    pub fn takes(self) {
        self.behave(Manner::Takes);
    }

    /// From now on it reads everything as it comes, sends it back, and ends when it is ended.
    #[track_caller]
    pub fn echoes(self) {
        self.behave(Manner::Echoes);
    }

    /// From now on it reads nothing unless told to.
    #[track_caller]
    pub fn stops_reading(self) {
        self.behave(Manner::ByHand);
    }

    #[track_caller]
    fn behave(self, manner: Manner) {
        here(|kernel| {
            if let Some(stream) = kernel.stream_mut(self.id) {
                stream.manner = manner;
            }
            kernel.attend_soon(self.id);
        });
    }

    /// All that it has read so far. What came and was not read before it closed or reset is not among it.
    #[track_caller]
    pub fn received(self) -> Vec<u8> {
        here(|kernel| kernel.remembered(self.id).map(|stream| stream.taken.clone())).unwrap_or_default()
    }

    /// Ends its half: what it has sent arrives first.
    #[track_caller]
    pub fn shutdown(self) {
        let _ = here(|kernel| kernel.shutdown(self.id));
    }

    /// Closes, as a program that ends: if something is unread, the connection is cut.
    #[track_caller]
    pub fn close(self) {
        here(|kernel| kernel.let_go(self.id));
    }

    /// Cuts the connection (RST).
    #[track_caller]
    pub fn reset(self) {
        here(|kernel| kernel.abandon(self.id));
    }

    /// Is gone, with its machine: it answers nothing any more, and nobody is told.
    #[track_caller]
    pub fn vanish(self) {
        here(|kernel| {
            if let Some(stream) = kernel.stream_mut(self.id) {
                (stream.vanished, stream.manner) = (true, Manner::ByHand);
            }
        });
    }

    /// Its own address, which is what the program sees as its peer's.
    #[track_caller]
    pub fn local_address(self) -> Option<Address> {
        here(|kernel| kernel.remembered(self.id).and_then(|stream| stream.local.clone()))
    }

    /// Whether it is connected, or was.
    #[track_caller]
    pub fn has_connected(self) -> bool {
        here(|kernel| kernel.remembered(self.id).is_some_and(|stream| stream.peer.is_some()))
    }

    /// Whether the program has ended its half, and everything before that end has come.
    #[track_caller]
    pub fn has_ended(self) -> bool {
        here(|kernel| kernel.remembered(self.id).is_some_and(|stream| stream.fin_received && stream.rx.is_empty()))
    }

    /// Whether the connection was cut, and why: refused, reset, timed out. What the peer does itself is no error.
    #[track_caller]
    pub fn error(self) -> Option<io::Error> {
        here(|kernel| kernel.remembered(self.id).map(|stream| stream.cut))
            .filter(|errno| *errno != 0)
            .map(io::Error::from_raw_os_error)
    }

    /// Whether nothing can come from it or reach it any more.
    #[track_caller]
    pub fn is_over(self) -> bool {
        here(|kernel| kernel.stream(self.id).is_none_or(|stream| stream.state == State::Closed))
    }
}

/// A server from outside, played by the test. It is a name, as a [`Peer`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Harbor {
    id: Id,
}

impl Harbor {
    #[track_caller]
    fn open(at: &Address) -> io::Result<Harbor> {
        here(|kernel| {
            let id = kernel.make_outsider(at.is_unix());
            kernel.bind_stream(id, at)?;
            kernel.listen(id, usize::MAX / 2)?;
            Ok(Harbor { id })
        })
        .map_err(io::Error::from_raw_os_error)
    }

    /// Takes the connection that has waited longest.
    #[track_caller]
    pub fn accept(self) -> Option<Peer> {
        here(|kernel| kernel.accept(self.id).ok()).map(|(id, _)| Peer { id })
    }

    /// Who connects from now on is read by itself.
    #[track_caller]
    pub fn takes(self) {
        self.behave(Manner::Takes);
    }

    /// Who connects from now on is echoed.
    #[track_caller]
    pub fn echoes(self) {
        self.behave(Manner::Echoes);
    }

    #[track_caller]
    fn behave(self, manner: Manner) {
        here(|kernel| {
            if let Some(stream) = kernel.stream_mut(self.id) {
                stream.manner = manner;
            }
        });
    }

    /// Stops listening; who waits to be accepted is cut.
    #[track_caller]
    pub fn close(self) {
        here(|kernel| kernel.let_go(self.id));
    }
}

/// A datagram socket from outside, played by the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramPeer {
    id: Id,
}

impl DatagramPeer {
    /// Sends one datagram.
    ///
    /// # Errors
    /// Too long, or no address; for Unix, no such receiver, or its buffer is full.
    #[track_caller]
    pub fn send(self, to: impl ToAddress, data: &[u8]) -> io::Result<()> {
        let to = to.to_address()?;
        here(|kernel| kernel.post_datagram(self.id, &to, data)).map_err(io::Error::from_raw_os_error)
    }

    /// The datagram that has waited longest, and who sent it.
    #[track_caller]
    pub fn receive(self) -> Option<(Address, Vec<u8>)> {
        here(|kernel| kernel.take_datagram(self.id).ok()).map(|message| (message.from, message.data))
    }
}
