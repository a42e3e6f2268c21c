//! Memory is bounded by default and without the handler's help, and the bounds hold for memory and not only for
//! bytes named: what the allocator has given to the thread of the reactor is counted.
#![allow(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

mod support;

use plimsoll::{Bytes, CloseReason, Ctx, ListenOptions, Reactor, StreamOptions, Token};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{Told, address_of, hook, narrow, peer, turn_for, turn_until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Counts what each thread holds. A reactor belongs to one thread, so tests that run side by side do not mix.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(by: isize) {
    // A thread that is ending may have no such variables any more; nobody asks it.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + by);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> usize {
    LIVE.get().max(0) as usize
}

/// The most held from here on.
fn begin_peak() -> usize {
    PEAK.set(LIVE.get());
    live()
}

fn peak_since(base: usize) -> usize {
    (PEAK.get().max(0) as usize).saturating_sub(base)
}

#[derive(Default)]
struct App {
    opened: Vec<Token>,
    closed: Vec<CloseReason>,
}

type OnData = fn(&mut Ctx<'_, App>, &mut plimsoll::BytesMut);

fn server(options: ListenOptions, on_data: OnData) -> (Reactor<App>, std::net::SocketAddr) {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen_with("127.0.0.1:0", options, move |_, _| {
        Some(hook(move |ctx: &mut Ctx<'_, App>, told: Told<'_>| match told {
            Told::Open => ctx.app.opened.push(ctx.token),
            Told::Data(input) => on_data(ctx, input),
            Told::Eof(_) => ctx.shutdown(),
            Told::Close(why) => ctx.app.closed.push(why),
            _ => {}
        }))
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    (reactor, address)
}

/// Writes for as long as anybody takes it, and never reads.
fn push(reactor: &mut Reactor<App>, stream: &mut TcpStream, data: &[u8]) -> usize {
    stream.set_nonblocking(true).expect("non-blocking");
    let mut taken = 0;
    let mut quiet = 0;
    while quiet < 10 && reactor.app.closed.is_empty() {
        match stream.write(data) {
            Ok(n) => {
                taken += n;
                quiet = 0;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => quiet += 1,
            Err(_) => break,
        }
        reactor.turn(Some(Duration::from_millis(3))).expect("the loop turns");
    }
    taken
}

/// An echo in each of the ways in which it can be written.
const ECHOES: [(&str, OnData); 5] = [
    ("borrowed", |ctx, input| {
        ctx.send(&input[..]);
        input.clear();
    }),
    ("split", |ctx, input| {
        ctx.send(input.split());
    }),
    ("split into single bytes", |ctx, input| {
        while !input.is_empty() {
            ctx.send(input.split_to(1));
        }
    }),
    ("split into kilobytes", |ctx, input| {
        let mut len = 1024;
        while !input.is_empty() {
            let piece = input.split_to(len.min(input.len()));
            len = 1024 + len * 7 % 1025;
            ctx.send(piece);
        }
    }),
    ("split into frozen kilobytes", |ctx, input| {
        let all: Bytes = input.split().freeze();
        for at in (0..all.len()).step_by(1500) {
            ctx.send(all.slice(at..all.len().min(at + 1500)));
        }
    }),
];

#[test]
fn an_echo_to_a_peer_that_never_reads_is_bounded_however_it_is_written() {
    let data = vec![7; 256 * KIB];
    for (name, echo) in ECHOES {
        let (mut reactor, address) = server(narrow(|_| {}), echo);
        let mut stream = peer(address);
        turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
        let token = reactor.app.opened[0];
        let base = begin_peak();
        let taken = push(&mut reactor, &mut stream, &data);
        assert!(taken > MIB, "{name}: or this test shows nothing");
        // The high mark and the one read that crossed it.
        let queued = reactor.net.queued(token);
        assert!(queued > MIB / 2, "{name}: or this test shows nothing: {queued}");
        assert!(reactor.net.stats().peak_queued as usize <= MIB + 64 * KIB, "{name}");
        // Held: what is queued, a quarter on top for its keeping, and two read buffers.
        let held = live() - base;
        assert!(held <= queued + queued / 4 + 128 * KIB, "{name}: {held} bytes for {queued}");
        let peak = peak_since(base);
        assert!(peak <= (MIB + 64 * KIB) * 3 / 2 + 256 * KIB, "{name}: {peak} bytes at one time");
        // And it is given back when the peer takes it in the end.
        stream.set_nonblocking(true).expect("non-blocking");
        let mut buffer = vec![0; 64 * KIB];
        turn_until(&mut reactor, "it is drained", |r| {
            while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
            r.net.stats().bytes_written as usize == taken
        });
        drop(buffer);
        assert_eq!(reactor.net.stats().held, 0);
        let kept = live().saturating_sub(base);
        assert!(kept <= 256 * KIB, "{name}: {kept} bytes are kept by an idle loop");
    }
}

#[test]
fn small_packets_that_wait_hold_no_more_than_their_bytes_however_they_are_sent() {
    // Each packet is a read of its own, so a slice that is kept keeps a read buffer for one kilobyte.
    for (name, echo) in ECHOES {
        let (mut reactor, address) = server(narrow(|_| {}), echo);
        let mut stream = peer(address);
        turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
        let token = reactor.app.opened[0];
        // From here on the kernel takes nothing more, but the connection is read.
        reactor.net.options(token, |o| o.high_water = 4 * MIB);
        reactor.net.send(token, vec![1; 2 * MIB]);
        turn_for(&mut reactor, Duration::from_millis(20));
        let base = begin_peak();
        let mut sent = 0;
        for n in 0..300 {
            let packet = [7; 2000];
            let len = 1 + n * 37 % packet.len();
            stream.write_all(&packet[..len]).expect("sent");
            sent += len;
            let read = reactor.net.stats().bytes_read + len as u64;
            turn_until(&mut reactor, "it is read", |r| r.net.stats().bytes_read == read);
        }
        assert!(reactor.net.queued(token) > sent, "{name}: or this test shows nothing");
        let held = live().saturating_sub(base);
        assert!(held <= sent + sent / 4 + 192 * KIB, "{name}: {held} bytes for {sent}");
    }
}

#[test]
fn slices_of_the_read_buffer_that_are_forwarded_hold_no_more_than_their_bytes() {
    // A connection that forwards what it reads to the first one, which does not read.
    let forward: OnData = |ctx, input| {
        let target = ctx.app.opened[0];
        while !input.is_empty() {
            let piece = input.split_to(1500.min(input.len()));
            ctx.net.send(target, piece);
        }
    };
    let (mut reactor, address) = server(narrow(|o| o.hard_limit = 4 * MIB), forward);
    let _target = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| r.app.opened.len() == 1);
    let mut source = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| r.app.opened.len() == 2);
    let data = vec![7; 256 * KIB];
    let base = begin_peak();
    let mut sent = 0;
    source.set_nonblocking(true).expect("non-blocking");
    while sent < 3 * MIB {
        sent += source.write(&data).unwrap_or(0);
        reactor.turn(Some(Duration::from_millis(3))).expect("the loop turns");
        let queued = reactor.net.queued(reactor.app.opened[0]);
        let held = live().saturating_sub(base);
        assert!(held <= queued + queued / 4 + 256 * KIB, "{held} bytes for {queued}");
    }
    assert!(reactor.net.queued(reactor.app.opened[0]) > MIB);
}

#[test]
fn shared_data_that_waits_on_many_connections_is_held_once() {
    let (mut reactor, address) = server(narrow(|_| {}), ECHOES[0].1);
    let mut streams: Vec<TcpStream> = (0..20).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are accepted", |r| r.app.opened.len() == 20);
    let data = Bytes::from(support::pattern(MIB, 1));
    let base = begin_peak();
    for token in reactor.app.opened.clone() {
        reactor.net.send(token, &data);
    }
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(reactor.net.stats().held as usize > 10 * MIB, "or this test shows nothing");
    let peak = peak_since(base);
    assert!(peak <= 128 * KIB, "{peak} bytes beside the megabyte that is there once");
    let mut got = vec![0; MIB];
    for stream in &mut streams {
        stream.set_nonblocking(true).expect("non-blocking");
        let mut at = 0;
        turn_until(&mut reactor, "it is read", |_| {
            while at < MIB
                && let Ok(n) = stream.read(&mut got[at..])
            {
                at += n;
            }
            at == MIB
        });
        assert!(got == data);
    }
}

#[test]
fn slices_that_were_forwarded_by_a_callback_that_panicked_hold_no_more_than_their_bytes() {
    let forward: OnData = |ctx, input| {
        let target = ctx.app.opened[0];
        ctx.net.send(target, input.split_to(1100));
        std::panic::resume_unwind(Box::new("thrown"));
    };
    let (mut reactor, address) = server(narrow(|_| {}), forward);
    let _target = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| r.app.opened.len() == 1);
    let target = reactor.app.opened[0];
    // From now on the kernel takes nothing more for it.
    reactor.net.send(target, vec![1; MIB]);
    turn_for(&mut reactor, Duration::from_millis(20));
    // Nor is it offered anything before a callback has returned, which these will not do.
    reactor.net.options(target, |o| {
        o.high_water = usize::MAX;
        o.eager_flush = usize::MAX;
    });
    let base = begin_peak();
    for _ in 0..20 {
        let mut source = peer(address);
        source.write_all(&[7; 8 * KIB]).expect("sent");
        let mut turn = || reactor.turn(Some(Duration::from_millis(20)));
        while std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut turn)).is_ok() {}
    }
    turn_for(&mut reactor, Duration::from_millis(20));
    let held = live().saturating_sub(base);
    assert!(held <= 20 * 1100 + 128 * KIB, "{held} bytes for twenty slices");
}

