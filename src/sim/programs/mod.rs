//! Random programs on a simulated kernel, against an oracle.
//!
//! The goal: what DESIGN promises holds whatever a program, its peers and the network do. The method: a seed makes a
//! list of operations, some of the program's (send, pause, relay, close, …) and some of its peers' (write, read a
//! little, end, reset, vanish), each at a time and by a way of its own. They run on the real reactor in a simulated
//! world. The oracle watches every callback, and looks at the whole when all has come to rest and when it is over.
//!
//! ```text
//!   seed ──► operations ──► run ──► oracle ── content ──► the next seed
//!                            ▲         └───── found something ──► shrink ──► the few that are needed, and the seed
//!                            └──────────────────────────────────────┘
//! ```
//!
//! `SIM_SEED=17 SIM_WEATHER=stormy cargo test --lib sim::programs::one_seed -- --nocapture` runs one seed again and
//! shrinks what it finds. `SIM_SEEDS=100000` lets the tests try more of them than they do by themselves.

mod found;
mod hand;
mod oracle;
mod peers;
mod run;
mod shrink;
mod verdict;

use crate::sim::Weather;
use crate::sys::clock;
use crate::sys::sim::chance::Chance;

/// One thing that somebody does. Numbers of connections count round, so that every number is some connection's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    // The program.
    Send(u8, u16),
    Flush(u8),
    Pause(u8),
    Resume(u8),
    Want(u8, u16),
    Shutdown(u8),
    Close(u8),
    Abort(u8),
    Relay(u8, u8),
    /// Detach, and adopt at once.
    Rehome(u8),
    Timer(u8, u8, u16),
    /// Connects to somebody, or tries to.
    Connect(Place),
    Stop,
    // The peers.
    Arrive,
    Write(u8, u16),
    Urgent(u8),
    Read(u8, u16),
    Takes(u8),
    StopsReading(u8),
    Fin(u8),
    Leave(u8),
    Reset(u8),
    Vanish(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A server from outside.
    Server,
    /// The program's own listener: both ends are its.
    Own,
    /// An address that swallows all.
    Silence,
    /// An address where nobody listens.
    Nobody,
}

/// By which way the program comes to do something. Peers act by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    Timer,
    Mail,
    Defer,
    Tell,
    Offload,
    /// In the next `on_data` of the connection.
    Callback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Op {
    /// Microseconds from the start.
    pub at: u32,
    pub via: Via,
    pub act: Act,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sky {
    Calm,
    Windy,
    Stormy,
}

impl Sky {
    fn weather(self) -> Weather {
        match self {
            Sky::Calm => Weather::calm(),
            Sky::Windy => Weather::windy(),
            Sky::Stormy => Weather::stormy(),
        }
    }
}

/// What is run: a pure function of these.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub seed: u64,
    /// Another number lets chance fall otherwise for the same operations.
    pub luck: u64,
    pub sky: Sky,
    pub ops: Vec<Op>,
}

impl Program {
    fn from_seed(seed: u64, sky: Sky) -> Program {
        let mut chance = Chance::new(seed ^ 0x0b5e_55ed);
        let count = 4 + chance.below(40);
        // Close together, or far apart: both bring things into orders of their own.
        let span = [300, 3_000, 30_000][chance.below(3) as usize];
        let mut ops = vec![Op { at: 0, via: Via::Timer, act: Act::Arrive }];
        ops.extend((0..count).map(|_| Op {
            at: chance.below(span) as u32,
            via: draw_via(&mut chance),
            act: draw_act(&mut chance),
        }));
        Program { seed, luck: 0, sky, ops }
    }
}

fn draw_via(chance: &mut Chance) -> Via {
    [Via::Timer, Via::Mail, Via::Defer, Via::Tell, Via::Offload, Via::Callback][chance.below(6) as usize]
}

