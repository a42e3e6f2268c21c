//! An edge is told once, so nothing may be left behind one: an urgent byte, a hang-up with unread bytes, an end
//! that comes while the connection is paused. And what is not read must not make the loop spin.

mod support;

use nix::sys::socket::{MsgFlags, send};
use plimsoll::{CloseReason, Ctx, Reactor, Token};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;
use support::{Told, address_of, hook, narrow, pattern, peer, turn_for, turn_until};

#[derive(Default)]
struct App {
    token: Option<Token>,
    got: Vec<u8>,
    ends: u32,
    /// The first `on_data` pauses.
    pauses: bool,
    closed: Vec<CloseReason>,
}

fn told(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
    match told {
        Told::Open => ctx.app.token = Some(ctx.token),
        Told::Data(input) => {
            ctx.app.got.extend_from_slice(&input.split());
            if std::mem::take(&mut ctx.app.pauses) {
                ctx.pause_reading();
            }
        }
        Told::Eof(_) => {
            ctx.app.ends += 1;
            ctx.shutdown();
        }
        Told::Close(why) => ctx.app.closed.push(why),
        _ => {}
    }
}

fn server() -> (Reactor<App>, TcpStream, Token) {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(|_| {}), |_, _| Some(hook(told)));
    let stream = peer(address_of(&reactor, listener.expect("it listens")));
    turn_until(&mut reactor, "it is accepted", |r| r.app.token.is_some());
    turn_for(&mut reactor, Duration::from_millis(2));
    let token = reactor.app.token.expect("just seen");
    (reactor, stream, token)
}

fn send_urgent(stream: &TcpStream, data: &[u8]) {
    let sent = send(stream.as_raw_fd(), data, MsgFlags::MSG_OOB).expect("sent");
    assert_eq!(sent, data.len());
}

#[test]
fn an_urgent_byte_in_the_stream_strands_nothing() {
    for (before, behind) in [(0, 5), (10, 0), (10, 10), (70_000, 70_000), (1, 100_000), (100_000, 1)] {
        let (mut reactor, mut stream, _) = server();
        let data = pattern(before + behind, 1);
        // All is there before the loop looks: the read stops short at the mark, and no edge comes for the rest.
        stream.write_all(&data[..before]).expect("sent");
        send_urgent(&stream, b"!");
        stream.write_all(&data[before..]).expect("sent");
        turn_until(&mut reactor, "what is behind the mark", |r| r.app.got.len() == before + behind);
        assert!(reactor.app.got == data, "and the urgent byte is not part of the stream");
        // Also after it: the connection is not worse for it.
        send_urgent(&stream, b"!");
        stream.write_all(b"more").expect("sent");
        turn_until(&mut reactor, "more", |r| r.app.got.ends_with(b"more"));
        stream.shutdown(Shutdown::Write).expect("half closed");
        turn_until(&mut reactor, "the end", |r| r.app.ends == 1);
    }
}

#[test]
fn many_bytes_behind_a_hang_up_of_a_paused_connection_are_read_after_resume() {
    // One half ended, both ended, and reads that have been there before.
    for both in [false, true] {
        for data in [0, 50_000, 300_000] {
            let (mut reactor, mut stream, token) = server();
            reactor.net.pause_reading(token);
            if both {
                reactor.net.shutdown(token);
                turn_for(&mut reactor, Duration::from_millis(2));
            }
            let data = pattern(data, 2);
            let mut at = 0;
            stream.set_nonblocking(true).expect("non-blocking");
            // As much as the kernel holds.
            while at < data.len() {
                match stream.write(&data[at..]) {
                    Ok(n) => at += n,
                    Err(_) => break,
                }
            }
            assert!(at >= data.len().min(50_000));
            stream.shutdown(Shutdown::Write).expect("half closed");
            turn_for(&mut reactor, Duration::from_millis(10));
            assert!(reactor.app.got.is_empty() && reactor.app.ends == 0 && reactor.app.closed.is_empty());
            let turns = reactor.net.stats().turns;
            turn_for(&mut reactor, Duration::from_millis(20));
            assert!(reactor.net.stats().turns - turns <= 2, "it does not spin meanwhile");
            reactor.net.resume_reading(token);
            turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
            assert!(reactor.app.got == data[..at]);
            assert_eq!(reactor.app.ends, 1);
            assert!(matches!(reactor.app.closed[..], [CloseReason::Done]));
        }
    }
}

