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

/// A stream of some megabytes arrives within this time, or never.
const DRAINED: Duration = Duration::from_secs(5);

/// A stage with sockets that have names, and the record of what was seen.
pub struct Stage {
    /// None: the kernel is the simulated one, whose packets arrive at once.
    loopback: Option<Loopback>,
    /// How much longer than until the loopback is still a look is put off.
    patience: Duration,
    /// Bytes of streams that were sent and not yet read.
    unread: usize,
    pub epoll: Epoll,
    pub fds: BTreeMap<&'static str, Fd>,
    pub record: String,
}

impl Stage {
    /// On the kernel of this thread, which is the real one.
    pub fn real(patience: Duration) -> Stage {
        Stage { loopback: Some(Loopback::new().unwrap()), patience, ..Stage::simulated() }
    }

    /// On the kernel of this thread, which is a simulated one.
    pub fn simulated() -> Stage {
        Stage {
            loopback: None,
            patience: Duration::ZERO,
            unread: 0,
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

    pub fn unix_pair(&mut self) {
        let name = format!("plimsoll-corpus-{}-{:?}", std::process::id(), std::thread::current().id());
        self.listener("l", Address::Abstract(name.into_bytes().into()), 8);
        self.connect("a", "l");
        self.accept("l", "b");
    }

    // ── Using ────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn send(&mut self, who: &str, bytes: &[u8]) {
        let answer = socket::send(&self.fds[who], bytes);
        self.unread += answer.as_ref().unwrap_or(&0);
        self.note_size("send", who, answer);
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
                Ok(n) => self.unread += n,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => break e,
                Err(e) => {
                    // What is acknowledged in the end makes room.
                    self.rest(who);
                    match socket::send(&self.fds[who], &piece) {
                        Ok(n) => self.unread += n,
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
        self.unread = self.unread.saturating_sub(input.len());
        self.note_size("recv", who, answer);
        if !input.is_empty() && input.len() < 100 {
            self.note("  =", who, String::from_utf8_lossy(&input));
        }
    }

    /// Everything that was sent to anybody, and what the last read says.
    pub fn drain(&mut self, who: &str) {
        let began = Instant::now();
        let mut input = BytesMut::new();
        let answer = loop {
            self.settle();
            input.clear();
            input.reserve(1 << 20);
            match socket::recv(&self.fds[who], &mut input, 1 << 20) {
                Ok(0) => break "end",
                Ok(n) => self.unread = self.unread.saturating_sub(n),
                // The rest may wait for an acknowledgement.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.unread > 0 && began.elapsed() < DRAINED => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => break errno(&e),
            }
        };
        let unread = std::mem::take(&mut self.unread);
        self.note("drain", who, format_args!("{answer}, {unread} left"));
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
        self.settle();
        let mut events = [Event::EMPTY; 16];
        let n = self.epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
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
        _ => "another errno",
    }
}
