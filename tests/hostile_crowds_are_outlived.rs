//! Promise: a crowd costs a server its time and nothing else: when it has gone, memory and descriptors are back, and
//! while it is there the others are served.
//!
//! The servers are the examples as they are built. Ten thousand connect and close; one floods beside a hundred polite
//! ones; more come than there are descriptors, and stay.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use support::examples::Server;
use support::{DEADLINE, pattern, peer, reset};

const MIB: usize = 1024 * 1024;

/// What a process may keep when a crowd has gone: its allocator's habits, the tables of its peak.
const SLACK_BYTES: usize = 4 * MIB;

/// The tests take turns: each is about time, and would disturb the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ten thousand, half of them with an RST, some with a byte first.
fn storm(address: SocketAddr) {
    const THREADS: usize = 4;
    const EACH: usize = 2_500;
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            thread::spawn(move || {
                for number in 0..EACH {
                    let mut stream = TcpStream::connect(address).expect("the backlog has room in the end");
                    if number % 3 == 0 {
                        // It may have been refused already.
                        let _ = stream.write(b"!");
                    }
                    if number % 2 == 0 {
                        reset(stream);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("its part of the storm"));
}

#[test]
fn a_storm_of_ten_thousand_that_connect_and_close_leaves_nothing() {
    let _alone = alone();
    let echo = Server::start("echo", &["127.0.0.1:0"]);
    let relay = Server::start("relay", &["127.0.0.1:0", &echo.address]);
    let before = [&echo, &relay].map(|server| (server.descriptors(), server.memory()));
    for server in [&echo, &relay] {
        storm(server.ip());
        server.serves();
    }
    for (server, (descriptors, memory)) in [&echo, &relay].into_iter().zip(before) {
        server.comes_back_to(descriptors);
        let left = server.memory().saturating_sub(memory);
        assert!(left < SLACK_BYTES, "{left} bytes are left of a storm");
        server.serves();
    }
    relay.ends_in_order();
    echo.ends_in_order();
}

/// The 99th percentile of round trips: `rounds` on each of the connections, one at a time.
fn p99(polite: &mut [TcpStream], rounds: usize) -> Duration {
    let mut trips = Vec::new();
    let (message, mut answer) = (pattern(64, 3), [0; 64]);
    for _ in 0..rounds {
        for stream in &mut *polite {
            let start = Instant::now();
            stream.write_all(&message).expect("written");
            stream.read_exact(&mut answer).expect("echoed");
            trips.push(start.elapsed());
            assert!(answer[..] == message, "an answer is somebody else's");
        }
    }
    trips.sort();
    trips[trips.len() * 99 / 100]
}

/// Sends as fast as it is taken, and reads as fast as it comes, until told to end; how many bytes came back.
fn flood(address: SocketAddr, over: &Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    let over = over.clone();
    let mut stream = peer(address);
    let mut reader = stream.try_clone().expect("a second handle");
    let read = thread::spawn(move || {
        let mut buffer = vec![0; MIB];
        let mut total = 0;
        // The end may be an RST, since the writer does not wait for what it has sent.
        while let Ok(n @ 1..) = reader.read(&mut buffer) {
            total += n;
        }
        total
    });
    thread::spawn(move || {
        let data = pattern(MIB, 4);
        while !over.load(Ordering::SeqCst) {
            stream.write_all(&data).expect("taken in the end");
        }
        reset(stream.try_clone().expect("another handle"));
        let _ = stream.shutdown(std::net::Shutdown::Both);
        read.join().expect("the flood is read")
    })
}

#[test]
fn a_flood_from_one_lets_a_hundred_others_be_served() {
    let _alone = alone();
    let echo = Server::start("echo", &["127.0.0.1:0"]);
    let relay = Server::start("relay", &["127.0.0.1:0", &echo.address]);
    for server in [&echo, &relay] {
        let mut polite: Vec<_> = (0..100).map(|_| peer(server.ip())).collect();
        let calm = p99(&mut polite, 10);
        let over = Arc::new(AtomicBool::new(false));
        let flood = flood(server.ip(), &over);
        let flooded = p99(&mut polite, 10);
        over.store(true, Ordering::SeqCst);
        let bytes = flood.join().expect("the flood ends");
        println!("p99 {calm:?}, beside a flood of {} MiB {flooded:?}", bytes / MIB);
        assert!(bytes > MIB, "{bytes} bytes are no flood");
        // A turn reads at most 256 KiB from the flood. The rest of it is for a machine that does other things too.
        let bound = 20 * calm + Duration::from_millis(200);
        assert!(flooded < bound, "beside a flood p99 is {flooded:?}, without {calm:?}");
    }
    relay.ends_in_order();
    echo.ends_in_order();
}

/// How long a server stays at its limit. `PLIMSOLL_AT_LIMIT_SECONDS` asks for more than a test has time for.
fn at_limit() -> Duration {
    let asked = std::env::var("PLIMSOLL_AT_LIMIT_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(asked.unwrap_or(5))
}

/// How the server answers one more peer.
fn refused(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).expect("the kernel accepts it");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let _ = stream.write(b"?");
    match stream.read(&mut [0]) {
        Ok(0) => true,
        Err(e) if e.kind() == ErrorKind::ConnectionReset => true,
        Ok(_) => false,
        Err(e) => panic!("neither served nor refused: {e}"),
    }
}

#[test]
fn a_server_at_its_descriptor_limit_refuses_serves_and_idles() {
    const LIMIT: usize = 64;
    let _alone = alone();
    let upstream = Server::start("echo", &["127.0.0.1:0"]);
    let echo = Server::start_with_descriptors(LIMIT, "echo", &["127.0.0.1:0"]);
    let relay = Server::start_with_descriptors(LIMIT, "relay", &["127.0.0.1:0", &upstream.address]);
    for server in [&echo, &relay] {
        let descriptors = server.descriptors();
        let mut inside = Vec::new();
        // Until one is refused: a peer costs one descriptor, or two in a relay.
        loop {
            let mut stream = TcpStream::connect(server.ip()).expect("the kernel accepts it");
            stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
            let _ = stream.write(b"!");
            match stream.read(&mut [0]) {
                Ok(1) => inside.push(stream),
                _ => break,
            }
            assert!(inside.len() < LIMIT, "the limit does not hold");
        }
        assert!(inside.len() >= LIMIT / 2 - 8, "only {} peers", inside.len());
        let (busy, start) = (server.busy(), Instant::now());
        let mut turned_away = 0;
        while start.elapsed() < at_limit() {
            for _ in 0..5 {
                assert!(refused(server.ip()), "there was room after all");
                turned_away += 1;
            }
            for stream in &mut inside {
                stream.write_all(b"?").expect("written");
                stream.read_exact(&mut [0]).expect("those inside are served");
            }
            thread::sleep(Duration::from_millis(200));
        }
        let share = (server.busy() - busy).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("{} inside, {turned_away} turned away, busy {:.1} % of the time", inside.len(), 100.0 * share);
        assert!(share < 0.05, "busy {share:.2} of the time");
        server.idles();
        drop(inside);
        server.comes_back_to(descriptors);
        server.serves();
    }
    relay.ends_in_order();
    echo.ends_in_order();
    upstream.ends_in_order();
}

#[test]
fn peers_over_the_limit_of_connections_wait_without_cost_and_have_their_turn() {
    let _alone = alone();
    let echo = Server::start("echo", &["127.0.0.1:0", "--max-connections", "20"]);
    let descriptors = echo.descriptors();
    let mut inside: Vec<_> = (0..20).map(|_| peer(echo.ip())).collect();
    for stream in &mut inside {
        stream.write_all(b"!").expect("written");
        stream.read_exact(&mut [0]).expect("echoed");
    }
    let mut waiting: Vec<_> = (0..100).map(|_| peer(echo.ip())).collect();
    waiting.iter_mut().for_each(|stream| stream.write_all(b"?").expect("written"));
    echo.idles();
    drop(inside);
    for mut stream in waiting {
        stream.read_exact(&mut [0]).expect("its turn comes");
    }
    echo.comes_back_to(descriptors);
    echo.ends_in_order();
}
