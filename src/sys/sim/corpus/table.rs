//! A table of descriptors that is full.
//!
//! How many there may be is a limit of the whole process, and the numbers are shared by all its threads. So on the real
//! kernel these programs run in a process of their own: this one again, told to run one test.

use super::stage::Stage;
use super::{ALL, same};
use crate::sys::epoll::{EDGE, Epoll, IN, OUT};
use crate::sys::socket::{self, Family};
use crate::sys::{check, event, fd, sim};
use std::process::Command;

/// Set in the process that runs one program.
const ALONE: &str = "PLIMSOLL_CORPUS_ALONE";

/// Runs a program on both kernels in a process where nothing else runs: the test of this name.
fn same_alone(name: &str, program: impl Fn(&mut Stage)) {
    if std::env::var_os(ALONE).is_some() {
        return same(program);
    }
    let (_, inside) = module_path!().split_once("::").expect("a module of the crate");
    let test = format!("{inside}::{name}");
    let this = std::env::current_exe().expect("a Linux with /proc");
    let told = Command::new(this).args(["--exact", &test]).env(ALONE, "").output().expect("it starts");
    let said = String::from_utf8_lossy(&told.stdout) + String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success() && said.contains("1 passed"), "{test}:\n{said}");
}

/// As the macro of the other files.
macro_rules! programs {
    ($($name:ident $stage:ident $body:block)*) => {
        $(#[test] fn $name() { same_alone(stringify!($name), |$stage: &mut Stage| $body); })*

        /// How many there are.
        pub const PROGRAMS: usize = [$(stringify!($name)),*].len();
    };
}

programs! {
    a_full_table_is_told_even_if_nobody_waits s {
        s.tcp_listener("l");
        s.watch("l", IN);
        s.fill_table();
        s.accept("l", "b");
        s.wait();
        s.widen_table();
        s.accept("l", "b");
    }

    one_who_waits_is_not_lost_to_a_full_table s {
        s.tcp_listener("l");
        s.watch("l", IN);
        s.connect("a", "l");
        s.send("a", b"hello");
        s.fill_table();
        s.wait();
        s.accept("l", "b");
        s.accept("l", "b");
        s.wait();
        s.widen_table();
        s.accept("l", "b");
        s.recv("b", 10);
        s.wait();
    }

    a_full_table_is_no_edge s {
        s.tcp_listener("l");
        s.watch("l", IN | EDGE);
        s.connect("a", "l");
        s.fill_table();
        s.wait();
        s.accept("l", "b");
        s.wait();
        s.rewatch("l", IN | EDGE);
        s.wait();
    }

    a_spare_descriptor_lets_one_in s {
        s.tcp_listener("l");
        s.put("spare", fd::spare().unwrap());
        s.connect("a", "l");
        s.connect("c", "l");
        s.watch("a", ALL);
        s.wait();
        s.fill_table();
        s.accept("l", "b");
        s.close("spare");
        s.accept("l", "b");
        s.accept("l", "d");
        s.close("b");
        s.wait();
        s.made("spare", fd::spare());
        s.accept("l", "d");
    }

    a_unix_listener_tells_of_a_full_table_as_well s {
        s.unix_listener("l");
        s.put("spare", fd::spare().unwrap());
        s.connect("a", "l");
        s.watch("l", IN);
        s.fill_table();
        s.accept("l", "b");
        s.wait();
        s.close("spare");
        s.accept("l", "b");
        s.accept("l", "d");
        s.wait();
    }

    nothing_is_made_in_a_full_table s {
        s.fill_table();
        s.made("spare", fd::spare());
        s.made("bell", event::create());
        s.made_sockets();
        s.made_epoll();
    }

    what_is_watched_goes_on_in_a_full_table s {
        s.tcp_pair();
        s.fill_table();
        s.watch("b", ALL);
        s.wait();
        s.send("a", b"x");
        s.wait();
        s.recv("b", 10);
        s.close("a");
        s.wait();
        s.recv("b", 10);
    }

    a_number_that_is_used_again_brings_nothing_of_its_past s {
        s.tcp_pair();
        s.connect("c", "l");
        s.accept("l", "d");
        s.put("bell", event::create().unwrap());
        for who in ["b", "d"] {
            s.watch(who, ALL);
        }
        s.wait();
        s.send("a", b"x");
        s.settle();
        s.send("c", b"y");
        // Both are fetched; of one, the second was to be heard after the first has replaced it.
        s.wait();
        let number = s.fds["d"].raw();
        s.close("d");
        s.put("e", event::create().unwrap());
        let again = s.fds["e"].raw() == number;
        s.note("used again", "e", again);
        s.wait();
        s.watch("e", IN | OUT | EDGE);
        s.wait();
        s.recv("c", 10);
    }

    a_number_that_is_used_again_within_a_batch_is_told_as_what_it_is_now s {
        s.tcp_pair();
        s.connect("c", "l");
        s.accept("l", "d");
        for who in ["b", "d"] {
            s.watch(who, ALL);
        }
        s.wait();
        s.send("a", b"x");
        s.settle();
        s.send("c", b"y");
        s.wait_for(1);
        let number = s.fds["d"].raw();
        s.close("d");
        s.connect("e", "l");
        let again = s.fds["e"].raw() == number;
        s.note("used again", "e", again);
        s.watch("e", ALL);
        s.wait();
        s.wait();
    }
}

impl Stage {
    /// Lets no more descriptors be made than there are.
    pub fn fill_table(&mut self) {
        if self.loopback.is_none() {
            sim::with(|kernel| kernel.limit_descriptors(kernel.open_descriptors()));
        } else {
            // The lowest number that is free: all below are taken.
            let free = fd::spare().unwrap().raw();
            self.lifted_limit = Some(limit_descriptors(free as libc::rlim_t));
        }
    }

    pub fn widen_table(&mut self) {
        if self.loopback.is_none() {
            sim::with(|kernel| kernel.limit_descriptors(1_024));
        } else if let Some(limit) = self.lifted_limit.take() {
            limit_descriptors(limit);
        }
    }

    pub fn made_sockets(&mut self) {
        self.made("t", socket::stream(Family::V4));
        self.made("u", socket::stream(Family::Unix));
        self.made("v", socket::datagram(Family::V4));
    }

    pub fn made_epoll(&mut self) {
        self.note_unit("make", "epoll", Epoll::create().map(drop));
    }
}

/// Sets how many descriptors this process may have; the answer is how many it could.
fn limit_descriptors(limit: libc::rlim_t) -> libc::rlim_t {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer describes `limits`.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) }).unwrap();
    let before = std::mem::replace(&mut limits.rlim_cur, limit);
    // SAFETY: as above; the kernel only reads.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) }).unwrap();
    before
}
