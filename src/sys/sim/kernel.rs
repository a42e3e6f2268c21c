//! The simulated kernel: what is open, what is under way, and what time it is.
//!
//! ```text
//!   descriptors          nodes                              agenda
//!   2³⁰ + 0 ──────────► epoll      watches ─► ready list    12 µs  bytes of node 7 arrive
//!   2³⁰ + 1 ──────────► listener   backlog                  15 µs  node 9 hears of an RST
//!   2³⁰ + 2 ──────────► stream ◄── peer ──► stream          3 s    a SYN is sent again
//!   (a peer outside) ───────────────────────► ┘
//! ```
//!
//! A *node* is what an open file is to the real kernel. It has a descriptor while the program holds it, and none
//! when it waits in a backlog, is a peer from outside, or was closed and still has something to send. Nothing
//! happens by itself: each call first lets those entries of the agenda happen whose time has come, and a wait
//! moves the clock to the next one. So a run is a function of the seed and of the calls that were made.
//!
//! Descriptors begin at 2³⁰, which no real table reaches: a simulated one that strays into a real call is EBADF.

use super::chance::{Chance, Weather, mixed};
use super::datagram::Datagram;
use super::poll::{Ready, Watch};
use super::stream::Stream;
use crate::sys::Address;
use slab::Slab;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::atomic::{self, AtomicU64};

/// The first simulated descriptor.
pub const FIRST: RawFd = 1 << 30;

/// What the real kernel would leave in errno.
pub type Errno = i32;

/// How many kernels there were in this process: the nodes of one are not those of another.
static KERNELS: AtomicU64 = AtomicU64::new(0);

/// A node; stale when that is gone, whoever has its place by then, and in every other kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    index: u32,
    serial: u64,
}

#[derive(Debug)]
pub enum What {
    Stream(Box<Stream>),
    Datagram(Box<Datagram>),
    /// An eventfd and its count.
    Bell(u64),
    Epoll(Ready),
    /// `/dev/null`.
    Spare,
}

#[derive(Debug)]
pub struct Node {
    serial: u64,
    pub what: What,
    /// A socket of IPv6's family.
    pub v6: bool,
    /// Who waits for it, as indices of the watches.
    pub watchers: Vec<u32>,
}

/// What is going to happen.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// Some of what this stream has sent reaches its peer.
    Delivery(Id),
    /// A connection attempt reaches the listener, for the given time.
    Syn(Id, u32),
    /// The peer has cut the connection.
    Reset(Id),
    /// There is room again, after a write that was cut short without need.
    Room(Id),
    /// A peer that has vanished has not answered for a quarter of an hour.
    GiveUp(Id),
    /// A peer that reads by itself has something to read, or room for its answer.
    Attend(Id),
}

/// Something due at a time; the earliest is the greatest, and of equals the one that was made first.
pub struct Due<T> {
    pub at: u64,
    seq: u64,
    pub what: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Due<T>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Due<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Due<T>) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// Work that runs outside of the kernel's own: what was offloaded, what a test wants done at a certain time.
pub type Errand = Box<dyn FnOnce()>;

pub struct Kernel {
    pub now: u64,
    pub chance: Chance,
    pub weather: Weather,
    pub nodes: Slab<Node>,
    pub watches: Slab<Watch>,
    /// Bound sockets by protocol and address; several where ports are shared.
    pub names: HashMap<(Protocol, Address), Vec<Id>>,
    /// Streams of peers from outside that are gone: what they knew, a test may ask for later.
    past: HashMap<Id, Box<Stream>>,
    /// Addresses that swallow what is sent to them.
    pub silent: Vec<Address>,
    /// What host names stand for.
    pub hosts: HashMap<String, Vec<std::net::IpAddr>>,
    pub next_port: u16,
    table: Vec<Option<Id>>,
    free: BinaryHeap<Reverse<u32>>,
    limit: usize,
    agenda: BinaryHeap<Due<Event>>,
    errands: BinaryHeap<Due<Errand>>,
    seq: u64,
    serial: u64,
    calls: u64,
    waits: u64,
    trace: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Stream,
    Datagram,
}

/// What a wait found, or what must be done before it can go on.
pub enum Waited {
    Events(usize),
    Errand(Errand),
}

