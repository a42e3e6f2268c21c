//! Promise: what one peer does or does not do costs the server a bounded amount, and the others nothing.
//!
//! The peers here drip, never read, reset in every state, and vanish. The servers are the examples as they are built:
//! after each attack an ordinary peer is served at once, memory is within the marks, and all descriptors are back.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::examples::Server;
use support::{accept, full_listener, pattern, peer, reset, run_in_a_namespace, stuff, upstream};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What a process may grow by whatever happens: its allocator's habits, its tables.
const SLACK_BYTES: usize = 4 * MIB;

/// An echo and a relay in front of it. The echo is reached both ways.
fn echo_and_relay() -> [Server; 2] {
    let echo = Server::start("echo", &["127.0.0.1:0"]);
    let relay = Server::start("relay", &["127.0.0.1:0", &echo.address]);
    [echo, relay]
}

/// The relay first, whose upstream the echo is.
fn end(servers: [Server; 2]) {
    for server in servers.into_iter().rev() {
        server.ends_in_order();
    }
}

/// Connected and known to be served, so that the server has accepted it.
fn served(address: SocketAddr) -> TcpStream {
    let mut stream = peer(address);
    stream.write_all(b"!").expect("written");
    stream.read_exact(&mut [0]).expect("echoed");
    stream
}

/// What peers that do not read are given to send.
fn bulk() -> Vec<u8> {
    pattern(256 * KIB, 1)
}

#[test]
fn a_hundred_that_send_a_byte_now_and_then_slow_nobody_down() {
    let servers = echo_and_relay();
    for server in &servers {
        let (descriptors, memory) = (server.descriptors(), server.memory());
        let mut drips: Vec<_> = (0..100).map(|_| peer(server.ip())).collect();
        let busy = server.busy();
        let start = Instant::now();
        for byte in 0..20u8 {
            drips.iter_mut().for_each(|drip| drip.write_all(&[byte]).expect("written"));
            server.serves();
            thread::sleep(Duration::from_millis(50));
        }
        let share = (server.busy() - busy).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("busy {:.1} % of the time", 100.0 * share);
        assert!(share < 0.15, "2,000 bytes a second keep it busy: {share:.2} of the time");
        server.idles();
        assert!(server.memory() < memory + SLACK_BYTES, "{} bytes", server.memory());
        for drip in &mut drips {
            let mut answer = [0; 20];
            drip.read_exact(&mut answer).expect("each byte is echoed");
            assert!(answer.iter().copied().eq(0..20), "{answer:?}");
        }
        drop(drips);
        server.comes_back_to(descriptors);
    }
    end(servers);
}

#[test]
fn those_that_never_read_cost_at_most_their_mark() {
    const PEERS: usize = 16;
    // The high mark of echo, and of a relay for each of its two sides; one read comes on top.
    let servers = echo_and_relay();
    for (server, per_peer) in servers.iter().zip([MIB + 64 * KIB, 2 * 128 * KIB]) {
        let (descriptors, memory) = (server.descriptors(), server.memory());
        let stuffed = |_| {
            let address = server.ip();
            thread::spawn(move || {
                let stream = peer(address);
                let written = stuff(&stream, &bulk());
                (stream, written)
            })
        };
        let threads: Vec<_> = (0..PEERS).map(stuffed).collect();
        let stuffed: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("stuffed")).collect();
        let held = server.memory().saturating_sub(memory);
        assert!(held < PEERS * per_peer + SLACK_BYTES, "{held} bytes for {PEERS} peers");
        server.serves();
        server.idles();
        for (stream, written) in stuffed {
            assert!(written > MIB, "{written} bytes are less than the kernel holds");
            reset(stream);
        }
        server.comes_back_to(descriptors);
        server.serves();
    }
    end(servers);
}

#[test]
fn a_reset_in_any_state_ends_one_connection_and_nothing_else() {
    /// What a peer has done when it resets.
    const STATES: [fn(TcpStream) -> TcpStream; 7] = [
        // Connected, perhaps not accepted yet.
        |stream| stream,
        // Sent, perhaps not read yet.
        |mut stream| {
            stream.write_all(b"unread").expect("written");
            stream
        },
        // Served, and the answer read.
        |mut stream| {
            stream.write_all(b"!").expect("written");
            stream.read_exact(&mut [0]).expect("echoed");
            stream
        },
        // The answer waits in our kernel, unread.
        |mut stream| {
            stream.write_all(&pattern(64 * KIB, 2)).expect("written");
            stream.peek(&mut [0]).expect("some of it has come");
            stream
        },
        // Output queues in the server.
        |stream| {
            stuff(&stream, &bulk());
            stream
        },
        // Half-closed, with output queued.
        |stream| {
            stuff(&stream, &bulk());
            stream.shutdown(Shutdown::Write).expect("the half ends");
            stream
        },
        // Both halves ended.
        |mut stream| {
            stream.shutdown(Shutdown::Write).expect("the half ends");
            assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
            stream
        },
    ];
    let servers = echo_and_relay();
    for server in &servers {
        let descriptors = server.descriptors();
        for (state, reach) in STATES.into_iter().enumerate() {
            for _ in 0..5 {
                reset(reach(peer(server.ip())));
            }
            server.serves();
            server.comes_back_to(descriptors);
            println!("state {state} is survived");
        }
    }
    end(servers);
}

