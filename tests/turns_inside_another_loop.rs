//! Promise: a reactor can live in somebody else's loop, which watches its descriptor with poll(2) and asks
//! `next_turn_in` how long it may sleep, and needs to know nothing else.
//!
//! Every turn here is `turn(Some(0))`, made only when the descriptor was readable or the time had come. Work that
//! this rule misses would show as a wait for the whole deadline.
#![expect(unsafe_code, reason = "poll(2) itself, as the other loop would call it")]

mod support;

use plimsoll::{Loop, Reactor};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};
use support::{DEADLINE, address_of, beside, pattern, peer, udp_peer};

/// Whether the reactor's descriptor is, or becomes, readable.
fn poll<A: 'static>(reactor: &Reactor<A>, timeout: Duration) -> bool {
    let mut watched = libc::pollfd { fd: reactor.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout_ms = timeout.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(i32::MAX);
    // SAFETY: one pollfd, as said, which outlives the call.
    let ready = unsafe { libc::poll(&raw mut watched, 1, timeout_ms) };
    assert!(ready >= 0, "poll: {}", std::io::Error::last_os_error());
    ready == 1
}

/// The other loop. The answer is how many turns it made.
#[track_caller]
fn embed<A: 'static>(reactor: &mut Reactor<A>, mut done: impl FnMut(&mut Reactor<A>) -> bool) -> u64 {
    let began = Instant::now();
    let turns = reactor.net.stats().turns;
    while !done(reactor) {
        let wait = reactor.next_turn_in().unwrap_or(DEADLINE).min(DEADLINE);
        let readable = poll(reactor, wait);
        assert!(readable || wait < DEADLINE, "neither the descriptor nor next_turn_in told of the work");
        reactor.turn(Some(Duration::ZERO)).unwrap();
        assert!(began.elapsed() < 2 * DEADLINE, "no end in sight");
    }
    reactor.net.stats().turns - turns
}

fn echo(reactor: &mut Reactor<usize>) -> std::net::SocketAddr {
    let listener = reactor
        .net
        .serve("127.0.0.1:0", |ctx, input| {
            ctx.send(&input[..]);
            input.clear();
        })
        .unwrap();
    address_of(reactor, listener)
}

#[test]
fn an_echo_server_is_served_whole() {
    let mut reactor = Reactor::new(0).unwrap();
    let address = echo(&mut reactor);
    let peers: Vec<_> = (0..4)
        .map(|seed| {
            let mailbox = reactor.net.mailbox();
            beside(move || {
                let data = pattern(1_500_000, seed);
                let mut stream = peer(address);
                let mut reading = stream.try_clone().unwrap();
                let expected = data.clone();
                let reader = thread::spawn(move || {
                    let mut back = vec![0; expected.len()];
                    reading.read_exact(&mut back).unwrap();
                    assert!(back == expected, "the echo differs");
                });
                stream.write_all(&data).unwrap();
                reader.join().unwrap();
                mailbox.post(|lp| *lp.app += 1).unwrap();
            })
        })
        .collect();
    embed(&mut reactor, |reactor| reactor.app == peers.len());
    peers.into_iter().for_each(|peer| peer.join().unwrap());
}

#[test]
fn everything_that_is_not_a_socket_is_served_too() {
    let mut reactor = Reactor::new(0).unwrap();
    let mailbox = reactor.net.mailbox();
    reactor.net.after(Duration::from_millis(3), |lp| *lp.app += 1);
    reactor.net.defer(|lp| *lp.app += 1);
    reactor.net.offload(|| 1, |lp, result| *lp.app += result.unwrap()).unwrap();
    let poster = thread::spawn(move || mailbox.post(|lp| lp.defer(|lp| *lp.app += 1)).unwrap());
    embed(&mut reactor, |reactor| reactor.app == 4);
    poster.join().unwrap();
}

#[test]
fn a_stop_is_carried_out() {
    let mut reactor = Reactor::new(0).unwrap();
    let address = echo(&mut reactor);
    let _peer = peer(address);
    embed(&mut reactor, |reactor| reactor.net.tokens().len() == 1);
    reactor.net.stop();
    embed(&mut reactor, |reactor| reactor.net.tokens().is_empty());
    reactor.run().unwrap(); // nothing is left to be done
}

#[test]
fn a_post_between_turns_makes_the_descriptor_readable() {
    let mut reactor = Reactor::new(0).unwrap();
    let mailbox = reactor.net.mailbox();
    for round in 1..=5 {
        assert!(!poll(&reactor, Duration::ZERO));
        mailbox.post(|lp| *lp.app += 1).unwrap();
        assert!(poll(&reactor, Duration::ZERO), "whoever sleeps in poll(2) would sleep on");
        assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
        reactor.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(reactor.app, round); // and nobody has asked for next_turn_in
    }
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn verbs_between_turns_are_work_that_next_turn_in_tells_of() {
    fn quiet(reactor: &mut Reactor<usize>) {
        embed(reactor, |reactor| reactor.next_turn_in().is_none() && !poll(reactor, Duration::ZERO));
    }
    let mut reactor = Reactor::new(0).unwrap();
    let address = echo(&mut reactor);
    let mut stream = peer(address);
    embed(&mut reactor, |reactor| reactor.net.tokens().len() == 1);
    quiet(&mut reactor);
    let token = reactor.net.tokens()[0];

    reactor.net.send(token, "between turns");
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor.turn(Some(Duration::ZERO)).unwrap();
    stream.read_exact(&mut [0; 13]).unwrap();
    quiet(&mut reactor);

    let udp = reactor.net.udp("127.0.0.1:0", |_, _| ()).unwrap();
    let listening = udp_peer("127.0.0.1:0");
    reactor.turn(Some(Duration::ZERO)).unwrap();
    reactor.net.send_to(udp, listening.local_addr().unwrap(), "between turns");
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(listening.recv(&mut [0; 64]).unwrap(), 13);
    quiet(&mut reactor);

    reactor.net.close(udp);
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO), "a descriptor waits to be closed");
    quiet(&mut reactor);

    reactor.net.abort(token);
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO), "on_close is due");
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert!(stream.read(&mut [0]).is_err());
    quiet(&mut reactor);

    fn later(lp: &mut Loop<'_, usize>) {
        *lp.app += 1;
    }
    reactor.net.defer(later);
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    let id = reactor.net.after(Duration::from_secs(3600), later);
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.app, 1);
    let wait = reactor.next_turn_in().unwrap();
    assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_secs(3600), "{wait:?}");
    assert!(reactor.net.cancel(id));
    quiet(&mut reactor);
}

#[test]
fn an_idle_reactor_does_not_keep_the_other_loop_awake() {
    let mut reactor = Reactor::new(0).unwrap();
    let address = echo(&mut reactor);
    let mut stream = peer(address);
    reactor.net.udp("127.0.0.1:0", |_, _| ()).unwrap();
    for _ in 0..10 {
        stream.write_all(b"?").unwrap();
        let turns = embed(&mut reactor, |reactor| reactor.next_turn_in().is_none() && !poll(reactor, Duration::ZERO));
        assert!(turns <= 6, "{turns} turns for one byte");
        stream.read_exact(&mut [0]).unwrap();
    }
    assert!(!poll(&reactor, Duration::from_millis(20)));
}