fn draw_act(chance: &mut Chance) -> Act {
    let which = chance.below(8) as u8;
    // Now one byte, now a few, now more than any buffer holds.
    let most = [2, 40, 3_000, 60_000][chance.below(4) as usize];
    let size = chance.below(most) as u16;
    match chance.below(100) {
        0..14 => Act::Send(which, size),
        14..16 => Act::Flush(which),
        16..21 => Act::Pause(which),
        21..26 => Act::Resume(which),
        26..29 => Act::Want(which, size),
        29..33 => Act::Shutdown(which),
        33..37 => Act::Close(which),
        37..39 => Act::Abort(which),
        39..42 => Act::Relay(which, chance.below(8) as u8),
        42..45 => Act::Rehome(which),
        45..47 => Act::Timer(which, chance.below(3) as u8, chance.below(3_000) as u16),
        47..50 => Act::Connect(Place::Server),
        50..52 => Act::Connect(Place::Own),
        52 => Act::Connect(Place::Silence),
        53 => Act::Connect(Place::Nobody),
        54 if chance.below(3) == 0 => Act::Stop,
        54..64 => Act::Arrive,
        64..78 => Act::Write(which, size),
        78..80 => Act::Urgent(which),
        80..84 => Act::Read(which, size),
        84..88 => Act::Takes(which),
        88..91 => Act::StopsReading(which),
        91..95 => Act::Fin(which),
        95..97 => Act::Leave(which),
        97..99 => Act::Reset(which),
        _ => Act::Vanish(which),
    }
}

/// Runs the seeds from `first` on until there were so many turns, or so many seeds as SIM_SEEDS says.
fn sweep(first: u64, sky: Sky, least_turns: u64) {
    let seeds: Option<u64> = std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok());
    let (began, mut turns, mut seed) = (clock::now(), 0, first);
    while seeds.map_or(turns < least_turns, |seeds| seed < first + seeds) {
        let program = Program::from_seed(seed, sky);
        match run::run(&program) {
            Ok(ran) => turns += ran.turns,
            Err(wrong) => panic!("{}", shrink::report(&program, &wrong)),
        }
        seed += 1;
    }
    let seconds = clock::now().since(began).as_secs_f64();
    println!("{sky:?}: {} seeds, {turns} turns, {:.1} million a minute", seed - first, turns as f64 / seconds * 6e-5);
}

/// Turns in each of the tests below: a million in all.
const SHARE: u64 = 170_000;

#[test]
fn a_calm_kernel_sees_every_promise_kept() {
    sweep(0, Sky::Calm, SHARE / 4);
}

#[test]
fn a_windy_kernel_sees_every_promise_kept() {
    sweep(1_000_000, Sky::Windy, SHARE);
}

#[test]
fn another_windy_kernel_sees_every_promise_kept() {
    sweep(2_000_000, Sky::Windy, SHARE);
}

#[test]
fn a_third_windy_kernel_sees_every_promise_kept() {
    sweep(3_000_000, Sky::Windy, SHARE);
}

#[test]
fn a_stormy_kernel_sees_every_promise_kept() {
    sweep(4_000_000, Sky::Stormy, SHARE);
}

#[test]
fn another_stormy_kernel_sees_every_promise_kept() {
    sweep(5_000_000, Sky::Stormy, SHARE);
}

#[test]
fn a_third_stormy_kernel_sees_every_promise_kept() {
    sweep(6_000_000, Sky::Stormy, SHARE);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let program = Program::from_seed(seed, Sky::Stormy);
        assert_eq!(run::run(&program).map(|ran| ran.trace), run::run(&program).map(|ran| ran.trace), "seed {seed}");
    }
}

/// For a person with a seed: see the head of this file.
#[test]
fn one_seed() {
    let Some(seed) = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()) else { return };
    let sky = match std::env::var("SIM_WEATHER").as_deref() {
        Ok("calm") => Sky::Calm,
        Ok("windy") => Sky::Windy,
        _ => Sky::Stormy,
    };
    let program = Program::from_seed(seed, sky);
    println!("{program:#?}");
    match run::run(&program) {
        Ok(ran) => println!("content after {} turns", ran.turns),
        Err(wrong) => panic!("{}", shrink::report(&program, &wrong)),
    }
}