#[test]
fn a_connection_that_pauses_in_the_turn_of_the_hang_up_loses_nothing() {
    let (mut reactor, mut stream, token) = server();
    reactor.app.pauses = true;
    let data = pattern(150_000, 3);
    let sent = data.clone();
    let writer = support::beside(move || {
        stream.write_all(&sent).expect("sent");
        stream.shutdown(Shutdown::Write).expect("half closed");
        stream
    });
    turn_until(&mut reactor, "the first read", |r| !r.app.got.is_empty());
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(reactor.app.got.len() < data.len() && reactor.app.ends == 0);
    reactor.net.resume_reading(token);
    turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
    assert!(reactor.app.got == data);
    assert_eq!(reactor.app.ends, 1);
    drop(writer.join());
}

#[test]
fn a_paused_connection_with_input_waiting_does_not_spin() {
    let (mut reactor, mut stream, token) = server();
    reactor.net.pause_reading(token);
    stream.write_all(&[1; 10_000]).expect("sent");
    turn_for(&mut reactor, Duration::from_millis(5));
    let before = *reactor.net.stats();
    turn_for(&mut reactor, Duration::from_millis(50));
    let after = reactor.net.stats();
    assert!(after.turns - before.turns <= 2, "{} turns", after.turns - before.turns);
    assert_eq!(after.reads, before.reads);
    // Pausing and resuming cost no system call: what is read is read once.
    for _ in 0..1000 {
        reactor.net.resume_reading(token);
        reactor.net.pause_reading(token);
    }
    turn_for(&mut reactor, Duration::from_millis(5));
    assert_eq!(reactor.net.stats().reads, before.reads);
    reactor.net.resume_reading(token);
    turn_until(&mut reactor, "it is read", |r| r.app.got.len() == 10_000);
}

#[test]
fn a_connection_over_its_high_mark_does_not_spin() {
    let (mut reactor, mut stream, token) = server();
    reactor.net.send(token, vec![1; 4 << 20]);
    stream.write_all(&[1; 10_000]).expect("sent");
    turn_for(&mut reactor, Duration::from_millis(10));
    let before = *reactor.net.stats();
    turn_for(&mut reactor, Duration::from_millis(50));
    let after = reactor.net.stats();
    // The peer's kernel may make a little more room on its own.
    assert!(after.turns - before.turns <= 6, "{} turns", after.turns - before.turns);
    assert!(after.writes - before.writes <= 4, "{} writes", after.writes - before.writes);
    assert_eq!(after.reads, before.reads);
}

#[test]
fn an_idle_loop_does_not_turn() {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(hook(told))).expect("it listens");
    let address = address_of(&reactor, listener);
    let streams: Vec<TcpStream> = (0..50).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are accepted", |r| r.net.stats().accepts == 50);
    turn_for(&mut reactor, Duration::from_millis(10));
    for mut stream in &streams {
        stream.write_all(b"hello").expect("sent");
    }
    turn_until(&mut reactor, "all is read", |r| r.app.got.len() == 250);
    turn_for(&mut reactor, Duration::from_millis(10));

    assert_eq!(reactor.next_turn_in(), None, "nothing but an event can bring work");
    let before = *reactor.net.stats();
    reactor.turn(Some(Duration::from_millis(100))).expect("the loop turns");
    let after = *reactor.net.stats();
    assert_eq!(after.turns, before.turns + 1);
    assert_eq!(after.events, before.events, "it slept the whole time");
    assert_eq!((after.reads, after.writes), (before.reads, before.writes));

    // A timer ends the sleep, and nothing else is done.
    reactor.net.after(Duration::from_millis(30), |lp| lp.stop());
    assert!(reactor.next_turn_in().is_some_and(|due| due <= Duration::from_millis(30)));
    support::run(&mut reactor);
    let turns = reactor.net.stats().turns - after.turns;
    assert!(turns <= 6, "{turns} turns for one timer and a stop");
}

#[test]
fn an_echoed_message_costs_one_read_and_one_write() {
    let mut reactor = Reactor::new(()).expect("a reactor");
    let listener = reactor.net.serve("127.0.0.1:0", |ctx, input| {
        ctx.send(&input[..]);
        input.clear();
    });
    let mut stream = peer(address_of(&reactor, listener.expect("it listens")));
    turn_until(&mut reactor, "it is accepted", |r| r.net.stats().accepts == 1);
    turn_for(&mut reactor, Duration::from_millis(5));
    let before = *reactor.net.stats();
    for _ in 0..100 {
        stream.write_all(&[7; 64]).expect("sent");
        reactor.turn(Some(support::DEADLINE)).expect("the loop turns");
        stream.read_exact(&mut [0; 64]).expect("the echo");
    }
    let after = reactor.net.stats();
    assert_eq!((after.reads - before.reads, after.writes - before.writes), (100, 100));
    assert_eq!((after.reads_empty, after.writes_full), (before.reads_empty, before.writes_full), "no EAGAIN");
}
