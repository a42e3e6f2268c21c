//! Datagrams, many per system call, with the interface they came through.
//!
//! ```text
//!   Inbox   headers  ┌───┬───┬───┬─           one recvmmsg fills as many slots as there are datagrams;
//!           names    │ 0 │ 1 │ 2 │ …          `get(i)` shows slot i until the next `receive`
//!           controls │   │   │   │
//!           bytes    └───┴───┴───┴─           slots × slot_bytes, never zeroed, touched only as far as used
//! ```
//!
//! A UDP socket bound to every interface does not know by itself where a datagram was sent *to*. The kernel
//! tells it in a control message if asked ([`set_packet_info`]), and takes the same message as an order when
//! sending: out through this interface, from this address. A server that answers from another address than it
//! was asked at is not heard.
//!
//! What does not fit into its slot is cut, and the slot says so. Control messages that were not asked for are
//! dropped, and descriptors that a Unix peer has attached are closed: a peer must not be able to fill our
//! table.

pub use super::interface::{Interface, interfaces};
pub use super::multicast::*;

use super::address::Address;
use super::control::{self, CONTROL_BYTES, Control, PacketInfo};
use super::sockaddr::{self, RawAddress};
use super::{Fd, check};
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ptr;

/// Datagrams in one [`send_batch`]. What prepares them lies on the stack, 272 bytes for each, 17 KiB for all;
/// the cost of the call is spread so thin by then that a longer batch gains nothing.
pub const BATCH_LIMIT: usize = 64;

/// One datagram as it came.
#[derive(Clone, Debug)]
pub struct Received<'a> {
    /// What was sent, or as much of it as its slot could hold.
    pub data: &'a [u8],
    /// How many bytes were sent: more than `data` has if `truncated`.
    pub len: usize,
    /// Who sent it. A Unix socket without a name is [`Address::Unnamed`], and cannot be answered.
    pub from: Address,
    /// The address it was sent to, if the socket was told to say: one of ours, or a broadcast or multicast
    /// address. On a dual-stack socket IPv4 has its mapped form.
    pub to: Option<IpAddr>,
    /// Our address to answer from, if known: `to`, unless that was a broadcast or multicast address. (On a
    /// dual-stack socket the kernel does not say which IPv4 address of ours that is, or whether `to` is the
    /// broadcast address of some network: then this is `to`.)
    pub local: Option<IpAddr>,
    /// The number of the interface it came in through; 0 if that is not known.
    pub interface: u32,
    /// Whether `data` is only the beginning.
    pub truncated: bool,
}

impl Received<'_> {
    /// As a slot of `slot_bytes` would have it.
    pub(crate) fn cut_to(mut self, slot_bytes: usize) -> Self {
        if self.data.len() > slot_bytes {
            self.data = &self.data[..slot_bytes];
            self.truncated = true;
        }
        self
    }
}

/// One datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The receiver. [`Address::Unnamed`] is the peer that the socket is connected to.
    pub to: &'a Address,
    /// All of it; datagrams are never sent in part.
    pub data: &'a [u8],
    /// The number of the interface to send through; with 0 the routing table decides.
    pub interface: u32,
    /// Which of our addresses it shall come from; with `None` the routing table decides.
    pub from: Option<IpAddr>,
}

/// Where datagrams arrive: storage for one recvmmsg, made once and used again.
pub struct Inbox {
    /// Header `i` points into element `i` of the four vectors below, none of which is ever resized. All access
    /// to them goes through their own pointers, so that the kernel's remain valid.
    headers: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
    names: Vec<RawAddress>,
    controls: Vec<Control>,
    bytes: Vec<MaybeUninit<u8>>,
    slot_bytes: usize,
    /// Slots filled by the last `receive`; only their headers differ from what the kernel is to find.
    filled: usize,
}

