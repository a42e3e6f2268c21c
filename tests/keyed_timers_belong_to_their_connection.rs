//! Promise: a connection's own timers run in its handler, one for each key, and die with the connection.

mod support;

use bytes::BytesMut;
use plimsoll::{CloseReason, Ctx, Handler, Reactor, Token};
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};
use support::{address_of, peer, turn_for, turn_until};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct App {
    open: Vec<Token>,
    rung: Vec<(Token, u32, Instant)>,
    closed: usize,
}

/// Arms what its peer's first byte says, and notes what rings.
struct Ringing;

impl Handler<App> for Ringing {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.open.push(ctx.token);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        let order = input[0];
        input.clear();
        match order {
            b'1' => ctx.timer(1, 2 * MS),
            b'2' => ctx.timer(2, 4 * MS),
            b'm' => {
                ctx.timer(1, HOUR);
                ctx.timer(1, 2 * MS); // the same key moves the one timer
            }
            b'c' => {
                ctx.timer(1, MS);
                assert!(ctx.cancel_timer(1) && !ctx.cancel_timer(1) && !ctx.cancel_timer(2));
                ctx.timer(2, 3 * MS);
            }
            b'h' => (0..10).for_each(|key| ctx.timer(key, HOUR)),
            b'x' => {
                ctx.timer(1, Duration::ZERO);
                ctx.close();
                ctx.timer(2, Duration::ZERO);
            }
            b'a' => {
                ctx.timer(1, Duration::ZERO);
                ctx.abort();
                ctx.timer(2, Duration::ZERO);
            }
            order => panic!("unknown order {order}"),
        }
    }

    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, key: u32) {
        let now = ctx.now();
        ctx.app.rung.push((ctx.token, key, now));
        // Once is once: it is not armed now, and may be armed again.
        assert!(!ctx.cancel_timer(key));
        if key == 1 && ctx.app.rung.len() < 3 {
            ctx.timer(1, MS);
        }
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, _: CloseReason) {
        ctx.app.closed += 1;
        ctx.timer(1, Duration::ZERO); // arms nothing any more
    }
}

fn connected(peers: usize) -> (Reactor<App>, Vec<TcpStream>) {
    let mut reactor = Reactor::new(App::default()).unwrap();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Ringing)).unwrap();
    let address = address_of(&reactor, listener);
    let streams = (0..peers).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are open", |reactor| reactor.app.open.len() == peers);
    (reactor, streams)
}

/// Timers that the loop has, of whatever kind.
fn armed(reactor: &Reactor<App>) -> usize {
    let shown = format!("{:?}", reactor.net);
    let count = shown.split("timers: ").nth(1).and_then(|rest| rest.split(',').next());
    count.and_then(|count| count.parse().ok()).expect("the net shows its timers first")
}

#[test]
fn a_timer_rings_in_its_handler_and_may_be_armed_again_there() {
    let (mut reactor, mut peers) = connected(2);
    peers[0].write_all(b"1").unwrap();
    turn_until(&mut reactor, "three rings", |reactor| reactor.app.rung.len() == 3);
    turn_for(&mut reactor, 3 * MS);
    assert_eq!(reactor.app.rung.len(), 3);
    assert!(reactor.app.rung.iter().all(|(token, key, _)| (*token, *key) == (reactor.app.rung[0].0, 1)));
    assert!(reactor.app.rung.windows(2).all(|pair| pair[1].2 - pair[0].2 >= MS), "early");
    assert_eq!(armed(&reactor), 0);
}

#[test]
fn arming_a_key_again_moves_its_timer() {
    let (mut reactor, mut peers) = connected(1);
    reactor.app.rung.extend([(reactor.app.open[0], 9, Instant::now()); 3]); // so that nothing is armed again
    peers[0].write_all(b"m").unwrap();
    turn_until(&mut reactor, "the moved one", |reactor| reactor.app.rung.len() == 4);
    assert_eq!(armed(&reactor), 0, "there was one timer, and it has run");
}

#[test]
fn a_cancelled_key_does_not_ring_and_its_neighbour_does() {
    let (mut reactor, mut peers) = connected(1);
    peers[0].write_all(b"c").unwrap();
    turn_until(&mut reactor, "the neighbour", |reactor| !reactor.app.rung.is_empty());
    turn_for(&mut reactor, 3 * MS);
    assert_eq!(reactor.app.rung.iter().map(|rung| rung.1).collect::<Vec<_>>(), [2]);
}

#[test]
fn timers_of_one_connection_are_nobody_elses() {
    let (mut reactor, mut peers) = connected(2);
    peers[0].write_all(b"1").unwrap();
    peers[1].write_all(b"2").unwrap();
    turn_until(&mut reactor, "both ring", |reactor| reactor.app.rung.iter().any(|rung| rung.1 == 2));
    let of = |key| reactor.app.rung.iter().filter(move |rung| rung.1 == key).map(|rung| rung.0).collect::<Vec<_>>();
    assert!(of(1).iter().all(|token| !of(2).contains(token)));
}

#[test]
fn however_a_connection_ends_its_timers_end_with_it() {
    for order in [b"x", b"a"] {
        let (mut reactor, mut peers) = connected(1);
        peers[0].write_all(order).unwrap();
        turn_until(&mut reactor, "it closes", |reactor| reactor.app.closed == 1);
        drop(peers);
        turn_until(&mut reactor, "nothing is left", |reactor| armed(reactor) == 0);
        assert!(reactor.app.rung.is_empty(), "a timer rang in a closed connection");
    }
    let (mut reactor, mut peers) = connected(1);
    peers[0].write_all(b"h").unwrap();
    turn_until(&mut reactor, "ten are armed", |reactor| armed(reactor) == 10);
    drop(peers); // and the handler ends its half as well
    turn_until(&mut reactor, "it closes", |reactor| reactor.app.closed == 1);
    assert_eq!(armed(&reactor), 0);
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn a_timer_that_is_due_when_its_connection_is_closed_by_another_timer_does_not_ring() {
    let (mut reactor, mut peers) = connected(1);
    peers[0].write_all(b"2").unwrap();
    turn_until(&mut reactor, "it is armed", |reactor| armed(reactor) == 1);
    let token = reactor.app.open[0];
    reactor.net.after(MS, move |lp| lp.abort(token));
    thread::sleep(10 * MS); // the loop is late: both are due in one turn, the abort first
    reactor.turn(None).unwrap();
    turn_for(&mut reactor, 3 * MS);
    assert!(reactor.app.rung.is_empty() && reactor.app.closed == 1);
}