#[test]
fn a_handler_that_does_not_heed_high_is_ended_at_the_hard_limit() {
    let (mut reactor, address) = server(
        narrow(|o| {
            o.hard_limit = 4 * MIB;
            o.read_while_high = true;
        }),
        |ctx, input| {
            while !input.is_empty() {
                let piece = input.split_to(1100.min(input.len()));
                ctx.send(piece);
            }
        },
    );
    let mut stream = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
    let data = vec![7; 256 * KIB];
    let base = begin_peak();
    push(&mut reactor, &mut stream, &data);
    assert!(matches!(reactor.app.closed[..], [CloseReason::Overflow]), "{:?}", reactor.app.closed);
    assert!(reactor.net.stats().peak_queued as usize <= 4 * MIB + 1100);
    let peak = peak_since(base);
    assert!(peak <= 4 * MIB * 3 / 2, "{peak} bytes at one time");
    assert!(live().saturating_sub(base) <= 256 * KIB);
}

#[test]
fn a_handler_that_consumes_nothing_is_ended_at_the_input_limit() {
    let (mut reactor, address) = server(ListenOptions::new(), |_, _| {});
    let mut stream = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
    let data = vec![7; 64 * KIB];
    let base = begin_peak();
    push(&mut reactor, &mut stream, &data);
    assert!(matches!(reactor.app.closed[..], [CloseReason::InputLimit]), "{:?}", reactor.app.closed);
    let peak = peak_since(base);
    // A buffer that grows by doubling, and the read buffer.
    assert!(peak <= 2 * MIB + 256 * KIB, "{peak} bytes at one time");
    assert!(live().saturating_sub(base) <= 128 * KIB);
}

