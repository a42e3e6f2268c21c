//! Promise: a signal that is asked for runs a closure on the loop, whatever thread it came to; the process's mask is
//! left alone; and SIGPIPE and SIGHUP are ignored unless the options say otherwise.
//!
//! Signals belong to the process, so each test runs in a child of its own.

mod support;

use nix::sys::signal::{SigHandler, Signal, kill, raise};
use nix::unistd::Pid;
use plimsoll::{Reactor, ReactorOptions, signum};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};
use support::{DEADLINE, address_of, in_a_child, peer, turn_until};

/// Whether a process has `signum` in one of the sets of proc(5): SigBlk, SigIgn, SigCgt.
fn listed(status: &str, set: &str, signum: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':')).expect("a set of that name");
    u64::from_str_radix(mask.trim(), 16).expect("a mask in hexadecimal") & 1 << (signum - 1) != 0
}

fn own_status() -> String {
    fs::read_to_string("/proc/self/status").unwrap()
}

/// As a program has it that was not started by Rust, whose runtime ignores SIGPIPE.
#[expect(unsafe_code, reason = "signal(2); no handler is set that could do harm")]
fn reset_to_default(signal: Signal) {
    // SAFETY: the default disposition runs no code of this process.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.unwrap();
}

#[test]
fn a_signal_runs_its_closure_on_the_loop_each_time_it_comes() {
    in_a_child("a_signal_runs_its_closure_on_the_loop_each_time_it_comes", || {
        let mut reactor = Reactor::new(Vec::new()).unwrap();
        let here = thread::current().id();
        for signum in [signum::USR1, signum::USR2, signum::WINCH, signum::CHLD, signum::HUP] {
            reactor
                .net
                .on_signal(signum, move |lp| {
                    assert_eq!(thread::current().id(), here);
                    lp.app.push(signum);
                })
                .unwrap();
        }
        for expected in 1..=3 {
            raise(Signal::SIGUSR1).unwrap();
            reactor.turn(Some(DEADLINE)).unwrap();
            assert_eq!(reactor.app.len(), expected);
        }
        reactor.app.clear();
        for signal in [Signal::SIGWINCH, Signal::SIGHUP, Signal::SIGWINCH] {
            raise(signal).unwrap();
        }
        reactor.turn(Some(DEADLINE)).unwrap();
        assert_eq!(reactor.app, [signum::HUP, signum::WINCH], "each once, though one came twice");
    });
}

#[test]
fn a_signal_to_any_thread_wakes_a_sleeping_loop() {
    in_a_child("a_signal_to_any_thread_wakes_a_sleeping_loop", || {
        let mut reactor = Reactor::new(0).unwrap();
        reactor.net.on_signal(signum::USR1, |lp| *lp.app += 1).unwrap();
        let began = Instant::now();
        for round in 0..200 {
            let sender = thread::spawn(|| raise(Signal::SIGUSR1).unwrap());
            while reactor.app == round {
                reactor.turn(Some(DEADLINE)).unwrap();
                assert!(began.elapsed() < DEADLINE, "slept through a signal");
            }
            sender.join().unwrap();
        }
    });
}

#[test]
fn a_child_that_ends_is_told_by_its_signal() {
    in_a_child("a_child_that_ends_is_told_by_its_signal", || {
        let mut reactor = Reactor::new(None).unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        let mut waited = move || child.try_wait().unwrap();
        reactor.net.on_signal(signum::CHLD, move |lp| *lp.app = waited()).unwrap();
        // It may have ended before anybody listened.
        let mut second = Command::new("true").spawn().unwrap();
        turn_until(&mut reactor, "the child's end", |reactor| reactor.app.is_some_and(|status| status.success()));
        second.wait().unwrap();
    });
}

#[test]
fn sigterm_stops_the_loop_gracefully_and_a_second_one_cuts_it_short() {
    in_a_child("sigterm_stops_the_loop_gracefully_and_a_second_one_cuts_it_short", || {
        let mut reactor = Reactor::new(0).unwrap();
        reactor.net.stop_on_signals().unwrap();
        raise(Signal::SIGTERM).unwrap();
        reactor.run().unwrap();

        // A connection whose peer does not read cannot be flushed; the stop waits for it, until the second.
        let listener = reactor
            .net
            .serve("127.0.0.1:0", |ctx, input| {
                input.clear();
                ctx.send(vec![0; 32 << 20]);
                ctx.app.clone_from(&1);
            })
            .unwrap();
        let mut stream = peer(address_of(&reactor, listener));
        stream.write_all(b"?").unwrap();
        turn_until(&mut reactor, "output is queued", |reactor| reactor.app == 1);
        let began = reactor.net.now();
        raise(Signal::SIGINT).unwrap();
        reactor.net.after(Duration::from_millis(20), |_| raise(Signal::SIGTERM).unwrap());
        reactor.run().unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "it waited for the deadline");
        assert!(began.elapsed() >= Duration::from_millis(20), "it did not wait at all");
    });
}

