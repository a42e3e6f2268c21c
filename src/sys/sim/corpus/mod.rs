//! The simulated kernel says what the real one says.
//!
//! The goal: nothing that the simulator finds is the simulator's own. The method: each program in this directory runs
//! on the simulated kernel in calm weather and on the real one, and writes down everything that it can see: what a
//! call answered, and which flags epoll told of which socket. The two records must be equal. Where they are not, the
//! simulator is wrong.
//!
//! What the real kernel does outside of calls (it is a machine with several processors) is waited for before a program
//! looks; the file of the loopback tells how. Should the machine have been too busy even so, the real kernel gets
//! another chance, and more time. Sizes of buffers are not compared, only that they have an end.
//!
//! Most programs are sentences, and say what is to be seen. Others are drawn by chance.
//!
//! Not compared: what differs from one machine to the next (interfaces, names of hosts, TCP's figures, clock, chance),
//! and what the simulator leaves to the real kernel (signals, threads).

mod connecting;
mod datagrams;
mod drawn;
mod edges;
mod ending;
mod flow;
mod loopback;
mod naming;
mod stage;
mod table;
mod unix;

use super::super::epoll::{EDGE, IN, OUT, PRI, RDHUP};
use super::chance::Weather;
use stage::Stage;
use std::time::Duration;

/// What a loop asks of a TCP connection.
const ALL: u32 = IN | OUT | PRI | RDHUP | EDGE;
/// What a loop asks of a Unix stream that has nothing to send.
const QUIET: u32 = IN | RDHUP | EDGE;

/// How much more time than its loopback needs the real kernel gets, each time that it has not said the same: none; a
/// little; longer than any acknowledgement is put off.
const PATIENCE: [Duration; 3] = [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(200)];

/// Runs a program on both kernels.
#[track_caller]
fn same(program: impl Fn(&mut Stage)) {
    let simulated = on_the_simulated_kernel(&program);
    let mut heard = String::new();
    for patience in PATIENCE {
        let mut stage = Stage::real(patience);
        program(&mut stage);
        if stage.record == simulated {
            return;
        }
        heard.push_str(&format!("the real kernel, with {patience:?} more:\n{}\n", stage.record));
    }
    panic!("{heard}the simulated one:\n{simulated}");
}

/// What a program sees there.
fn on_the_simulated_kernel(program: impl Fn(&mut Stage)) -> String {
    super::install(1, Weather::calm());
    let mut stage = Stage::simulated();
    program(&mut stage);
    let record = std::mem::take(&mut stage.record);
    drop(stage);
    let open = super::with(|kernel| kernel.open_descriptors());
    super::remove();
    assert_eq!(open, Some(0), "descriptors are left in the simulated table");
    record
}

/// Programs by name, each a test.
macro_rules! programs {
    ($($name:ident $stage:ident $body:block)*) => {
        $(#[test] fn $name() { super::same(|$stage: &mut super::Stage| $body); })*

        /// How many there are.
        pub const PROGRAMS: usize = [$(stringify!($name)),*].len();
    };
}
use programs;

#[test]
fn the_corpus_is_large_enough() {
    const PROGRAMS: usize = connecting::PROGRAMS
        + datagrams::PROGRAMS
        + edges::PROGRAMS
        + ending::PROGRAMS
        + flow::PROGRAMS
        + naming::PROGRAMS
        + table::PROGRAMS
        + unix::PROGRAMS;
    println!("{PROGRAMS} programs");
    const { assert!(PROGRAMS >= 50) };
}