/// Takes whole records of 600 KiB, and leaves what comes behind one.
fn take_whole(ctx: &mut Ctx<'_, App>, input: &mut plimsoll::BytesMut) {
    if input.len() >= 600 * KIB {
        let _ = input.split_to(600 * KIB);
        ctx.send("taken");
    }
}

/// The same, so that the filter's leftover is what is small.
struct Whole;

impl plimsoll::Filter for Whole {
    fn decode(
        &mut self,
        wire: &mut plimsoll::BytesMut,
        plain: &mut plimsoll::BytesMut,
        _: &mut plimsoll::BytesMut,
    ) -> std::io::Result<()> {
        if wire.len() >= 600 * KIB {
            plain.extend_from_slice(&wire.split_to(600 * KIB)[..1]);
        }
        Ok(())
    }
    fn encode(&mut self, plain: &[u8], wire: &mut plimsoll::BytesMut) -> std::io::Result<()> {
        wire.extend_from_slice(plain);
        Ok(())
    }
}

#[test]
fn a_small_rest_of_much_input_does_not_hold_on_to_the_memory_of_all() {
    const COUNT: usize = 10;
    let filtered: OnData = |ctx, input| {
        input.clear();
        ctx.send("taken");
    };
    for (filter, on_data) in [(false, take_whole as OnData), (true, filtered)] {
        let (mut reactor, address) = server(ListenOptions::new(), on_data);
        let data = vec![7; 605 * KIB];
        let mut streams = Vec::with_capacity(COUNT);
        let base = live();
        for index in 0..COUNT {
            let mut stream = peer(address);
            turn_until(&mut reactor, "it is accepted", |r| r.app.opened.len() > index);
            assert!(!filter || reactor.net.filter(reactor.app.opened[index], Whole));
            push_all(&mut reactor, &mut stream, &data);
            turn_until(&mut reactor, "all was read", |r| r.net.stats().held as usize == (index + 1) * 5 * KIB);
            streams.push(stream);
        }
        let (held, live) = (reactor.net.stats().held as usize, live().saturating_sub(base));
        assert!(live <= 4 * held + 128 * KIB, "{live} bytes of memory for {held} bytes that are counted");
    }
}