impl Inbox {
    /// Room for `slots` datagrams of up to `slot_bytes` each. Pages of it that no datagram reaches are never
    /// touched, hence cost no memory.
    pub fn new(slots: usize, slot_bytes: usize) -> Inbox {
        let mut inbox = Inbox {
            // SAFETY: integers and nullable pointers, for all of which zero is a value.
            headers: vec![unsafe { MaybeUninit::zeroed().assume_init() }; slots],
            slices: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: slot_bytes }; slots],
            names: vec![RawAddress::uninit(); slots],
            controls: vec![Control::EMPTY; slots],
            bytes: Vec::with_capacity(slots.checked_mul(slot_bytes).expect("an inbox fits into memory")),
            slot_bytes,
            filled: 0,
        };
        let (slices, names) = (inbox.slices.as_mut_ptr(), inbox.names.as_mut_ptr());
        let (controls, bytes) = (inbox.controls.as_mut_ptr(), inbox.bytes.as_mut_ptr());
        for (slot, header) in inbox.headers.iter_mut().enumerate() {
            // SAFETY: `slot` is below the length of the three vectors, and `slots * slot_bytes` is the capacity
            // of the fourth.
            unsafe {
                (*slices.add(slot)).iov_base = bytes.add(slot * slot_bytes).cast();
                header.msg_hdr.msg_iov = slices.add(slot);
                header.msg_hdr.msg_name = names.add(slot).cast();
                header.msg_hdr.msg_control = controls.add(slot).cast();
            }
            header.msg_hdr.msg_iovlen = 1;
            reset(header);
        }
        inbox
    }

    /// The longest datagram that is received whole.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Takes what waits on `fd`, at most `max` and at most as many as there are slots; the answer is how many,
    /// and `get` shows them. What was there before is gone, even if the call fails.
    ///
    /// # Errors
    /// EAGAIN: nothing waits. ECONNREFUSED and others: a *connected* socket hears that an earlier datagram did
    /// not arrive; the next call goes on. ENOMEM.
    pub fn receive(&mut self, fd: &Fd, max: usize) -> io::Result<usize> {
        self.headers[..self.filled].iter_mut().for_each(reset);
        self.filled = 0;
        seam!(receive(self, fd, max));
        let slots = self.headers.len().min(max);
        // MSG_TRUNC makes the length of a header that of the datagram, however much of it fitted.
        let flags = libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: `slots` headers are ours to write to, and each describes memory that its slot owns and nobody
        // borrows, since `get` borrows from `self`. The kernel keeps no pointer. There is no time-out to point
        // to.
        let answer =
            unsafe { libc::recvmmsg(fd.raw(), self.headers.as_mut_ptr(), slots as _, flags as _, ptr::null_mut()) };
        self.filled = check(answer)? as usize;
        for header in &self.headers[..self.filled] {
            // SAFETY: the kernel has filled this header's control buffer, and nobody has looked at it yet.
            unsafe { control::close_descriptors(&header.msg_hdr) };
        }
        Ok(self.filled)
    }

    /// Takes what `next` has, at most `max`, as [`receive`](Inbox::receive) does from the kernel: data, sender, the
    /// address it was sent to and the interface.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn fill(
        &mut self,
        max: usize,
        mut next: impl FnMut() -> Option<(Vec<u8>, Address, Option<IpAddr>, u32)>,
    ) -> usize {
        self.headers[..self.filled].iter_mut().for_each(reset);
        self.filled = 0;
        while self.filled < self.headers.len().min(max)
            && let Some((data, from, to, interface)) = next()
        {
            let (slot, fits) = (self.filled, data.len().min(self.slot_bytes));
            let header = &mut self.headers[slot];
            header.msg_len = data.len() as _;
            header.msg_hdr.msg_flags = if fits < data.len() { libc::MSG_TRUNC } else { 0 };
            header.msg_hdr.msg_namelen = sockaddr::encode(&from, &mut self.names[slot]).unwrap_or(0);
            header.msg_hdr.msg_controllen = match to {
                Some(to) => control::tell_packet_info(&mut self.controls[slot], to, interface) as _,
                None => 0,
            };
            // SAFETY: the slot lies within the capacity, and `fits` within the slot.
            unsafe {
                let start = self.bytes.as_mut_ptr().cast::<u8>().add(slot * self.slot_bytes);
                data.as_ptr().copy_to_nonoverlapping(start, fits);
            }
            self.filled += 1;
        }
        self.filled
    }

    /// The datagram in slot `i` of the last `receive`.
    ///
    /// # Panics
    /// If `i` is not below the answer of the last `receive`.
    pub fn get(&self, i: usize) -> Received<'_> {
        let header = &self.headers[..self.filled][i];
        let len = header.msg_len as usize;
        // SAFETY: the kernel wrote to the start of the slot, as much of the datagram as the slot could hold.
        let data = unsafe {
            std::slice::from_raw_parts(
                self.bytes.as_ptr().cast::<u8>().add(i * self.slot_bytes),
                len.min(self.slot_bytes),
            )
        };
        // SAFETY: the kernel wrote a name of this length.
        let from = unsafe { sockaddr::decode(&self.names[i], header.msg_hdr.msg_namelen) };
        // SAFETY: the kernel has filled this header's control buffer.
        let PacketInfo { to, local, interface } = unsafe { control::packet_info(&header.msg_hdr) };
        Received { data, len, from, to, local, interface, truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 }
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inbox({} of {} slots of {} bytes)", self.filled, self.headers.len(), self.slot_bytes)
    }
}

