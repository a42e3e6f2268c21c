//! The test kit from a user's side: a handler of one's own in a simulated world.
//!
//! The goal: what the documentation of `plimsoll::sim` says is so. The method: small programs as a user would write
//! them, in every weather.

use plimsoll::fault::{self, Call, Fault, Part, Plan};
use plimsoll::sim::{Peer, Weather, World};
use plimsoll::{Address, BytesMut, CloseReason, Ctx, DialOptions, Handler, Reactor, StreamOptions};
use std::time::Duration;

fn address(text: &str) -> Address {
    text.parse().expect("an address")
}

/// Counts what it is told.
#[derive(Debug, Default)]
struct Seen {
    input: Vec<u8>,
    reasons: Vec<String>,
}

struct Reader;

impl Handler<Seen> for Reader {
    fn on_data(&mut self, ctx: &mut Ctx<Seen>, input: &mut BytesMut) {
        ctx.app.input.extend_from_slice(input);
        input.clear();
    }

    fn on_close(&mut self, ctx: &mut Ctx<Seen>, why: CloseReason) {
        ctx.app.reasons.push(why.to_string());
        ctx.stop();
    }
}

#[test]
fn an_hour_of_silence_takes_no_time() {
    let began = std::time::Instant::now();
    let world = World::new(1);
    let mut reactor = Reactor::new(Seen::default()).unwrap();
    let options = plimsoll::ListenOptions::default().with(|o| o.stream.idle_timeout = Some(Duration::from_secs(3_600)));
    reactor.net.listen_with("10.0.0.1:7", options, |_, _| Some(Reader)).unwrap();
    let peer = world.connect("10.0.0.1:7");
    peer.send(b"hello");
    reactor.run().unwrap();
    assert_eq!(reactor.app.input, b"hello");
    assert_eq!(reactor.app.reasons, [CloseReason::Idle.to_string()]);
    assert!(world.elapsed() >= Duration::from_secs(3_600));
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_stream_arrives_whole_in_any_weather() {
    let sent: Vec<u8> = (0..50_000u32).map(|n| ((n * n) >> 3) as u8).collect();
    for (weather, seeds) in [(Weather::calm(), 1), (Weather::windy(), 50), (Weather::stormy(), 50)] {
        for seed in 0..seeds {
            let world = World::with_weather(seed, Weather { shortages: 0, accept_failures: 0, ..weather.clone() });
            let mut reactor = Reactor::new(Seen::default()).unwrap();
            reactor.net.listen("10.0.0.1:7", |_, _| Some(Reader)).unwrap();
            let peer = world.connect("10.0.0.1:7");
            peer.send(&sent);
            peer.shutdown();
            reactor.run().unwrap();
            assert!(reactor.app.input == sent, "seed {seed} in {weather:?}");
            assert_eq!(reactor.app.reasons, [CloseReason::Done.to_string()]);
        }
    }
}

#[test]
fn two_runs_of_one_seed_leave_the_same_trace() {
    let trace = |seed| {
        let world = World::with_weather(seed, Weather { shortages: 0, ..Weather::stormy() });
        let mut reactor = Reactor::new(()).unwrap();
        reactor.net.serve("10.0.0.1:7", |ctx, input| _ = ctx.send(input.split())).unwrap();
        for _ in 0..5 {
            let peer = world.connect("10.0.0.1:7");
            peer.echoes();
            peer.send(&[1; 1_000]);
        }
        reactor.net.after(Duration::from_millis(20), |lp| lp.net.stop());
        reactor.run().unwrap();
        world.trace()
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}

#[test]
fn a_loop_that_would_sleep_for_ever_is_told_so() {
    let _world = World::new(1);
    let mut reactor = Reactor::new(()).unwrap();
    reactor.net.serve("10.0.0.1:7", |_, _| {}).unwrap();
    assert_eq!(reactor.run().unwrap_err().kind(), std::io::ErrorKind::Deadlock);
}

#[test]
fn a_peer_that_vanishes_is_found_out_by_the_stalled_timeout() {
    let world = World::new(9);
    let mut reactor = Reactor::new(Seen::default()).unwrap();
    let options = StreamOptions::default().with(|o| o.stalled_timeout = Some(Duration::from_secs(30)));
    let harbor = world.listen("10.0.0.2:80").unwrap();
    let token = reactor.net.connect_with("10.0.0.2:80", options, Reader);
    reactor.net.send(token, vec![0; 1 << 20]);
    world.after(Duration::from_millis(1), move |_| harbor.accept().expect("it is connected").vanish());
    reactor.run().unwrap();
    assert_eq!(reactor.app.reasons, [CloseReason::Stalled.to_string()]);
}

#[test]
fn a_dialer_finds_the_server_that_comes_up_late() {
    let world = World::new(4);
    world.host("db", &[[10, 0, 0, 9].into()]);
    let mut reactor = Reactor::new(()).unwrap();
    reactor.net.dial("db:5432", DialOptions::default(), |_| |_: &mut Ctx, input: &mut BytesMut| input.clear());
    world.after(Duration::from_secs(5), |world| world.listen("10.0.0.9:5432").unwrap().echoes());
    reactor.net.after(Duration::from_secs(60), |lp| lp.net.stop());
    reactor.run().unwrap();
    let stats = reactor.net.stats();
    assert!(stats.connect_failures > 1, "refused until somebody listened");
    assert_eq!(stats.connects, stats.connect_failures + 1);
}

#[test]
fn mail_and_offloaded_work_keep_to_the_worlds_clock() {
    let world = World::new(5);
    let mut reactor = Reactor::new(Vec::<&str>::new()).unwrap();
    let mailbox = reactor.net.mailbox();
    world.after(Duration::from_secs(10), move |_| {
        mailbox.post(|lp| lp.app.push("mail")).expect("there is room");
    });
    reactor.net.after(Duration::from_secs(20), |lp| {
        lp.net
            .offload(
                || 7,
                |lp, seven| {
                    assert_eq!(seven.unwrap(), 7);
                    lp.app.push("work");
                    lp.net.stop();
                },
            )
            .expect("there is room");
    });
    reactor.run().unwrap();
    assert_eq!(reactor.app, ["mail", "work"]);
    assert!(world.elapsed() >= Duration::from_secs(20));
}

#[test]
fn descriptors_run_out_where_the_world_says() {
    let world = World::calm();
    let mut reactor = Reactor::new(()).unwrap();
    reactor.net.serve("10.0.0.1:7", |_, _| {}).unwrap();
    world.limit_descriptors(world.open_descriptors() + 2);
    let peers: Vec<_> = (0..5).map(|_| world.connect("10.0.0.1:7")).collect();
    for _ in 0..20 {
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    assert_eq!(peers.iter().filter(|peer| peer.has_ended() || peer.error().is_some()).count(), 3);
    assert_eq!(reactor.net.stats().refused, 3);
}

#[test]
fn datagrams_come_back() {
    let world = World::with_weather(6, Weather { shortages: 0, ..Weather::stormy() });
    let mut reactor = Reactor::new(()).unwrap();
    reactor
        .net
        .udp("10.0.0.1:53", |ctx, datagram| {
            let token = ctx.token;
            ctx.net.send_to(token, &datagram.from, datagram.data);
        })
        .unwrap();
    let peer = world.datagrams("10.0.0.7:4000").unwrap();
    for n in 0..20u8 {
        peer.send("10.0.0.1:53", &[n; 100]).unwrap();
    }
    reactor.net.after(Duration::from_secs(1), |lp| lp.net.stop());
    reactor.run().unwrap();
    for n in 0..20u8 {
        assert_eq!(peer.receive(), Some((address("10.0.0.1:53"), vec![n; 100])));
    }
}

#[test]
fn a_peer_that_has_ended_itself_still_knows_what_it_knew() {
    for to in ["10.0.0.1:7", "unix:/run/greeter"] {
        for end in [Peer::close, Peer::reset] {
            let world = World::calm();
            let mut reactor = Reactor::new(Seen::default()).unwrap();
            reactor
                .net
                .listen(to, |ctx, _| {
                    ctx.send("hello".as_bytes());
                    ctx.shutdown();
                    Some(Reader)
                })
                .unwrap();
            let peer = world.connect(to);
            peer.takes();
            world.after(Duration::from_secs(1), move |_| end(peer));
            reactor.run().unwrap();
            world.pass(Duration::from_secs(1));
            assert_eq!(peer.received(), b"hello");
            assert!(peer.has_connected() && peer.has_ended() && peer.is_over());
            assert_eq!(peer.local_address().is_some(), to.starts_with("10"));
            assert!(peer.error().is_none(), "it was its own doing");
        }
    }
}

#[test]
fn a_refused_peer_knows_why_when_it_has_closed() {
    let world = World::calm();
    let peer = world.connect("10.0.0.1:7");
    peer.close();
    assert_eq!(peer.error().unwrap().kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!peer.has_connected());
}

#[test]
fn a_second_world_is_refused_and_the_first_lives_on() {
    let world = World::new(1);
    world.pass(Duration::from_secs(1));
    let panicked = std::panic::catch_unwind(|| World::new(2)).unwrap_err();
    assert_eq!(panicked.downcast_ref(), Some(&"this thread has a World already: drop it first"));
    assert!(world.elapsed() >= Duration::from_secs(1));
    drop(world);
    World::new(2);
}

#[test]
fn a_misuse_is_reported_where_the_test_has_made_it() {
    let peer = World::calm().connect("10.0.0.1:7");
    let place = std::sync::Arc::new(std::sync::Mutex::new(None));
    let noted = std::sync::Arc::clone(&place);
    let me = std::thread::current().id();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match std::thread::current().id() == me {
        true => *noted.lock().unwrap() = info.location().map(|at| at.file().to_owned()),
        false => before(info),
    }));
    for misuse in [|peer: Peer| _ = peer.received(), |peer: Peer| peer.takes(), |peer: Peer| peer.send(b"x")] {
        assert!(std::panic::catch_unwind(|| misuse(peer)).is_err());
        assert_eq!(place.lock().unwrap().take().as_deref(), Some(file!()));
    }
}

#[test]
fn what_is_cut_off_a_send_goes_out_a_moment_later() {
    for to in ["10.0.0.1:7", "unix:/run/greeter"] {
        let world = World::calm();
        let mut reactor = Reactor::new(()).unwrap();
        reactor.net.serve(to, |ctx, input| _ = ctx.send(input.split())).unwrap();
        let peer = world.connect(to);
        peer.takes();
        peer.send(b"hello");
        world.after(Duration::from_millis(50), move |_| assert_eq!(peer.received(), b"hello"));
        fault::install(Plan::new().with(Call::Send, 1, Fault::Cut(Part::OneByte)));
        reactor.net.after(Duration::from_millis(100), |lp| lp.net.stop());
        reactor.run().unwrap();
        assert_eq!(fault::remove().unwrap().unmet().next(), None);
    }
}

#[test]
fn settle_ends_when_all_is_at_rest() {
    let world = World::new(7);
    let mut reactor = Reactor::new(()).unwrap();
    reactor.net.serve("10.0.0.1:7", |ctx, input| _ = ctx.send(input.split())).unwrap();
    let peer = world.connect("10.0.0.1:7");
    peer.takes();
    peer.send(&[7; 10_000]);
    world.settle(&mut reactor).unwrap();
    assert_eq!(peer.received().len(), 10_000);
    peer.send(b"more");
    world.settle(&mut reactor).unwrap();
    assert_eq!(peer.received().len(), 10_004);
}

#[test]
fn peers_of_two_worlds_are_never_the_same() {
    let old = World::calm().connect("10.0.0.1:7");
    let world = World::calm();
    let new = world.connect("10.0.0.1:7");
    assert_ne!(old, new);
    assert!(new.error().is_some() && old.error().is_none(), "one world knows nothing of the other");
}

#[test]
#[should_panic(expected = "a send_buffer of no bytes takes none")]
fn a_weather_in_which_nothing_moves_is_refused() {
    World::with_weather(1, Weather { send_buffer: 0..=0, ..Weather::calm() });
}

#[test]
#[should_panic(expected = "receive_buffer ends before it begins: 9..=3")]
#[allow(clippy::reversed_empty_ranges)]
fn a_weather_in_disorder_is_refused() {
    World::calm().set_weather(Weather { receive_buffer: 9..=3, ..Weather::calm() });
}

#[test]
#[should_panic(expected = "nobody at unix:/run/me can connect to 10.0.0.1:7")]
fn a_path_does_not_connect_to_a_port() {
    World::calm().connect_from("unix:/run/me", "10.0.0.1:7");
}

#[test]
#[should_panic(expected = "`10.0.0.1`")]
fn what_is_no_address_is_told_at_once() {
    World::calm().connect("10.0.0.1");
}