fn push_all(reactor: &mut Reactor<App>, stream: &mut TcpStream, mut data: &[u8]) {
    stream.set_nonblocking(true).expect("non-blocking");
    turn_until(reactor, "all is taken", |_| {
        while let Ok(n @ 1..) = stream.write(data) {
            data = &data[n..];
        }
        data.is_empty()
    });
}

#[test]
fn an_idle_connection_costs_little_and_gives_it_back() {
    const COUNT: usize = 4000;
    let (mut reactor, address) = server(ListenOptions::new(), ECHOES[0].1);
    reactor.app.opened.reserve(COUNT + 10);
    reactor.app.closed.reserve(2 * COUNT);
    let mut streams = Vec::with_capacity(COUNT);
    // One round trip, so that pool and read buffer are there.
    let mut first = peer(address);
    first.write_all(b"x").expect("sent");
    turn_until(&mut reactor, "it is answered", |r| r.net.stats().bytes_written == 1);
    let base = live();
    for _ in 0..COUNT {
        let mut stream = peer(address);
        stream.write_all(b"x").expect("sent");
        streams.push(stream);
    }
    let expected = 1 + COUNT as u64;
    turn_until(&mut reactor, "all are answered", |r| r.net.stats().bytes_written == expected);
    let each = (live() - base) / COUNT;
    assert!(each <= 288, "{each} bytes for an idle connection");
    streams.clear();
    turn_until(&mut reactor, "all are gone", |r| r.app.closed.len() == COUNT);
    turn_for(&mut reactor, Duration::from_millis(5));
    let each = live().saturating_sub(base) / COUNT;
    assert!(each <= 48, "{each} bytes for a connection that is gone");
}

#[test]
fn a_memory_budget_bounds_the_sum() {
    let options = plimsoll::ReactorOptions::new().with(|o| o.memory_budget = Some(2 * MIB));
    let mut reactor = Reactor::with_options(App::default(), options).expect("a reactor");
    let change = |o: &mut StreamOptions| o.input_limit = 600 * KIB;
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(change), |_, _| {
        Some(hook(|ctx: &mut Ctx<'_, App>, told: Told<'_>| match told {
            Told::Open => ctx.app.opened.push(ctx.token),
            Told::Close(why) => ctx.app.closed.push(why),
            _ => {}
        }))
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let mut streams: Vec<TcpStream> = (0..8).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are accepted", |r| r.app.opened.len() == 8);
    let data = vec![7; 16 * KIB];
    for _ in 0..30 {
        for stream in &mut streams {
            stream.set_nonblocking(true).expect("non-blocking");
            let _ = stream.write(&data);
        }
        reactor.turn(Some(Duration::from_millis(2))).expect("the loop turns");
        assert!(reactor.net.stats().held as usize <= 2 * MIB);
    }
    assert!(!reactor.app.closed.is_empty());
    assert!(reactor.app.closed.iter().all(|why| matches!(why, CloseReason::Memory)));
}
