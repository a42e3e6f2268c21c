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
//! shrinks what it finds; `SIM_PROGRAM='…'` does so with the short list that a report has printed. `SIM_SEEDS=100000`
//! lets the tests try more of them than they do by themselves.

mod acts;
mod app;
mod deeds;
mod dials;
mod hand;
mod mask;
mod messages;
mod oracle;
mod peers;
mod post;
mod probe;
mod reasons;
mod run;
mod shrink;
mod verdict;

use crate::sys::clock;
use acts::{Program, Sky};
use std::fmt::Display;
use std::str::FromStr;

/// What a variable of the environment says, if it is set. A slip of the pen is a panic: a run of something else than
/// was asked for looks like an answer.
fn variable<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// The weather of SIM_WEATHER: stormy, if nothing is said.
fn sky(weather: Option<&str>) -> Sky {
    match weather {
        Some("calm") => Sky::Calm,
        Some("windy") => Sky::Windy,
        Some("stormy") | None => Sky::Stormy,
        Some(other) => panic!("SIM_WEATHER={other}: it is calm, windy or stormy"),
    }
}

/// Runs the seeds from `first` on until there were so many turns, or so many seeds as SIM_SEEDS says.
fn sweep(first: u64, sky: Sky, least_turns: u64) {
    let seeds: Option<u64> = variable("SIM_SEEDS");
    let (began, mut turns, mut seed) = (clock::now(), 0, first);
    while seeds.map_or(turns < least_turns, |seeds| seed < first + seeds) {
        let program = Program::from_seed(seed, sky);
        match run::run(&program) {
            Ok(ran) => turns += ran.turns,
            Err(wrong) => panic!("{}", shrink::report(&program, &wrong, &run::run)),
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

/// What a person wants to see: all of SIM_PROGRAM as it stands, or the program of SIM_SEED.
#[test]
fn one_seed() {
    let sky = sky(variable::<String>("SIM_WEATHER").as_deref());
    let program = match (variable("SIM_PROGRAM"), variable("SIM_SEED")) {
        (Some(program), _) => program,
        (None, Some(seed)) => Program::from_seed(seed, sky),
        (None, None) => return,
    };
    println!("{program:#?}");
    match run::run(&program) {
        Ok(ran) => println!("content after {} turns", ran.turns),
        Err(wrong) => panic!("{}", shrink::report(&program, &wrong, &run::run)),
    }
}

#[test]
#[should_panic(expected = "it is calm, windy or stormy")]
fn a_weather_that_there_is_not_is_refused() {
    sky(Some("foggy"));
}
