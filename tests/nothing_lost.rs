//! Nothing that was taken is lost silently: an end drops neither queued output nor unread input, each half of a
//! stream ends on its own, and `close` lets the peer have everything.

mod support;

use plimsoll::{CloseReason, Ctx, Flow, ListenOptions, Reactor, StreamOptions, Token};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;
use support::{DEADLINE, Told, address_of, beside, hook, join, narrow, pattern, peer, read_all, turn_for, turn_until};

/// More than the kernel takes toward a peer that does not read, when its buffer is narrow.
const MUCH: usize = 1 << 20;

#[derive(Default)]
struct App {
    opened: Vec<Token>,
    got: Vec<u8>,
    rest: Vec<Vec<u8>>,
    closed: Vec<CloseReason>,
}

type Fn = for<'a, 'b, 'c> fn(&'a mut Ctx<'b, App>, Told<'c>);

fn server(options: ListenOptions, told: Fn) -> (Reactor<App>, SocketAddr) {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen_with("127.0.0.1:0", options, move |_, _| {
        Some(hook(move |ctx: &mut Ctx<'_, App>, what: Told<'_>| {
            match &what {
                Told::Open => ctx.app.opened.push(ctx.token),
                Told::Eof(rest) => ctx.app.rest.push(rest.to_vec()),
                _ => {}
            }
            if let Told::Close(why) = what {
                return ctx.app.closed.push(why);
            }
            told(ctx, what);
        }))
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    (reactor, address)
}

#[test]
fn the_last_line_without_a_newline_reaches_on_eof() {
    fn lines(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        match told {
            Told::Data(input) => {
                while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
                    let line = input.split_to(end + 1);
                    ctx.app.got.extend_from_slice(&line);
                }
            }
            Told::Eof(_) => ctx.shutdown(),
            _ => {}
        }
    }
    // Together with the end, or long before it; short, or with a buffer of its own.
    for last in [&b"last"[..], &[b'x'; 10_000]] {
        for together in [true, false] {
            let (mut reactor, address) = server(ListenOptions::new(), lines);
            let mut stream = peer(address);
            stream.write_all(b"one\ntwo\n").expect("sent");
            stream.write_all(last).expect("sent");
            if !together {
                turn_until(&mut reactor, "all was read", |r| r.net.stats().bytes_read == 8 + last.len() as u64);
            }
            stream.shutdown(Shutdown::Write).expect("half closed");
            turn_until(&mut reactor, "the end", |r| !r.app.closed.is_empty());
            assert_eq!(reactor.app.got, b"one\ntwo\n");
            assert_eq!(reactor.app.rest, [last]);
            assert_eq!(reactor.net.stats().held, 0);
        }
    }
}

#[test]
fn a_half_closed_peer_still_gets_everything_that_is_queued() {
    fn answer(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        match told {
            Told::Data(input) => {
                input.clear();
                ctx.send(pattern(MUCH, 1));
            }
            Told::Eof(_) => {
                assert!(ctx.queued() > 0, "or this test shows nothing");
                ctx.send("the end");
                ctx.shutdown();
                assert_eq!(ctx.send("too late"), Flow::Closed);
            }
            _ => {}
        }
    }
    // `read_while_high`: with the default the end would be read only when the queue has drained.
    let (mut reactor, address) = server(narrow(|o| o.read_while_high = true), answer);
    let mut stream = peer(address);
    stream.write_all(b"x").expect("sent");
    turn_until(&mut reactor, "the answer is queued", |r| r.net.stats().held > 0);
    stream.shutdown(Shutdown::Write).expect("half closed");
    turn_until(&mut reactor, "on_eof", |r| !r.app.rest.is_empty());
    turn_for(&mut reactor, Duration::from_millis(20));
    assert!(reactor.app.closed.is_empty(), "not over before it is flushed");
    let reader = beside(move || read_all(&mut stream));
    let got = join(&mut reactor, reader);
    assert!(got[..MUCH] == pattern(MUCH, 1));
    assert_eq!(&got[MUCH..], b"the end");
    turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
    assert!(matches!(reactor.app.closed[..], [CloseReason::Done]));
}

#[test]
fn each_half_ends_on_its_own_the_peers_first() {
    fn later(_: &mut Ctx<'_, App>, told: Told<'_>) {
        if let Told::Data(input) = told {
            input.clear();
        }
    }
    let (mut reactor, address) = server(ListenOptions::new(), later);
    let mut stream = peer(address);
    stream.shutdown(Shutdown::Write).expect("half closed");
    turn_until(&mut reactor, "on_eof", |r| !r.app.rest.is_empty());
    let token = reactor.app.opened[0];
    // Our half is open for as long as we like.
    for _ in 0..10 {
        assert_eq!(reactor.net.send(token, "and on "), Flow::Open);
        turn_for(&mut reactor, Duration::from_millis(2));
    }
    assert!(reactor.app.closed.is_empty());
    reactor.net.shutdown(token);
    turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
    assert!(matches!(reactor.app.closed[..], [CloseReason::Done]));
    assert_eq!(read_all(&mut stream), b"and on ".repeat(10));
    assert_eq!(reactor.app.rest.len(), 1, "on_eof comes once");
}

#[test]
fn each_half_ends_on_its_own_ours_first() {
    fn first(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        match told {
            Told::Open => {
                ctx.send("that was all");
                ctx.shutdown();
            }
            Told::Data(input) => ctx.app.got.extend_from_slice(&input.split()),
            _ => {}
        }
    }
    let (mut reactor, address) = server(ListenOptions::new(), first);
    let mut stream = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
    turn_for(&mut reactor, Duration::from_millis(2));
    assert_eq!(read_all(&mut stream), b"that was all");
    let sent = pattern(1 << 20, 2);
    let data = sent.clone();
    let writer = beside(move || {
        stream.write_all(&data).expect("our half still reads");
        stream
    });
    let stream = join(&mut reactor, writer);
    turn_until(&mut reactor, "all was read", |r| r.app.got.len() == sent.len());
    assert!(reactor.app.got == sent);
    assert!(reactor.app.closed.is_empty());
    stream.shutdown(Shutdown::Write).expect("half closed");
    turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
    assert!(matches!(reactor.app.closed[..], [CloseReason::Done]));
}

#[test]
fn a_half_that_has_ended_takes_no_more_in_a_later_callback_and_the_other_goes_on() {
    fn late(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        match told {
            Told::Open => ctx.shutdown(),
            Told::Data(input) => {
                ctx.app.got.extend_from_slice(&input.split());
                assert_eq!(ctx.send("late"), Flow::Closed);
            }
            _ => {}
        }
    }
    let (mut reactor, address) = server(ListenOptions::new(), late);
    let mut stream = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
    for length in 1..=3 {
        stream.write_all(b"x").expect("our half still reads");
        turn_until(&mut reactor, "it was read", |r| r.app.got.len() == length);
    }
    turn_for(&mut reactor, Duration::from_millis(2));
    assert!(reactor.app.closed.is_empty(), "{:?}", reactor.app.closed);
    assert_eq!(read_all(&mut stream), b"");
}

#[test]
fn close_gives_the_peer_everything_and_no_reset_although_it_was_still_sending() {
    fn enough(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        if let Told::Data(input) = told {
            assert!(!ctx.app.got.ends_with(b"closed"), "no callback but on_close after close");
            ctx.app.got.extend_from_slice(b"closed");
            ctx.send(pattern(MUCH, 3));
            ctx.close();
            assert_eq!(ctx.send("late"), Flow::Closed);
            // What is left in the input is dropped like what still comes.
            let _ = input.split_to(1);
        }
    }
    let (mut reactor, address) = server(narrow(|_| {}), enough);
    let stream = peer(address);
    let mut writing = stream.try_clone().expect("cloned");
    let writer = beside(move || {
        // Half of what a closed connection is willing to discard.
        for _ in 0..8 {
            writing.write_all(&[7; 64 * 1024]).expect("no reset while it sends");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut reading = stream;
    let reader = beside(move || {
        let got = read_all(&mut reading);
        // The peer goes on for a while after it has seen our end.
        std::thread::sleep(Duration::from_millis(20));
        reading.write_all(&[7; 1000]).expect("no reset after the end");
        got
    });
    join(&mut reactor, writer);
    assert!(join(&mut reactor, reader) == pattern(MUCH, 3));
    turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(matches!(reactor.app.closed[..], [CloseReason::Local]));
    assert!(reactor.app.rest.is_empty(), "no on_eof after close");
}

#[test]
fn what_is_discarded_while_a_closed_connection_flushes_does_not_count_as_waiting_for_its_end() {
    fn enough(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        if let Told::Data(input) = told {
            input.clear();
            ctx.send(pattern(MUCH, 3));
            ctx.close();
        }
    }
    // Twice the discard limit.
    const SENT: usize = 2 << 20;
    // The flush may take a slow machine its time.
    let (mut reactor, address) = server(narrow(|o| o.close_timeout = DEADLINE), enough);
    let mut stream = peer(address);
    let writer = beside(move || {
        stream.write_all(&[7; SENT]).expect("it is discarded");
        stream
    });
    let mut stream = join(&mut reactor, writer);
    // The peer reads when all of that is gone, since what is still on its way when the flush ends does count. A little
    // more is sent at the end.
    turn_until(&mut reactor, "it is discarded", |r| r.net.stats().bytes_read == SENT as u64);
    assert!(reactor.app.closed.is_empty(), "or this test shows nothing");
    let far = beside(move || {
        let mut got = vec![0; MUCH - 1000];
        stream.read_exact(&mut got).expect("no reset");
        stream.write_all(&[7; 1000]).expect("no reset");
        std::thread::sleep(Duration::from_millis(30));
        got.extend_from_slice(&read_all(&mut stream));
        for _ in 0..3 {
            stream.write_all(&[7; 1000]).expect("no reset");
            std::thread::sleep(Duration::from_millis(20));
        }
        got
    });
    assert!(join(&mut reactor, far) == pattern(MUCH, 3));
}

#[test]
fn a_closed_connection_gives_its_descriptor_up_at_the_peers_end_at_the_deadline_or_past_the_byte_bound() {
    fn close(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        if let Told::Data(input) = told {
            input.clear();
            ctx.close();
        }
    }
    let options = |change: fn(&mut StreamOptions)| {
        ListenOptions::new().with(|o| {
            o.stream.close_timeout = Duration::from_secs(60);
            change(&mut o.stream);
        })
    };
    let gone = |r: &mut Reactor<App>| r.net.peer_address(r.app.opened[0]).is_none();
    let closing = |options| {
        let (mut reactor, address) = server(options, close);
        let mut stream = peer(address);
        stream.write_all(b"x").expect("sent");
        turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
        turn_for(&mut reactor, Duration::from_millis(20));
        assert!(!gone(&mut reactor), "it waits for the peer");
        (reactor, stream)
    };
    let (mut reactor, stream) = closing(options(|_| {}));
    drop(stream);
    turn_until(&mut reactor, "the peer's end", gone);

    let (mut reactor, _stream) = closing(options(|o| o.close_timeout = Duration::from_millis(60)));
    turn_until(&mut reactor, "the deadline", gone);

    let (mut reactor, mut stream) = closing(options(|o| o.discard_limit = 10_000));
    stream.write_all(&[7; 5000]).expect("sent");
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(!gone(&mut reactor), "within the bound");
    stream.write_all(&[7; 6000]).expect("sent");
    turn_until(&mut reactor, "the byte bound", gone);
    assert_eq!(reactor.app.closed.len(), 1);
}

#[test]
fn output_is_in_order_whatever_it_is_made_of() {
    fn mixed(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        match told {
            Told::Open => {
                let all = pattern(MUCH, 5);
                let shared = plimsoll::Bytes::from(all.clone());
                let mut at = 0;
                let mut len = 1;
                while at < all.len() {
                    let end = (at + len).min(all.len());
                    match at % 4 {
                        0 => ctx.send(&all[at..end]),
                        1 => ctx.send(all[at..end].to_vec()),
                        2 => ctx.send(shared.slice(at..end)),
                        _ => {
                            let slice = shared.slice(at..end);
                            ctx.send(&slice)
                        }
                    };
                    at = end;
                    len = len * 7 % 100_003;
                }
                ctx.shutdown();
            }
            Told::Eof(_) => {}
            _ => {}
        }
    }
    let (mut reactor, address) = server(narrow(|_| {}), mixed);
    let mut stream = peer(address);
    let reader = beside(move || read_all(&mut stream));
    assert!(join(&mut reactor, reader) == pattern(MUCH, 5));
}

#[test]
fn input_that_came_before_a_failed_write_is_still_read() {
    fn late(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        match told {
            Told::Data(input) => {
                ctx.app.got.extend_from_slice(&input.split());
                ctx.send("answer");
            }
            Told::Eof(_) => ctx.shutdown(),
            _ => {}
        }
    }
    let (mut reactor, address) = server(ListenOptions::new(), late);
    let mut stream = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
    let token = reactor.app.opened[0];
    stream.write_all(b"last words").expect("sent");
    support::reset(stream);
    // The write that fails comes before the read.
    reactor.net.send(token, "too late");
    reactor.net.flush(token);
    turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
    assert_eq!(reactor.app.got, b"last words");
    assert!(matches!(reactor.app.closed[..], [CloseReason::Error(_)]));
}

#[test]
fn neither_close_nor_stop_makes_an_orderly_end_of_one_whose_output_was_lost() {
    fn close(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        if let Told::Data(input) = told {
            ctx.app.got.extend_from_slice(&input.split());
            ctx.close();
        }
    }
    fn stop(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        if let Told::Data(input) = told {
            ctx.app.got.extend_from_slice(&input.split());
            ctx.net.stop();
        }
    }
    for told in [close as Fn, stop] {
        // With one read a turn the failure has not yet had its turn when the handler is called.
        let (mut reactor, address) = server(narrow(|o| o.read_budget = 1), told);
        let mut stream = peer(address);
        turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
        let token = reactor.app.opened[0];
        stream.write_all(b"last words").expect("sent");
        support::reset(stream);
        assert_eq!(reactor.net.send(token, "too late"), Flow::Open);
        reactor.net.flush(token);
        turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
        assert_eq!(reactor.app.got, b"last words");
        assert!(matches!(reactor.app.closed[..], [CloseReason::Error(_)]), "{:?}", reactor.app.closed);
    }
}