impl Kernel {
    pub fn new(seed: u64, weather: Weather) -> Kernel {
        let mut chance = Chance::new(seed);
        Kernel {
            // Not at zero: nobody's clock is.
            now: 1_000_000_000 + chance.below(1_000_000_000),
            chance,
            weather,
            nodes: Slab::new(),
            watches: Slab::new(),
            names: HashMap::new(),
            past: HashMap::new(),
            silent: Vec::new(),
            hosts: HashMap::new(),
            next_port: 32_768,
            table: Vec::new(),
            free: BinaryHeap::new(),
            limit: 1024,
            agenda: BinaryHeap::new(),
            errands: BinaryHeap::new(),
            seq: 0,
            serial: KERNELS.fetch_add(1, atomic::Ordering::Relaxed) << 32,
            calls: 0,
            waits: 0,
            trace: seed,
        }
    }

    // ── Calls ────────────────────────────────────────────────────────────────────────────────────────────────

    /// A call begins. It takes a while, in which packets arrive. A clock that did not move at all would let a
    /// loop that polls it poll for ever.
    #[inline]
    pub fn enter(&mut self) {
        self.calls += 1;
        let longest = self.weather.call.as_nanos() as u64;
        self.now += 1 + if longest == 0 { 0 } else { self.chance.below(longest) };
        self.let_happen();
    }

    /// A call ends: its kind and what it answered become part of the trace, by which runs are compared.
    #[inline]
    pub fn leave(&mut self, kind: u64, answer: u64) {
        self.trace = mixed(self.trace ^ kind.wrapping_mul(0x9e37_79b9) ^ answer.rotate_left(20) ^ self.now);
    }

    pub fn trace(&self) -> u64 {
        self.trace
    }

    pub fn calls(&self) -> u64 {
        self.calls
    }

    pub fn waits(&self) -> u64 {
        self.waits
    }

