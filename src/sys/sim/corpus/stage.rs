//! The stage of the corpus: sockets with names, and a record of all that can be seen of them.
//!
//! What differs between the kernels is waited for here, and so the programs need not know on which one they run: a
//! look (accept, recv, wait …) comes after what is under way has arrived.

use super::loopback::{self, Loopback};
use crate::sys::datagram::{self, Inbox, Outgoing};
use crate::sys::epoll::{ERR, Epoll, Event, HUP, IN, OUT, PRI, RDHUP};
use crate::sys::socket::{self, Family};
use crate::sys::{Address, Fd};
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// More than a socket takes, on either kernel: the real one's receive buffer does not grow unless somebody reads.
const FLOOD_BYTES: usize = 4 << 20;

/// A stream of some megabytes arrives within this time, or never.
const DRAINED: Duration = Duration::from_secs(5);

/// A stage with sockets that have names, and the record of what was seen.
pub struct Stage {
    /// None: the kernel is the simulated one, whose packets arrive at once.
    pub loopback: Option<Loopback>,
    /// How much longer than until the loopback is still a look is put off.
    patience: Duration,
    /// What the limit of descriptors was before.
    pub lifted_limit: Option<libc::rlim_t>,
    /// Bytes of streams by who has sent them, and by who has read them.
    sent: BTreeMap<String, usize>,
    read: BTreeMap<String, usize>,
    pub epoll: Epoll,
    pub fds: BTreeMap<&'static str, Fd>,
    pub record: String,
}

impl Stage {
    /// On the kernel of this thread, which is the real one.
    pub fn real(patience: Duration) -> Stage {
        let mut stage = Stage::simulated();
        (stage.loopback, stage.patience) = (Some(Loopback::new().unwrap()), patience);
        stage
    }

    /// On the kernel of this thread, which is a simulated one.
    pub fn simulated() -> Stage {
        Stage {
            loopback: None,
            patience: Duration::ZERO,
            lifted_limit: None,
            sent: BTreeMap::new(),
            read: BTreeMap::new(),
            epoll: Epoll::create().unwrap(),
            fds: BTreeMap::new(),
            record: String::new(),
        }
    }

    pub fn note(&mut self, what: &str, who: &str, answer: impl std::fmt::Display) {
        writeln!(self.record, "{what} {who}: {answer}").unwrap();
    }

    pub fn note_unit(&mut self, what: &str, who: &str, answer: io::Result<()>) {
        match answer {
            Ok(()) => self.note(what, who, "ok"),
            Err(e) => self.note(what, who, errno(&e)),
        }
    }

    pub fn note_size(&mut self, what: &str, who: &str, answer: io::Result<usize>) {
        match answer {
            Ok(n) => self.note(what, who, n),
            Err(e) => self.note(what, who, errno(&e)),
        }
    }

    pub fn put(&mut self, who: &'static str, fd: Fd) {
        self.fds.insert(who, fd);
    }

    /// What became of something that was to be made.
    pub fn made(&mut self, who: &'static str, answer: io::Result<Fd>) {
        match answer {
            Ok(fd) => {
                self.put(who, fd);
                self.note("make", who, "ok");
            }
            Err(e) => self.note("make", who, errno(&e)),
        }
    }

    // ── Making ───────────────────────────────────────────────────────────────────────────────────────────────

    pub fn socket(&mut self, who: &'static str, family: Family) {
        self.put(who, socket::stream(family).unwrap());
    }

    pub fn listener(&mut self, who: &'static str, address: impl Into<Address>, backlog: u32) {
        let address = address.into();
        let fd = socket::stream(address.family()).unwrap();
        socket::bind(&fd, &address).unwrap();
        socket::listen(&fd, backlog).unwrap();
        self.put(who, fd);
    }

    pub fn tcp_listener(&mut self, who: &'static str) {
        self.listener(who, (Ipv4Addr::LOCALHOST, 0), 8);
    }

    pub fn bind(&mut self, who: &str, address: &Address) {
        let answer = socket::bind(&self.fds[who], address);
        self.note_unit("bind", who, answer);
    }

    pub fn listen(&mut self, who: &str) {
        let answer = socket::listen(&self.fds[who], 8);
        self.note_unit("listen", who, answer);
    }