#[test]
fn a_signal_belongs_to_the_first_reactor_that_asks_until_that_is_gone() {
    in_a_child("a_signal_belongs_to_the_first_reactor_that_asks_until_that_is_gone", || {
        let mut first = Reactor::new(0).unwrap();
        let mut second = Reactor::new(0).unwrap();
        first.net.on_signal(signum::USR1, |lp| *lp.app += 1).unwrap();
        let refused = second.net.on_signal(signum::USR1, |lp| *lp.app += 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBUSY));
        second.net.on_signal(signum::USR2, |lp| *lp.app += 10).unwrap();
        raise(Signal::SIGUSR1).unwrap();
        raise(Signal::SIGUSR2).unwrap();
        first.turn(Some(DEADLINE)).unwrap();
        second.turn(Some(DEADLINE)).unwrap();
        assert_eq!((first.app, second.app), (1, 10));
        drop(first);
        second.net.on_signal(signum::USR1, |lp| *lp.app += 1).unwrap();
        raise(Signal::SIGUSR1).unwrap();
        second.turn(Some(DEADLINE)).unwrap();
        assert_eq!(second.app, 11);
        for signum in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 0, 99] {
            let refused = second.net.on_signal(signum, |_| ()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EINVAL), "signal {signum}");
        }
    });
}

#[test]
fn sigpipe_and_sighup_are_ignored_once_there_is_a_reactor() {
    in_a_child("sigpipe_and_sighup_are_ignored_once_there_is_a_reactor", || {
        reset_to_default(Signal::SIGPIPE);
        reset_to_default(Signal::SIGHUP);
        assert!(!listed(&own_status(), "SigIgn", signum::PIPE) && !listed(&own_status(), "SigIgn", signum::HUP));
        let _reactor = Reactor::new(()).unwrap();
        assert!(listed(&own_status(), "SigIgn", signum::PIPE) && listed(&own_status(), "SigIgn", signum::HUP));
        raise(Signal::SIGPIPE).unwrap();
        raise(Signal::SIGHUP).unwrap();
    });
}

#[test]
fn either_is_left_alone_if_the_options_say_so() {
    in_a_child("either_is_left_alone_if_the_options_say_so", || {
        reset_to_default(Signal::SIGPIPE);
        reset_to_default(Signal::SIGHUP);
        let options = ReactorOptions::new().with(|o| o.ignore_sighup = false);
        let first = Reactor::with_options((), options).unwrap();
        assert!(listed(&own_status(), "SigIgn", signum::PIPE) && !listed(&own_status(), "SigIgn", signum::HUP));
        drop(first);
        reset_to_default(Signal::SIGPIPE);
        let options = ReactorOptions::new().with(|o| o.ignore_sigpipe = false);
        let _second = Reactor::with_options((), options).unwrap();
        assert!(!listed(&own_status(), "SigIgn", signum::PIPE) && listed(&own_status(), "SigIgn", signum::HUP));
    });
}

#[test]
fn sends_to_a_peer_that_is_gone_raise_no_sigpipe_even_if_it_is_not_ignored() {
    in_a_child("sends_to_a_peer_that_is_gone_raise_no_sigpipe_even_if_it_is_not_ignored", || {
        reset_to_default(Signal::SIGPIPE);
        let options = ReactorOptions::new().with(|o| o.ignore_sigpipe = false);
        let mut reactor = Reactor::with_options((), options).unwrap();
        let listener = reactor.net.serve("127.0.0.1:0", |_, input| input.clear()).unwrap();
        let mut stream = peer(address_of(&reactor, listener));
        stream.write_all(b"?").unwrap();
        turn_until(&mut reactor, "it is open", |reactor| reactor.net.tokens().len() == 1);
        let token = reactor.net.tokens()[0];
        drop(stream);
        for _ in 0..10 {
            reactor.net.send(token, vec![0; 100_000]);
            reactor.net.flush(token);
            reactor.net.send(token, "small");
            reactor.net.flush(token);
        }
        turn_until(&mut reactor, "it is gone", |reactor| reactor.net.tokens().is_empty());
    });
}

#[test]
fn programs_that_we_start_inherit_no_mask_and_no_handler() {
    in_a_child("programs_that_we_start_inherit_no_mask_and_no_handler", || {
        let mut reactor = Reactor::new(()).unwrap();
        reactor.net.stop_on_signals().unwrap();
        for signum in [signum::CHLD, signum::USR1, signum::USR2, signum::QUIT] {
            reactor.net.on_signal(signum, |_| ()).unwrap();
        }
        reactor.net.offload(|| (), |_, _| ()).unwrap(); // workers block signals, each for itself
        let output = Command::new("cat").arg("/proc/self/status").output().unwrap();
        let status = String::from_utf8(output.stdout).unwrap();
        for signum in 1..32 {
            assert!(!listed(&status, "SigBlk", signum), "signal {signum} is blocked in a child");
        }
        assert!(listed(&status, "SigIgn", signum::HUP), "which is why there is an option");
        assert!(!listed(&status, "SigIgn", signum::TERM) && !listed(&status, "SigIgn", signum::INT));
        // And they die of the signal that we have caught.
        let mut child = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signum::TERM));
    });
}

#[test]
fn a_dropped_reactor_gives_the_signals_back() {
    in_a_child("a_dropped_reactor_gives_the_signals_back", || {
        let mut reactor = Reactor::new(()).unwrap();
        reactor.net.stop_on_signals().unwrap();
        assert!(listed(&own_status(), "SigCgt", signum::TERM));
        drop(reactor);
        assert!(!listed(&own_status(), "SigCgt", signum::TERM) && !listed(&own_status(), "SigCgt", signum::INT));
    });
}