/// Puts back what the kernel overwrites: it takes capacities and leaves lengths.
fn reset(header: &mut libc::mmsghdr) {
    header.msg_hdr.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
    header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
    header.msg_hdr.msg_flags = 0;
}

/// What one datagram needs beside its bytes until the kernel has copied it.
struct Envelope {
    name: RawAddress,
    slice: libc::iovec,
    control: Control,
}

/// Sends the first [`BATCH_LIMIT`] of `batch`; the answer is how many the kernel took, from the front, and at
/// least one. Which of the following one it did not take, and why, is told by the next call that begins with
/// it.
///
/// # Errors
/// About the first of them: EAGAIN: the send buffer is full. EMSGSIZE: too long for a datagram. EINVAL,
/// EADDRNOTAVAIL: `from` is not an address of this machine, or `interface` not one of its interfaces. EACCES: a
/// broadcast without `set_broadcast`. ENETUNREACH, EHOSTUNREACH, EPERM (a firewall). ECONNREFUSED: on a
/// connected UDP socket an earlier one did not arrive; on a Unix socket there is no such receiver. ENOBUFS,
/// ENOMEM: no memory now. EDESTADDRREQ, ENOTCONN: `Unnamed`, and not connected. `InvalidInput`, from us:
/// interface or source for a Unix receiver, a source of the other IP version, or a Unix path that is too long.
pub fn send_batch(fd: &Fd, batch: &[Outgoing<'_>]) -> io::Result<usize> {
    seam!(send_batch(fd, batch));
    let batch = &batch[..batch.len().min(BATCH_LIMIT)];
    let mut envelopes = [const { MaybeUninit::<Envelope>::uninit() }; BATCH_LIMIT];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH_LIMIT];
    let mut ready = 0;
    for outgoing in batch {
        match prepare(outgoing, &mut envelopes[ready]) {
            Ok(header) => headers[ready].write(header),
            Err(error) if ready == 0 => return Err(error),
            // What lies before it can go; the error is told when it has become the first.
            Err(_) => break,
        };
        ready += 1;
    }
    // SAFETY: `ready` headers are written. Each points to an envelope and to borrowed bytes, which all outlive
    // the call and which the kernel only reads.
    check(unsafe { libc::sendmmsg(fd.raw(), headers.as_mut_ptr().cast(), ready as _, libc::MSG_NOSIGNAL as _) })
        .map(|n| n as usize)
}

