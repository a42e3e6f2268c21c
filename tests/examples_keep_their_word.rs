//! The examples as somebody meets them who types their commands: what they print, serve, refuse and how they end.
//!
//! `cargo test` builds the examples; for this file alone, `cargo build --examples` comes first.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};
use support::examples::{Server, example};
use support::{DEADLINE, accept, full_listener, pattern, peer, read_all, upstream};

fn output(name: &str, arguments: &[&str]) -> Output {
    example(name).args(arguments).output().expect("it starts")
}

/// That it cannot start: one line on stderr that names the trouble, nothing on stdout, exit code 1.
#[track_caller]
fn fails(name: &str, arguments: &[&str], trouble: &str) {
    let output = output(name, arguments);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with(&format!("{name}: ")) && stderr.contains(trouble), "{stderr}");
    assert!(output.stdout.is_empty());
}

/// That the command line is refused: nothing runs, and what is wrong is said.
#[track_caller]
fn refuses(name: &str, arguments: &[&str], trouble: &str) {
    let output = output(name, arguments);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(trouble), "{stderr}");
    assert!(output.stdout.is_empty());
}

fn exchange(mut stream: TcpStream, data: Vec<u8>) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a second handle");
    let writer = thread::spawn(move || {
        writer.write_all(&data).expect("written");
        writer.shutdown(Shutdown::Write).expect("the half ends");
    });
    let all = read_all(&mut stream);
    writer.join().expect("everything is written");
    all
}

#[test]
fn each_has_a_help() {
    let options = [
        ("echo", "--max-connections"),
        ("relay", "--max-connections"),
        ("frames", "--frame-timeout"),
        ("soak", "--minutes"),
    ];
    for (name, option) in options {
        let output = output(name, &["--help"]);
        assert_eq!(output.status.code(), Some(0));
        let help = String::from_utf8(output.stdout).expect("text");
        assert!(help.contains("Usage") && help.contains(option), "{help}");
        let version = self::output(name, &["--version"]);
        let named = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(String::from_utf8(version.stdout).as_deref(), Ok(&*named));
    }
}

/// A Unix socket to which the kernel gives a name that is free, as it gives a port for port 0.
#[test]
fn the_address_unix_alone_is_any_free_name() {
    for arguments in [&["echo", "unix:"][..], &["relay", "unix:", "127.0.0.1:1"], &["frames", "unix:"]] {
        let address = &Server::start(arguments[0], &arguments[1..]).address;
        assert!(address.strip_prefix("unix:@").is_some_and(|name| !name.is_empty()), "{address}");
    }
}

#[test]
fn what_keeps_one_from_starting_is_said_in_a_line() {
    let (_taken, taken) = upstream();
    fails("echo", &["nonsense"], "nonsense");
    fails("echo", &[&taken.to_string()], "in use");
    fails("echo", &["unix:/no/such/directory/socket"], "No such file");
    fails("relay", &["nonsense", "127.0.0.1:1"], "nonsense");
    fails("relay", &[&taken.to_string(), "127.0.0.1:1"], "in use");
    fails("frames", &["nonsense"], "nonsense");
    fails("frames", &[&taken.to_string()], "in use");
    fails("relay", &["127.0.0.1:0", "no upstream"], "relay: the upstream \"no upstream\"");
}

#[test]
#[cfg(not(feature = "crc32c"))]
fn frames_without_its_checksum_says_how_it_is_built_with_it() {
    fails("frames", &["127.0.0.1:0", "--trailer", "crc32c"], "cargo run --release --features crc32c --example frames");
}

#[test]
fn a_time_that_cannot_be_kept_is_refused() {
    for minutes in ["0", "-1", "0.001", "NaN", "inf", "1e300", "many"] {
        refuses("soak", &[&format!("--minutes={minutes}")], "'--minutes <MINUTES>'");
    }
    // Longer than the kernel can count.
    refuses("frames", &["127.0.0.1:0", "--keep-alive", "32768"], "is not in 0..=32767");
    refuses("relay", &["127.0.0.1:0", "127.0.0.1:1", "--connect-timeout", "0"], "is not in 1..");
    Server::start("frames", &["127.0.0.1:0", "--keep-alive", "32767"]).serves();
}

#[test]
fn echo_sends_back_what_it_gets_on_the_port_that_it_names() {
    let name = format!("unix:@plimsoll-example-{}", std::process::id());
    for arguments in [&["127.0.0.1:0"][..], &["127.0.0.1:0", "--split"], &["[::1]:0", "--idle-timeout", "30"]] {
        let server = Server::start("echo", arguments);
        assert_ne!(server.ip().port(), 0);
        assert!(exchange(peer(server.ip()), pattern(3_000_000, 1)) == pattern(3_000_000, 1));
    }
    assert_eq!(Server::start("echo", &[&name]).address, name);
}