/// The relay's client is through to the upstream.
fn joined(relay: &Server, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = peer(relay.ip());
    (client, accept(listener))
}

#[test]
fn a_reset_on_either_side_of_a_relay_reaches_the_other() {
    let (listener, address) = upstream();
    let relay = Server::start("relay", &["127.0.0.1:0", &address.to_string()]);
    let descriptors = relay.descriptors();
    for queued in [false, true] {
        for client_resets in [true, false] {
            let (client, server) = joined(&relay, &listener);
            if queued {
                stuff(&client, &bulk());
                stuff(&server, &bulk());
            }
            let (resets, mut hears) = if client_resets { (client, server) } else { (server, client) };
            reset(resets);
            let mut rest = Vec::new();
            match hears.read_to_end(&mut rest) {
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
                other => panic!("a stream that was cut looks whole: {other:?}"),
            }
            relay.comes_back_to(descriptors);
        }
    }
    relay.ends_in_order();
}

#[test]
fn a_client_that_resets_while_its_upstream_is_being_reached_leaves_nothing() {
    let (full, address) = full_listener();
    let relay = Server::start("relay", &["127.0.0.1:0", &address.to_string(), "--connect-timeout", "20"]);
    let descriptors = relay.descriptors();
    for sends in [false, true] {
        let mut clients: Vec<_> = (0..5).map(|_| peer(relay.ip())).collect();
        if sends {
            clients.iter_mut().for_each(|client| client.write_all(b"in vain").expect("written"));
        }
        clients.into_iter().for_each(reset);
        let start = Instant::now();
        relay.comes_back_to(descriptors);
        assert!(start.elapsed() < Duration::from_secs(10), "not by the time-out of connecting");
    }
    drop(full);
    relay.ends_in_order();
}

/// Cuts every connection of the namespace without a word to either end, or joins them again.
fn loopback(state: &str) {
    let status = Command::new("ip").args(["link", "set", "lo", state]).status();
    assert!(status.is_ok_and(|status| status.success()), "ip link set lo {state}");
}

#[test]
fn those_that_vanish_without_a_word_end_by_the_idle_time_out() {
    run_in_a_namespace("those_that_vanish_without_a_word_end_by_the_idle_time_out", || {
        loopback("up");
        // Longer than a slow machine takes to have all of them served.
        let echo = Server::start("echo", &["127.0.0.1:0", "--idle-timeout", "4"]);
        let relay = Server::start("relay", &["127.0.0.1:0", &echo.address, "--idle-timeout", "4"]);
        let descriptors = [&echo, &relay].map(Server::descriptors);
        let mut peers: Vec<_> = (0..10).map(|_| served(echo.ip())).collect();
        peers.extend((0..10).map(|_| served(relay.ip())));
        // Some with much in flight.
        peers.iter().step_by(5).for_each(|peer| assert!(stuff(peer, &bulk()) > 0));
        loopback("down");
        echo.comes_back_to(descriptors[0]);
        relay.comes_back_to(descriptors[1]);
        loopback("up");
        // Back again, they learn that they are not known any more.
        for mut peer in peers {
            let _ = peer.write(b"back");
            while peer.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
        }
        for server in [relay, echo] {
            server.serves();
            server.ends_in_order();
        }
    });
}

#[test]
fn those_that_vanish_without_a_word_end_by_keep_alive_or_as_stalled() {
    run_in_a_namespace("those_that_vanish_without_a_word_end_by_keep_alive_or_as_stalled", || {
        loopback("up");
        const FRAME: usize = 16 * MIB;
        let times = ["--keep-alive", "1", "--stalled-timeout", "2", "--idle-timeout", "0", "--max-frame", "16777216"];
        let frames = Server::start_with_log("frames", &[&["127.0.0.1:0"], &times[..]].concat());
        let descriptors = frames.descriptors();
        let quiet = || {
            let mut quiet = peer(frames.ip());
            quiet.write_all(b"\0\0\0\x01!").expect("written");
            quiet.read_exact(&mut [0; 5]).expect("answered");
            quiet
        };
        let quiet: Vec<_> = (0..10).map(|_| quiet()).collect();
        // Whoever asks for much has much under way when it vanishes.
        let mut greedy = peer(frames.ip());
        greedy.write_all(&[&(FRAME as u32).to_be_bytes()[..], &pattern(FRAME, 1)].concat()).expect("written");
        greedy.read_exact(&mut [0]).expect("much begins to come");
        loopback("down");
        frames.comes_back_to(descriptors);
        frames.logs("Connection timed out (os error 110)", 10);
        frames.logs("output stalled for too long", 1);
        drop((quiet, greedy));
        loopback("up");
        frames.serves();
        frames.ends_in_order();
    });
}