/// The header points into `envelope`, which must stay where it is until the call.
fn prepare(outgoing: &Outgoing<'_>, envelope: &mut MaybeUninit<Envelope>) -> io::Result<libc::mmsghdr> {
    let slice = libc::iovec { iov_base: outgoing.data.as_ptr().cast_mut().cast(), iov_len: outgoing.data.len() };
    let envelope = envelope.write(Envelope { name: RawAddress::uninit(), slice, control: Control::EMPTY });
    // SAFETY: integers and nullable pointers, for all of which zero is a value.
    let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    let message = &mut header.msg_hdr;
    if *outgoing.to != Address::Unnamed {
        message.msg_namelen = sockaddr::encode(outgoing.to, &mut envelope.name)?;
        message.msg_name = envelope.name.as_mut_ptr().cast();
    }
    message.msg_iov = &raw mut envelope.slice;
    message.msg_iovlen = 1;
    if outgoing.interface != 0 || outgoing.from.is_some() {
        message.msg_controllen =
            control::write_packet_info(&mut envelope.control, outgoing.to, outgoing.from, outgoing.interface)? as _;
        message.msg_control = (&raw mut envelope.control).cast();
    }
    Ok(header)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::epoll::{self, Epoll, Event};
    use super::super::socket::{Family, bind, connect, datagram, local_address, set_only_v6};
    use super::*;
    use std::io::{IoSlice, Read};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::time::Duration;

    pub fn bound(ip: impl Into<IpAddr>) -> (Fd, Address) {
        let address = Address::from((ip.into(), 0));
        let fd = datagram(address.family()).unwrap();
        bind(&fd, &address).unwrap();
        let address = local_address(&fd).unwrap();
        (fd, address)
    }

    pub fn to<'a>(to: &'a Address, data: &'a [u8]) -> Outgoing<'a> {
        Outgoing { to, data, interface: 0, from: None }
    }

    pub fn await_input(fd: &Fd) {
        let epoll = Epoll::create().unwrap();
        epoll.add(fd, epoll::IN, 0).unwrap();
        assert_eq!(epoll.wait(&mut [Event::EMPTY], Some(Duration::from_secs(10))).unwrap(), 1, "nothing came in time");
    }

    pub fn loopback_index() -> u32 {
        interfaces().unwrap().into_iter().find(|interface| interface.loopback).expect("lo").index
    }

    fn is_invalid_input(result: io::Result<usize>) -> bool {
        result.is_err_and(|error| error.raw_os_error().is_none() && error.kind() == io::ErrorKind::InvalidInput)
    }

    #[test]
    fn a_batch_arrives_in_order_with_lengths_senders_and_interface() {
        let (sender, sender_address) = bound(Ipv4Addr::LOCALHOST);
        let (receiver, address) = bound(Ipv4Addr::LOCALHOST);
        set_packet_info(&receiver, Family::V4).unwrap();
        let mut inbox = Inbox::new(8, 32);
        assert_eq!(inbox.receive(&receiver, 8).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let data: Vec<Vec<u8>> = (0..10).map(|i| vec![i; i as usize * 3]).collect();
        let batch: Vec<_> = data.iter().map(|data| to(&address, data)).collect();
        // Twice, so that the second round finds what the first has left in the headers.
        for _ in 0..2 {
            assert_eq!(send_batch(&sender, &batch).unwrap(), 10);
            let mut seen = Vec::new();
            for (max, expected) in [(3, 3), (100, 7)] {
                await_input(&receiver);
                assert_eq!(inbox.receive(&receiver, max).unwrap(), expected);
                for i in 0..expected {
                    let received = inbox.get(i);
                    assert_eq!(
                        (received.from, received.to),
                        (sender_address.clone(), Some(Ipv4Addr::LOCALHOST.into()))
                    );
                    assert_eq!(received.interface, loopback_index());
                    assert_eq!((received.len, received.truncated), (received.data.len(), false));
                    seen.push(received.data.to_vec());
                }
            }
            assert_eq!(seen, data);
        }
    }

    #[test]
    fn a_cut_datagram_says_so_and_tells_its_real_length() {
        let (sender, _) = bound(Ipv4Addr::LOCALHOST);
        let (receiver, address) = bound(Ipv4Addr::LOCALHOST);
        let mut inbox = Inbox::new(3, 4);
        let batch = [to(&address, b"12345678"), to(&address, b"1234"), to(&address, b"")];
        assert_eq!(send_batch(&sender, &batch).unwrap(), 3);
        await_input(&receiver);
        assert_eq!(inbox.receive(&receiver, 3).unwrap(), 3);
        let seen: Vec<_> = (0..3).map(|i| inbox.get(i)).map(|d| (d.data.to_vec(), d.len, d.truncated)).collect();
        assert_eq!(seen, [(b"1234".to_vec(), 8, true), (b"1234".to_vec(), 4, false), (b"".to_vec(), 0, false)]);
        assert_eq!(inbox.get(0).to, None, "packet information was not asked for");
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn a_slot_that_was_not_filled_cannot_be_read() {
        Inbox::new(4, 64).get(0);
    }

    #[test]
    fn a_failed_receive_leaves_nothing_to_read() {
        let (sender, _) = bound(Ipv4Addr::LOCALHOST);
        let (receiver, address) = bound(Ipv4Addr::LOCALHOST);
        let mut inbox = Inbox::new(4, 64);
        send_batch(&sender, &[to(&address, b"one")]).unwrap();
        await_input(&receiver);
        inbox.receive(&receiver, 4).unwrap();
        inbox.receive(&receiver, 4).unwrap_err();
        assert_eq!(inbox.filled, 0);
    }

    #[test]
    fn source_and_interface_may_be_chosen_on_both_ip_versions() {
        let other: IpAddr = Ipv4Addr::new(127, 0, 0, 9).into();
        for (any, target, from) in [
            (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::LOCALHOST), other),
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        ] {
            let (sender, _) = bound(any);
            let (receiver, address) = bound(target);
            set_packet_info(&receiver, address.family()).unwrap();
            let interface = loopback_index();
            let message = Outgoing { to: &address, data: b"x", interface, from: Some(from) };
            let batch = [message, Outgoing { from: None, ..message }, Outgoing { interface: 0, ..message }];
            assert_eq!(send_batch(&sender, &batch).unwrap(), 3);
            await_input(&receiver);
            let mut inbox = Inbox::new(4, 64);
            assert_eq!(inbox.receive(&receiver, 4).unwrap(), 3);
            for (i, expected) in [from, target, from].into_iter().enumerate() {
                let received = inbox.get(i);
                assert_eq!(received.from.ip().unwrap().ip(), expected);
                assert_eq!((received.to, received.interface), (Some(target), interface));
            }
        }
    }

    #[test]
    fn a_dual_stack_socket_speaks_ipv4_in_mapped_form() {
        let v6 = datagram(Family::V6).unwrap();
        set_only_v6(&v6, false).unwrap();
        set_packet_info(&v6, Family::V6).unwrap();
        bind(&v6, &Address::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        let port = local_address(&v6).unwrap().port().unwrap();
        let (v4, _) = bound(Ipv4Addr::LOCALHOST);
        send_batch(&v4, &[to(&Address::from((Ipv4Addr::LOCALHOST, port)), b"question")]).unwrap();
        await_input(&v6);
        let mut inbox = Inbox::new(4, 64);
        assert_eq!(inbox.receive(&v6, 4).unwrap(), 1);
        let question = inbox.get(0);
        assert_eq!(question.to, Some(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()));
        // The answer goes through the interface and from the address that the question came to; then through
        // the interface alone.
        let answer = Outgoing { to: &question.from, data: b"answer", interface: question.interface, from: question.to };
        assert_eq!(send_batch(&v6, &[answer, Outgoing { from: None, ..answer }]).unwrap(), 2);
        await_input(&v4);
        assert_eq!(inbox.receive(&v4, 4).unwrap(), 2);
        assert_eq!(inbox.get(0).from, Address::from((Ipv4Addr::LOCALHOST, port)));
        assert_eq!(inbox.get(1).from, Address::from((Ipv4Addr::LOCALHOST, port)));
    }

    #[test]
    fn what_stands_before_a_mistake_is_sent_and_the_mistake_is_told_next() {
        let (sender, _) = bound(Ipv4Addr::LOCALHOST);
        let (_receiver, address) = bound(Ipv4Addr::LOCALHOST);
        let too_long = Address::Abstract(vec![0; 200].into());
        let batch = [to(&address, b"a"), to(&address, b"b"), to(&too_long, b"c"), to(&address, b"d")];
        assert_eq!(send_batch(&sender, &batch).unwrap(), 2);
        assert!(is_invalid_input(send_batch(&sender, &batch[2..])));
        let huge = vec![0; 70_000];
        let batch = [to(&address, b"a"), to(&address, &huge)];
        assert_eq!(send_batch(&sender, &batch).unwrap(), 1);
        assert_eq!(send_batch(&sender, &batch[1..]).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn a_source_of_another_kind_than_the_receiver_is_a_mistake() {
        let (sender, address) = bound(Ipv4Addr::LOCALHOST);
        let from = Some(Ipv6Addr::LOCALHOST.into());
        assert!(is_invalid_input(send_batch(&sender, &[Outgoing { from, ..to(&address, b"x") }])));
        let address = Address::from((Ipv6Addr::LOCALHOST, 9));
        let from = Some(Ipv4Addr::LOCALHOST.into());
        assert!(is_invalid_input(send_batch(&sender, &[Outgoing { from, ..to(&address, b"x") }])));
        assert!(is_invalid_input(send_batch(&sender, &[Outgoing { interface: 1, ..to(&Address::Unnamed, b"x") }])));
    }

    #[test]
    fn a_batch_beyond_the_limit_goes_in_parts() {
        let (sender, _) = bound(Ipv4Addr::LOCALHOST);
        let (_receiver, address) = bound(Ipv4Addr::LOCALHOST);
        let batch = vec![to(&address, b"x"); BATCH_LIMIT + 6];
        assert_eq!(send_batch(&sender, &batch).unwrap(), BATCH_LIMIT);
        assert_eq!(send_batch(&sender, &batch[BATCH_LIMIT..]).unwrap(), 6);
        assert_eq!(send_batch(&sender, &[]).unwrap(), 0);
    }

    #[test]
    fn a_connected_socket_sends_to_nobody_in_particular() {
        let (sender, _) = bound(Ipv4Addr::LOCALHOST);
        let (receiver, address) = bound(Ipv4Addr::LOCALHOST);
        let unnamed = Address::Unnamed;
        assert_eq!(send_batch(&sender, &[to(&unnamed, b"x")]).unwrap_err().raw_os_error(), Some(libc::EDESTADDRREQ));
        connect(&sender, &address).unwrap();
        assert_eq!(send_batch(&sender, &[to(&unnamed, b"x")]).unwrap(), 1);
        await_input(&receiver);
    }

    #[test]
    fn unix_datagrams_tell_their_senders_name_if_it_has_one() {
        let name =
            |part: &str| Address::Abstract(format!("plimsoll-{part}-{}", std::process::id()).into_bytes().into());
        let (receiver, named, nameless) =
            (datagram(Family::Unix).unwrap(), datagram(Family::Unix).unwrap(), datagram(Family::Unix).unwrap());
        bind(&receiver, &name("receiver")).unwrap();
        bind(&named, &name("sender")).unwrap();
        send_batch(&named, &[to(&name("receiver"), b"from a name")]).unwrap();
        send_batch(&nameless, &[to(&name("receiver"), b"from nobody")]).unwrap();
        await_input(&receiver);
        let mut inbox = Inbox::new(4, 4);
        assert_eq!(inbox.receive(&receiver, 4).unwrap(), 2);
        assert_eq!((inbox.get(0).from, inbox.get(0).len), (name("sender"), 11));
        assert_eq!((inbox.get(1).from, inbox.get(1).truncated), (Address::Unnamed, true));
        assert_eq!(set_packet_info(&receiver, Family::Unix).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn descriptors_that_a_peer_attaches_are_closed() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let ours = Fd::from_owned(ours.into());
        let (kept, mut watch) = UnixStream::pair().unwrap();
        send_with_descriptor(&theirs, Fd::from_owned(kept.into()));
        await_input(&ours);
        assert_eq!(Inbox::new(4, 64).receive(&ours, 4).unwrap(), 1);
        // Its last copy is closed, or this read would have to wait.
        watch.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(watch.read(&mut [0; 1]).unwrap(), 0);
    }

    fn send_with_descriptor(through: &UnixDatagram, attached: Fd) {
        use std::os::fd::AsRawFd;
        let mut control = Control::EMPTY;
        let slice = IoSlice::new(b"x");
        // SAFETY: integers and nullable pointers, for all of which zero is a value.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = (&raw const slice).cast_mut().cast();
        message.msg_iovlen = 1;
        message.msg_controllen = control::write(&mut control, libc::SOL_SOCKET, libc::SCM_RIGHTS, attached.raw()) as _;
        message.msg_control = (&raw mut control).cast();
        // SAFETY: the message describes locals that outlive the call.
        assert_eq!(unsafe { libc::sendmsg(through.as_raw_fd(), &raw const message, 0) }, 1);
    }
}