#[test]
fn frames_answers_each_frame_with_its_own_under_every_header() {
    let payload = pattern(200, 4);
    for (header, length) in [
        ("u8", &[200][..]),
        ("u16be", &[0, 200]),
        ("u16le", &[200, 0]),
        ("u24be", &[0, 0, 200]),
        ("u24le", &[200, 0, 0]),
        ("u32be", &[0, 0, 0, 200]),
        ("u32le", &[200, 0, 0, 0]),
        ("u64be", &[0, 0, 0, 0, 0, 0, 0, 200]),
        ("u64le", &[200, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let server = Server::start("frames", &["127.0.0.1:0", "--header", header]);
        let frames = [length, &payload].concat().repeat(1000);
        assert!(exchange(peer(server.ip()), frames.clone()) == frames, "{header}");
        // Only whole frames are answered: the length alone is not.
        assert_eq!(exchange(peer(server.ip()), length.to_vec()), b"", "{header}");
        server.logs("the stream ended inside a frame", 1);
        server.ends_in_order();
    }
    let server = Server::start("frames", &["[::1]:0", "--max-frame", "5000000", "--max-connections", "1"]);
    let large = [&5_000_000_u32.to_be_bytes()[..], &pattern(5_000_000, 5)].concat();
    for _ in 0..2 {
        assert!(exchange(peer(server.ip()), large.clone()) == large);
    }
    let name = format!("unix:@plimsoll-frames-{}", std::process::id());
    assert_eq!(Server::start("frames", &[&name]).address, name);
}

#[test]
fn frames_answers_what_came_before_a_bad_frame_and_says_what_was_wrong() {
    let server = Server::start("frames", &["127.0.0.1:0", "--max-frame", "9"]);
    let good = b"\0\0\0\x09the ninth\0\0\0\0";
    let answered = exchange(peer(server.ip()), [good, &b"\0\0\0\x0athe tenth"[..]].concat());
    assert_eq!(answered, good);
    server.logs("a frame of 10 bytes is over the limit of 9", 1);
}

#[test]
fn frames_lets_an_idle_peer_go_only_by_its_time_out() {
    let server = Server::start("frames", &["127.0.0.1:0", "--idle-timeout", "2", "--frame-timeout", "1"]);
    let mut idle = peer(server.ip());
    idle.write_all(b"\0\0\0\x01x").expect("written");
    idle.read_exact(&mut [0; 5]).expect("answered");
    // Between frames no frame's time-out runs.
    let start = Instant::now();
    dropped(idle, Duration::from_secs(20));
    assert!(start.elapsed() > Duration::from_millis(1900), "{:?}", start.elapsed());
    server.ends_having_logged("WARN", 0);
}

#[test]
fn each_ends_with_zero_on_a_signal_when_what_is_queued_has_gone_out() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut echo = Server::start("echo", &["127.0.0.1:0"]);
        let idle = peer(echo.ip());
        let mut stream = peer(echo.ip());
        // Not read, so most of the echo waits in the server when the signal comes.
        stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a time-out");
        let data = pattern(30 << 20, 2);
        let mut written = 0;
        while let Ok(n) = stream.write(&data[written..]) {
            written += n;
        }
        assert!(written < data.len(), "the server takes all of it although nobody reads");
        echo.signal(signal);
        let mut read = Vec::new();
        // It has not read all that was written, so the end may well be an RST; what it took it has sent by then.
        let _ = stream.read_to_end(&mut read);
        assert!(data.starts_with(&read), "what came is not what was sent");
        assert!(read.len() > 1 << 20, "{} bytes", read.len());
        assert_eq!(echo.wait(), Some(0));
        assert_eq!((&idle).read(&mut [0]).expect("the end"), 0);
        let refused = TcpStream::connect(echo.ip()).expect_err("it is gone");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

        for arguments in [&["relay", "127.0.0.1:0", "127.0.0.1:1"][..], &["frames", "127.0.0.1:0"]] {
            let mut server = Server::start(arguments[0], &arguments[1..]);
            server.signal(signal);
            assert_eq!(server.wait(), Some(0));
        }
    }
}