    // ── Time ─────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn at(&mut self, at: u64, what: Event) {
        self.seq += 1;
        self.agenda.push(Due { at, seq: self.seq, what });
    }

    pub fn errand_at(&mut self, at: u64, errand: Errand) {
        self.seq += 1;
        self.errands.push(Due { at, seq: self.seq, what: errand });
    }

    /// How long the next packet is under way; zero if packets are not.
    pub fn latency(&mut self) -> u64 {
        let longest = self.weather.latency.as_nanos() as u64;
        if longest == 0 { 0 } else { 1 + self.chance.below(longest) }
    }

    #[inline]
    pub fn let_happen(&mut self) {
        while self.agenda.peek().is_some_and(|due| due.at <= self.now) {
            if let Some(due) = self.agenda.pop() {
                self.happen(due.what);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Delivery(id) => self.deliver(id),
            Event::Syn(id, attempt) => self.syn(id, attempt),
            Event::Reset(id) => self.hear_reset(id),
            Event::Room(id) => {
                self.find_room(id);
                self.find_room_for_datagrams(id);
            }
            Event::GiveUp(id) => self.give_up(id),
            Event::Attend(id) => self.attend(id),
        }
    }

    /// Waits on an epoll instance until it has something to report, or until `deadline`.
    ///
    /// # Errors
    /// EINTR. EDEADLK: nothing is ready, nothing is under way and there is no deadline, so the wait would never
    /// end.
    pub fn wait(
        &mut self,
        epoll: Id,
        max: usize,
        deadline: Option<u64>,
        mut report: impl FnMut(usize, u32, u64),
    ) -> Result<Waited, Errno> {
        loop {
            self.let_happen();
            if self.errands.peek().is_some_and(|due| due.at <= self.now)
                && let Some(due) = self.errands.pop()
            {
                return Ok(Waited::Errand(due.what));
            }
            let found = self.collect(epoll, max, &mut report);
            if found > 0 || deadline.is_some_and(|deadline| deadline <= self.now) {
                return Ok(Waited::Events(found));
            }
            if self.chance.once_in(self.weather.interrupts) {
                return Err(libc::EINTR);
            }
            self.now = [self.next_happening(), deadline].into_iter().flatten().min().ok_or(libc::EDEADLK)?;
        }
    }

    pub fn count_wait(&mut self) {
        self.waits += 1;
    }

    /// When something happens next, by itself or by errand.
    pub fn next_happening(&self) -> Option<u64> {
        let event = self.agenda.peek().map(|due| due.at);
        let errand = self.errands.peek().map(|due| due.at);
        [event, errand].into_iter().flatten().min()
    }

    /// Lets everything happen up to `until`; the answer is an errand that is due first.
    pub fn pass(&mut self, until: u64) -> Option<Errand> {
        loop {
            match self.next_happening() {
                Some(at) if at <= until => self.now = self.now.max(at),
                _ => break,
            }
            self.let_happen();
            if self.errands.peek().is_some_and(|due| due.at <= self.now) {
                return self.errands.pop().map(|due| due.what);
            }
        }
        self.now = self.now.max(until);
        None
    }

    // ── Nodes ────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn make(&mut self, what: What) -> Id {
        self.serial += 1;
        let serial = self.serial;
        let index = self.nodes.insert(Node { serial, what, v6: false, watchers: Vec::new() });
        Id { index: index as u32, serial }
    }

    #[inline]
    pub fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(id.index as usize).filter(|node| node.serial == id.serial)
    }

    #[inline]
    pub fn node_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes.get_mut(id.index as usize).filter(|node| node.serial == id.serial)
    }

    #[inline]
    pub fn stream(&self, id: Id) -> Option<&Stream> {
        match &self.node(id)?.what {
            What::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    #[inline]
    pub fn stream_mut(&mut self, id: Id) -> Option<&mut Stream> {
        match &mut self.node_mut(id)?.what {
            What::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// What a call that only streams have answers about another node.
    pub fn why_no_stream(&self, id: Id) -> Errno {
        match self.node(id).map(|node| &node.what) {
            Some(What::Datagram(_)) => libc::EOPNOTSUPP,
            _ => libc::ENOTSOCK,
        }
    }

    /// Whatever it still had is gone; who asks for it finds nothing. Of a peer from outside the memory stays.
    pub fn free(&mut self, id: Id) {
        if self.node(id).is_none() {
            return;
        }
        self.unwatch(id);
        if let What::Stream(mut stream) = self.nodes.remove(id.index as usize).what
            && stream.outside
        {
            stream.tx = VecDeque::new();
            self.past.insert(id, stream);
        }
    }

    /// What a peer from outside knows, be it there or gone.
    pub fn remembered(&self, id: Id) -> Option<&Stream> {
        self.stream(id).or_else(|| self.past.get(&id).map(|stream| &**stream))
    }

    // ── Descriptors ──────────────────────────────────────────────────────────────────────────────────────────

    /// Gives a node the lowest number that is free.
    ///
    /// # Errors
    /// EMFILE.
    pub fn install(&mut self, id: Id) -> Result<RawFd, Errno> {
        if let Err(errno) = self.has_descriptor() {
            self.free(id);
            return Err(errno);
        }
        let number = match self.free.pop() {
            Some(Reverse(number)) => number as usize,
            None => {
                self.table.push(None);
                self.table.len() - 1
            }
        };
        self.table[number] = Some(id);
        Ok(FIRST + number as RawFd)
    }

    /// # Errors
    /// EMFILE.
    pub fn has_descriptor(&self) -> Result<(), Errno> {
        if self.open_descriptors() < self.limit { Ok(()) } else { Err(libc::EMFILE) }
    }

    pub fn open_descriptors(&self) -> usize {
        self.table.len() - self.free.len()
    }

    pub fn limit_descriptors(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// # Errors
    /// EBADF.
    #[inline]
    pub fn find(&self, fd: RawFd) -> Result<Id, Errno> {
        let number = usize::try_from(fd - FIRST).map_err(|_| libc::EBADF)?;
        self.table.get(number).copied().flatten().ok_or(libc::EBADF)
    }

    /// Takes a number out of the table, and lets go of what it stood for.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&mut self, fd: RawFd) -> Result<(), Errno> {
        let id = self.find(fd)?;
        let number = (fd - FIRST) as usize;
        self.table[number] = None;
        self.free.push(Reverse(number as u32));
        self.let_go(id);
        Ok(())
    }

    /// Nobody holds a node any more.
    pub fn let_go(&mut self, id: Id) {
        self.unwatch(id);
        match self.node(id).map(|node| &node.what) {
            Some(What::Stream(_)) => self.close_stream(id),
            Some(What::Datagram(_)) => self.close_datagram(id),
            Some(What::Epoll(_)) => self.close_epoll(id),
            Some(What::Bell(_) | What::Spare) => self.free(id),
            None => {}
        }
    }

    // ── Bells ────────────────────────────────────────────────────────────────────────────────────────────────

    /// # Errors
    /// EINVAL: no bell. EAGAIN: full.
    pub fn ring(&mut self, id: Id) -> Result<(), Errno> {
        match self.node_mut(id).map(|node| &mut node.what) {
            Some(What::Bell(count)) if *count < u64::MAX - 1 => *count += 1,
            Some(What::Bell(_)) => return Err(libc::EAGAIN),
            _ => return Err(libc::EINVAL),
        }
        self.wake(id, crate::sys::epoll::IN);
        Ok(())
    }

    // ── Names ────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn unname(&mut self, protocol: Protocol, address: &Address, id: Id) {
        let key = (protocol, address.clone());
        if let Some(holders) = self.names.get_mut(&key) {
            holders.retain(|holder| *holder != id);
            if holders.is_empty() && !matches!(address, Address::Path(_)) {
                self.names.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calm() -> Kernel {
        Kernel::new(7, Weather::calm())
    }

    fn spare(kernel: &mut Kernel) -> Result<RawFd, Errno> {
        let id = kernel.make(What::Spare);
        kernel.install(id)
    }

    #[test]
    fn the_lowest_free_number_is_given_out_first() {
        let mut kernel = calm();
        let numbers: Vec<_> = (0..4).map(|_| spare(&mut kernel)).collect();
        assert_eq!(numbers, (0..4).map(|n| Ok(FIRST + n)).collect::<Vec<_>>());
        assert_eq!((kernel.close(FIRST + 2), kernel.close(FIRST + 1)), (Ok(()), Ok(())));
        assert_eq!(kernel.close(FIRST + 1), Err(libc::EBADF));
        assert_eq!(spare(&mut kernel), Ok(FIRST + 1));
        assert_eq!(kernel.open_descriptors(), 3);
    }

    #[test]
    fn a_full_table_takes_nothing_more_and_keeps_nothing_back() {
        let mut kernel = calm();
        kernel.limit_descriptors(1);
        spare(&mut kernel).unwrap();
        assert_eq!(spare(&mut kernel), Err(libc::EMFILE));
        assert_eq!(kernel.nodes.len(), 1);
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        let mut kernel = calm();
        let epoll = kernel.make(What::Epoll(Ready::new()));
        let deadline = kernel.now + 1_000_000;
        assert!(matches!(kernel.wait(epoll, 8, Some(deadline), |_, _, _| {}), Ok(Waited::Events(0))));
        assert_eq!(kernel.now, deadline);
        assert!(matches!(kernel.wait(epoll, 8, None, |_, _, _| {}), Err(libc::EDEADLK)));
    }

    #[test]
    fn a_gone_node_is_not_found_in_its_successor() {
        let mut kernel = calm();
        let first = kernel.make(What::Spare);
        kernel.free(first);
        let second = kernel.make(What::Spare);
        assert_eq!(first.index, second.index);
        assert!(kernel.node(first).is_none() && kernel.node(second).is_some());
    }

    #[test]
    fn the_earliest_happens_first_and_of_equals_the_older() {
        let mut due = BinaryHeap::new();
        for (seq, at) in [(1, 5), (2, 3), (3, 5), (4, 3)] {
            due.push(Due { at, seq, what: () });
        }
        let order: Vec<_> = std::iter::from_fn(|| due.pop()).map(|due| due.seq).collect();
        assert_eq!(order, [2, 4, 1, 3]);
    }

    #[test]
    fn a_connection_attempt_that_nobody_answers_is_given_up_after_two_minutes() {
        let mut kernel = calm();
        let address: Address = "10.0.0.1:80".parse().unwrap();
        kernel.silent.push(address.clone());
        let id = kernel.make_stream(false);
        assert_eq!(kernel.connect(id, &address), Err(libc::EINPROGRESS));
        let began = kernel.now;
        let seconds = |kernel: &Kernel| (kernel.now - began) / 1_000_000_000;
        kernel.pass(began + 126_000_000_000);
        assert_eq!(kernel.stream(id).unwrap().error, 0, "after {} s", seconds(&kernel));
        kernel.pass(began + 128_000_000_000);
        assert_eq!(kernel.stream(id).unwrap().error, libc::ETIMEDOUT);
    }

    #[test]
    fn nobody_hears_of_a_peer_that_vanishes_but_who_sends_to_it() {
        let mut kernel = calm();
        let address: Address = "10.0.0.1:80".parse().unwrap();
        let listener = kernel.make_stream(false);
        kernel.bind_stream(listener, &address).unwrap();
        kernel.listen(listener, 8).unwrap();
        let peer = kernel.make_outsider(false);
        let _ = kernel.connect(peer, &address);
        let (server, _) = kernel.accept(listener).unwrap();
        kernel.stream_mut(peer).unwrap().vanished = true;
        kernel.pass(kernel.now + 10_000_000_000_000);
        assert_eq!(kernel.recv(server, 1, |_| {}), Err(libc::EAGAIN));
        assert_eq!(kernel.send(server, &[std::io::IoSlice::new(b"x")], false), Ok(1));
        kernel.pass(kernel.now + 10_000_000_000_000);
        assert_eq!(kernel.recv(server, 1, |_| {}), Err(libc::ETIMEDOUT));
    }
}