    pub fn connect(&mut self, who: &'static str, to: &str) {
        let address = socket::local_address(&self.fds[to]).unwrap();
        self.connect_to(who, &address);
    }

    pub fn connect_to(&mut self, who: &'static str, address: &Address) {
        if !self.fds.contains_key(who) {
            self.socket(who, address.family());
        }
        let answer = socket::connect(&self.fds[who], address);
        self.note_unit("connect", who, answer);
    }

    pub fn accept(&mut self, at: &str, who: &'static str) {
        self.settle();
        match socket::accept(&self.fds[at]) {
            Ok((fd, _)) => {
                self.put(who, fd);
                self.note("accept", who, "ok");
            }
            Err(e) => self.note("accept", who, errno(&e)),
        }
    }

    /// A TCP connection between `a`, which has connected, and `b`, which was accepted.
    pub fn tcp_pair(&mut self) {
        self.tcp_listener("l");
        self.connect("a", "l");
        self.accept("l", "b");
    }

    pub fn unix_listener(&mut self, who: &'static str) {
        self.listener(who, own_name(), 8);
    }

    pub fn unix_pair(&mut self) {
        self.unix_listener("l");
        self.connect("a", "l");
        self.accept("l", "b");
    }

    // ── Using ────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn send(&mut self, who: &str, bytes: &[u8]) {
        let answer = socket::send(&self.fds[who], bytes);
        self.count_sent(who, *answer.as_ref().unwrap_or(&0));
        self.note_size("send", who, answer);
    }

    /// Leaves little room for what a socket sends.
    pub fn narrow(&mut self, who: &str) {
        let answer = socket::set_send_buffer(&self.fds[who], 20_000);
        self.note_unit("narrow", who, answer);
    }

    /// Some megabytes in a few parts of growing sizes, of which a part is taken. Each byte tells where it stands.
    pub fn flood(&mut self, who: &str) {
        let bytes: Vec<u8> = (0..FLOOD_BYTES).map(pattern).collect();
        let (mut parts, mut rest) = (Vec::new(), &bytes[..]);
        for length in [1, 1_000, 0, 100_000, 1_000_000] {
            let (part, behind) = rest.split_at(length);
            parts.push(IoSlice::new(part));
            rest = behind;
        }
        parts.push(IoSlice::new(rest));
        let answer = socket::send_vectored(&self.fds[who], &parts);
        self.count_sent(who, *answer.as_ref().unwrap_or(&0));
        let partly = answer.map(|n| usize::from(0 < n && n < FLOOD_BYTES));
        self.note_size("partly", who, partly);
    }

    pub fn send_parts(&mut self, who: &str, parts: &[&[u8]]) {
        let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let answer = socket::send_vectored(&self.fds[who], &parts);
        self.note_size("send parts", who, answer);
    }

    /// Until the kernel takes no more.
    pub fn fill(&mut self, who: &str) {
        let piece = vec![b'x'; 64 * 1024];
        let answer = loop {
            match socket::send(&self.fds[who], &piece) {
                Ok(n) => self.count_sent(who, n),
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => break e,
                Err(e) => {
                    // What is acknowledged in the end makes room.
                    self.rest(who);
                    match socket::send(&self.fds[who], &piece) {
                        Ok(n) => self.count_sent(who, n),
                        Err(_) => break e,
                    }
                }
            }
        };
        self.note("fill", who, errno(&answer));
    }

    pub fn urgent(&mut self, who: &str, bytes: &[u8]) {
        let fd = &self.fds[who];
        let answer = crate::sys::sim::send_urgent(fd, bytes).unwrap_or_else(|| {
            // SAFETY: the pointer and the length describe `bytes`.
            crate::sys::count(unsafe {
                libc::send(fd.raw(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_OOB | libc::MSG_NOSIGNAL)
            })
        });
        self.note_size("urgent", who, answer);
    }

    pub fn recv(&mut self, who: &str, max: usize) {
        self.settle();
        let mut input = BytesMut::with_capacity(max);
        let answer = socket::recv(&self.fds[who], &mut input, max);
        self.count_read(who, input.len());
        self.note_size("recv", who, answer);
        if !input.is_empty() && input.len() < 100 {
            self.note("  =", who, String::from_utf8_lossy(&input));
        }
    }

    /// Everything that was sent to anybody, and what the last read says.
    pub fn drain(&mut self, who: &str) {
        self.drain_into(who, |_| {});
    }

    /// The same of a flood, which must be in order.
    pub fn ebb(&mut self, who: &str) {
        let mut n = 0;
        let mut in_order = true;
        self.drain_into(who, |bytes| {
            in_order &= bytes.iter().enumerate().all(|(i, byte)| *byte == pattern(n + i));
            n += bytes.len();
        });
        self.note("in order", who, in_order);
    }

    /// Reads until there is no more, whatever was sent.
    pub fn drain_until_told(&mut self, who: &str) {
        self.sent.clear();
        self.drain(who);
    }

    fn drain_into(&mut self, who: &str, mut sink: impl FnMut(&[u8])) {
        let began = Instant::now();
        let mut input = BytesMut::new();
        let answer = loop {
            self.settle();
            input.clear();
            input.reserve(1 << 20);
            match socket::recv(&self.fds[who], &mut input, 1 << 20) {
                Ok(0) => break "end",
                Ok(n) => {
                    sink(&input);
                    self.count_read(who, n);
                }
                // The rest may wait for an acknowledgement.
                Err(e)
                    if e.kind() == io::ErrorKind::WouldBlock && self.unread(who) > 0 && began.elapsed() < DRAINED =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => break errno(&e),
            }
        };
        let unread = self.unread(who);
        self.note("drain", who, format_args!("{answer}, {unread} left"));
    }

    fn count_sent(&mut self, who: &str, n: usize) {
        *self.sent.entry(who.to_owned()).or_default() += n;
    }

    fn count_read(&mut self, who: &str, n: usize) {
        *self.read.entry(who.to_owned()).or_default() += n;
    }

    /// Bytes that others have sent and that `who`, who is the only one to read them, has not read yet.
    fn unread(&self, who: &str) -> usize {
        let sent: usize = self.sent.iter().filter(|(sender, _)| *sender != who).map(|(_, n)| n).sum();
        sent.saturating_sub(self.read.get(who).copied().unwrap_or(0))
    }

    pub fn shutdown(&mut self, who: &str) {
        let answer = socket::shutdown_write(&self.fds[who]);
        self.note_unit("shutdown", who, answer);
    }

    pub fn close(&mut self, who: &str) {
        drop(self.fds.remove(who).expect("open"));
        self.note("close", who, "done");
    }

    pub fn abort(&mut self, who: &str) {
        socket::set_linger_zero(&self.fds[who]).unwrap();
        self.close(who);
    }

    pub fn take_error(&mut self, who: &str) {
        self.settle();
        let answer = match socket::take_error(&self.fds[who]).unwrap() {
            Some(e) => errno(&e),
            None => "none",
        };
        self.note("error", who, answer);
    }

    pub fn peer(&mut self, who: &str) {
        let answer = socket::peer_address(&self.fds[who]).map(drop);
        self.note_unit("peer", who, answer);
    }

    pub fn udp(&mut self, who: &'static str) {
        let fd = socket::datagram(Family::V4).unwrap();
        socket::bind(&fd, &(Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        self.put(who, fd);
    }

    pub fn post(&mut self, who: &str, to: &str, data: &[u8]) {
        let to = socket::local_address(&self.fds[to]).unwrap();
        self.post_to(who, &to, data);
    }

    pub fn post_to(&mut self, who: &str, to: &Address, data: &[u8]) {
        let answer = datagram::send_batch(&self.fds[who], &[Outgoing { to, data, interface: 0, from: None }]);
        self.note_size("post", who, answer);
    }

    /// Several to one receiver in one call.
    pub fn post_all(&mut self, who: &str, to: &str, data: &[&[u8]]) {
        let to = socket::local_address(&self.fds[to]).unwrap();
        let batch: Vec<_> = data.iter().map(|data| Outgoing { to: &to, data, interface: 0, from: None }).collect();
        let answer = datagram::send_batch(&self.fds[who], &batch);
        self.note_size("post", who, answer);
    }

    /// Until the receiver has no room; how many that are is not told.
    pub fn post_until_full(&mut self, who: &str, to: &str) {
        let to = socket::local_address(&self.fds[to]).unwrap();
        let outgoing = Outgoing { to: &to, data: b"x", interface: 0, from: None };
        let answer = (0..1 << 20).find_map(|_| datagram::send_batch(&self.fds[who], &[outgoing]).err());
        self.note("post", who, answer.map_or("no end", |e| errno(&e)));
    }

    pub fn unix_datagrams(&mut self, sender: &'static str, receiver: &'static str) {
        self.put(sender, socket::datagram(Family::Unix).unwrap());
        self.put(receiver, socket::datagram(Family::Unix).unwrap());
        socket::bind(&self.fds[receiver], &own_name()).unwrap();
    }

    /// How many there are.
    pub fn receive_all(&mut self, who: &str) -> usize {
        self.settle();
        let mut inbox = Inbox::new(64, 16);
        std::iter::from_fn(|| inbox.receive(&self.fds[who], 64).ok()).sum()
    }

    /// One, and what is known of its way.
    pub fn receive_with_address(&mut self, who: &str) {
        self.settle();
        let mut inbox = Inbox::new(1, 16);
        inbox.receive(&self.fds[who], 1).unwrap();
        let seen = inbox.get(0);
        let text = format!("{:?} {:?} {}", seen.to, seen.local, seen.interface != 0);
        self.note("receive", who, text);
    }

    pub fn receive(&mut self, who: &str, max: usize, slot_bytes: usize) {
        self.settle();
        let mut inbox = Inbox::new(max, slot_bytes);
        let answer = inbox.receive(&self.fds[who], max);
        let received = *answer.as_ref().unwrap_or(&0);
        self.note_size("receive", who, answer);
        for slot in 0..received {
            let seen = inbox.get(slot);
            let text = String::from_utf8_lossy(seen.data).into_owned();
            let (len, cut) = (seen.len, seen.truncated);
            self.note("  =", who, format_args!("{len} {cut} {text:?}"));
        }
    }

    // ── Knowing ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Its name and its peer's, but for the ports.
    pub fn note_addresses(&mut self, who: &'static str) {
        let fd = &self.fds[who];
        let told = [socket::local_address(fd), socket::peer_address(fd)];
        let told = told.map(|told| match told {
            Ok(Address::Ip(ip)) => format!("{} {}", ip.ip(), if ip.port() == 0 { "without port" } else { "with port" }),
            Ok(Address::Unnamed) => "unnamed".to_owned(),
            Ok(_) => "named".to_owned(),
            Err(e) => errno(&e).to_owned(),
        });
        self.note("addresses", who, told.join(", "));
    }

    /// Whether one is called what the other calls it.
    pub fn compare_names(&mut self, one: &str, other: &str) {
        let name = socket::local_address(&self.fds[one]).unwrap();
        let called = socket::peer_address(&self.fds[other]).unwrap();
        self.note("name", one, if name == called { "as called" } else { "not as called" });
    }

    /// What TCP knows that does not depend on times and sizes.
    pub fn note_state(&mut self, who: &str) {
        self.settle();
        let info = socket::tcp_info(&self.fds[who]).unwrap();
        self.note("state", who, format_args!("{}, {} bytes received", info.state, info.bytes_received));
    }

    pub fn note_kind(&mut self, who: &str) {
        let fd = &self.fds[who];
        let kinds = [("listening", socket::is_listening(fd)), ("stream", socket::is_stream(fd))];
        for (kind, answer) in kinds {
            self.note_size(kind, who, answer.map(usize::from));
        }
    }

    // ── Watching ─────────────────────────────────────────────────────────────────────────────────────────────

    pub fn number(&self, who: &str) -> u64 {
        // Known from the name, so that it is the same after the socket is closed.
        who.bytes().fold(0, |number, byte| number << 8 | u64::from(byte))
    }

    pub fn watch(&mut self, who: &str, flags: u32) {
        let answer = self.epoll.add(&self.fds[who], flags, self.number(who));
        self.note_unit("watch", who, answer);
    }

    pub fn rewatch(&mut self, who: &str, flags: u32) {
        let answer = self.epoll.modify(&self.fds[who], flags, self.number(who));
        self.note_unit("rewatch", who, answer);
    }

    pub fn unwatch(&mut self, who: &str) {
        let answer = self.epoll.remove(&self.fds[who]);
        self.note_unit("unwatch", who, answer);
    }

    /// What epoll tells now.
    pub fn wait(&mut self) {
        self.wait_for(16);
    }

    /// The same, of so many at most.
    pub fn wait_for(&mut self, most: usize) {
        self.settle();
        self.look(most, Duration::ZERO);
    }

    /// Looks away: an edge may have come while a buffer was being filled, or not, as packets go.
    pub fn ignore_events(&mut self) {
        self.settle();
        self.epoll.wait(&mut [Event::EMPTY; 16], Some(Duration::ZERO)).unwrap();
    }

    /// What epoll tells when it has something to tell.
    pub fn wait_long(&mut self) {
        self.look(16, Duration::from_secs(10));
    }

    fn look(&mut self, most: usize, longest: Duration) {
        let mut events = [Event::EMPTY; 16];
        let n = self.epoll.wait(&mut events[..most], Some(longest)).unwrap();
        let mut told: Vec<String> = events[..n].iter().map(describe).collect();
        told.sort();
        writeln!(self.record, "wait: {}", told.join(", ")).unwrap();
    }

    // ── Waiting for the real kernel ──────────────────────────────────────────────────────────────────────────

    /// What is under way has arrived.
    pub fn settle(&self) {
        if let Some(loopback) = &self.loopback {
            loopback.settle();
            std::thread::sleep(self.patience);
        }
    }

    /// The peer has acknowledged everything, and our end.
    pub fn acknowledged(&self, who: &str) {
        if self.loopback.is_some() {
            loopback::await_acknowledgement(&self.fds[who]);
        }
    }

    /// Nothing is under way. A Unix stream has nothing that could be.
    fn rest(&self, who: &str) {
        let fd = &self.fds[who];
        if self.loopback.is_some() && !socket::local_address(fd).unwrap().is_unix() {
            loopback::await_rest(fd);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.widen_table();
    }
}

/// An abstract name that no other program uses.
fn own_name() -> Address {
    let name = format!("plimsoll-corpus-{}-{:?}", std::process::id(), std::thread::current().id());
    Address::Abstract(name.into_bytes().into())
}

/// The byte that stands there in a flood.
fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

fn describe(event: &Event) -> String {
    let name = event.data().to_be_bytes();
    let name = String::from_utf8_lossy(&name).trim_start_matches('\0').to_owned();
    let flags = [(IN, "IN"), (OUT, "OUT"), (PRI, "PRI"), (RDHUP, "RDHUP"), (ERR, "ERR"), (HUP, "HUP")];
    let set: Vec<_> = flags.iter().filter(|(flag, _)| event.flags() & flag != 0).map(|(_, name)| *name).collect();
    format!("{name}={}", set.join("+"))
}

fn errno(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::EAGAIN) => "EAGAIN",
        Some(libc::EPIPE) => "EPIPE",
        Some(libc::ECONNRESET) => "ECONNRESET",
        Some(libc::ECONNREFUSED) => "ECONNREFUSED",
        Some(libc::EINPROGRESS) => "EINPROGRESS",
        Some(libc::ENOTCONN) => "ENOTCONN",
        Some(libc::EISCONN) => "EISCONN",
        Some(libc::EALREADY) => "EALREADY",
        Some(libc::ECONNABORTED) => "ECONNABORTED",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::EADDRINUSE) => "EADDRINUSE",
        Some(libc::EEXIST) => "EEXIST",
        Some(libc::ENOENT) => "ENOENT",
        Some(libc::EPERM) => "EPERM",
        Some(libc::EMFILE) => "EMFILE",
        Some(libc::EMSGSIZE) => "EMSGSIZE",
        Some(libc::EDESTADDRREQ) => "EDESTADDRREQ",
        Some(libc::EOPNOTSUPP) => "EOPNOTSUPP",
        Some(libc::ENOPROTOOPT) => "ENOPROTOOPT",
        Some(libc::ENOTSOCK) => "ENOTSOCK",
        Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT",
        Some(libc::EBADF) => "EBADF",
        _ => "another errno",
    }
}