#[test]
fn echo_that_was_told_to_stop_twice_stops_at_once() {
    let mut echo = Server::start("echo", &["127.0.0.1:0"]);
    let mut stuck = peer(echo.ip());
    stuck.set_write_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    while stuck.write(&[0; 64 * 1024]).is_ok() {}
    let start = Instant::now();
    echo.signal(Signal::SIGINT);
    // Two signals that come together count as one.
    while TcpStream::connect(echo.ip()).is_ok() {
        assert!(start.elapsed() < DEADLINE, "it goes on accepting");
    }
    assert!(echo.runs(), "it waits for its peer to read");
    echo.signal(Signal::SIGINT);
    assert_eq!(echo.wait(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(4), "not by the deadline: {:?}", start.elapsed());
}

#[test]
fn relay_carries_both_ways_and_each_end_by_itself() {
    let (listener, address) = upstream();
    for upstream in [address.to_string(), format!("localhost:{}", address.port())] {
        let relay = Server::start("relay", &["127.0.0.1:0", &upstream, "--high-water", "10000"]);
        let mut client = peer(relay.ip());
        client.write_all(b"request").expect("written");
        client.shutdown(Shutdown::Write).expect("the half ends");
        let mut server = accept(&listener);
        assert_eq!(read_all(&mut server), b"request");
        server.write_all(b"reply").expect("the other half is open");
        drop(server);
        assert_eq!(read_all(&mut client), b"reply");
    }
    let echo = Server::start("echo", &["127.0.0.1:0"]);
    let relay = Server::start("relay", &["127.0.0.1:0", &echo.address]);
    assert!(exchange(peer(relay.ip()), pattern(5_000_000, 3)) == pattern(5_000_000, 3));
}

#[test]
fn the_log_says_in_words_that_a_peer_has_no_name() {
    let name = format!("plimsoll-nameless-{}", std::process::id());
    let socket = format!("unix:@{name}");
    let frames = Server::start_with_log("frames", &[&socket]);
    let relay = Server::start_with_log("relay", &[&format!("{socket}-relay"), &socket]);
    let nameless = |name: &str| {
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        drop(UnixStream::connect_addr(&address).expect("it listens"));
    };
    nameless(&name);
    frames.logs("a peer without a name: ", 1);
    nameless(&format!("{name}-relay"));
    relay.logs("client without a name: ", 1);
    relay.logs(&format!("upstream {socket}: "), 1);
}

/// That the connection ends, in order or not, within a time that tells it from any time-out.
#[track_caller]
fn dropped(mut client: TcpStream, within: Duration) {
    // An error here says that it has been dropped already.
    let _ = client.set_read_timeout(Some(DEADLINE));
    let start = Instant::now();
    match client.read(&mut [0]) {
        Ok(0) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < within, "{:?}", start.elapsed());
}

#[test]
fn relay_drops_its_client_at_once_when_the_upstream_cannot_be_reached() {
    let (listener, address) = upstream();
    drop(listener);
    for upstream in [address.to_string(), "unix:/no/such/socket".into(), format!("localhost:{}", address.port())] {
        let relay = Server::start("relay", &["127.0.0.1:0", &upstream]);
        for _ in 0..3 {
            // It may be dropped before there is time to set anything on it.
            dropped(TcpStream::connect(relay.ip()).expect("accepted"), Duration::from_secs(2));
        }
        // Nobody has asked for a log, and whoever looks for what is wrong finds it.
        relay.logs("WARN", 3);
        relay.logs("upstream cannot be reached: ", 3);
    }
}

#[test]
fn relay_accepts_while_the_upstream_is_slow_and_gives_up_at_the_time_out() {
    let (full, address) = full_listener();
    let relay = Server::start("relay", &["127.0.0.1:0", &address.to_string(), "--connect-timeout", "1"]);
    let start = Instant::now();
    let mut clients: Vec<_> = (0..5).map(|_| peer(relay.ip())).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"waiting").expect("it is accepted"));
    clients.into_iter().for_each(|client| dropped(client, Duration::from_secs(5)));
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    drop(full);
}

#[test]
fn relay_ends_idle_pairs_and_leaves_those_over_the_limit_waiting() {
    let echo = Server::start("echo", &["127.0.0.1:0"]);
    let relay =
        Server::start("relay", &["127.0.0.1:0", &echo.address, "--idle-timeout", "1", "--max-connections", "1"]);
    let mut first = peer(relay.ip());
    let second = peer(relay.ip());
    first.write_all(b"x").expect("written");
    first.read_exact(&mut [0]).expect("echoed");
    second.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    // A read with a time-out is not restarted when the process was stopped for a moment: signal(7).
    let kind = loop {
        match (&second).read(&mut [0]).expect_err("it waits").kind() {
            ErrorKind::Interrupted => {}
            kind => break kind,
        }
    };
    assert_eq!(kind, ErrorKind::WouldBlock);
    dropped(first, Duration::from_secs(5));
    (&second).write_all(b"y").expect("written");
    second.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    (&second).read_exact(&mut [0]).expect("it has its turn");
}

#[test]
fn soak_finds_both_well_and_says_so() {
    let output = output("soak", &["--minutes", "0.05", "--every", "1", "--seed", "1"]);
    let said = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.starts_with("seed 1: ") && said.ends_with("\nverdict: well\n"), "{said}");
}

#[test]
fn soak_that_is_interrupted_gives_its_verdict_at_once() {
    let mut soak = example("soak").args(["--minutes", "60", "--every", "0.2"]).spawn().expect("it starts");
    let mut lines = BufReader::new(soak.stdout.take().expect("a pipe")).lines().map(|line| line.expect("text"));
    // A line with connections that are over: it is under way.
    assert!(lines.any(|line| line.contains("done") && !line.contains("done       0")), "it ends by itself");
    kill(Pid::from_raw(soak.id() as i32), Signal::SIGINT).expect("it runs");
    assert_eq!(lines.last().as_deref(), Some("verdict: well"));
    assert!(soak.wait().expect("it is ours").success());
}
