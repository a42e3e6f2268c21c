//! The driver: rounds, side by side.
//!
//! ```text
//!  round 1:  A B C D     round 2:  D C B A     round 3:  A B C D   …
//!            └──┬──┘
//!               neighbours in time: whatever slows the machine for a second slows both, and their ratio stands
//! ```
//!
//! Every other round goes backwards: who is always the last has the warmest processor, or the most exhausted one.
//!
//! A side that fails a round (a wrong byte, fewer connections served, a server that ends) is out of its cell, and the
//! run as a whole has failed. The other sides and cells go on, for they are not to blame.

use crate::plan::{Alone, Job, Work};
use crate::process::{Process, Stdout};
use crate::result::{Cell, Sample, SideResult};
use crate::server::{Cores, Side, serve_once, this_program};
use crate::{memory, plan};
use clap::ValueEnum;
use std::io;
use std::time::{Duration, Instant};

/// What a round may take beyond what it should, before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a program that measures alone may take.
const ALONE: Duration = Duration::from_secs(300);

pub struct Driver {
    pub scale: plan::Scale,
    pub cores: Cores,
    /// The reader's own.
    pub servers: Vec<Side>,
    /// What was promised, in seconds.
    pub limit: Option<f64>,
}

impl Driver {
    /// Measures them all. `keep` is shown the cells after each, so that an interrupted run is not lost; and whether the
    /// machine was so slow that some have fewer rounds than planned.
    pub fn run(&self, jobs: &[Job], mut keep: impl FnMut(&[Cell], bool)) {
        let mut progress = Progress::new(jobs.iter().map(|job| job.seconds(self.servers.len())).collect());
        let mut cells = Vec::new();
        let mut hurried = false;
        for job in jobs {
            progress.begin(&job.title());
            let share = self.limit.map_or(1.0, |limit| progress.share(limit));
            let least = self.scale.least_rounds().min(job.rounds);
            let rounds = ((job.rounds as f64 * share) as usize).max(least);
            hurried |= rounds < job.rounds;
            let measured = match &job.work {
                Work::Alone(which) => self.measure_alone(job, *which),
                _ => vec![self.measure(job, rounds)],
            };
            progress.end(&measured);
            cells.extend(measured);
            keep(&cells, hurried);
        }
    }

    fn measure(&self, job: &Job, rounds: usize) -> Cell {
        let own = if job.open { &self.servers[..] } else { &[] };
        let sides: Vec<Side> = job.sides.iter().map(|name| Side::ours(name)).chain(own.iter().cloned()).collect();
        let mut cell = cell(job);
        cell.sides = sides.iter().map(|side| result(side.name())).collect();
        for round in 0..rounds {
            let mut turns: Vec<_> = sides.iter().zip(&mut cell.sides).collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for (side, result) in turns {
                if result.error.is_some() {
                    continue;
                }
                match self.round(job, side) {
                    Ok(sample) => result.rounds.push(sample),
                    Err(e) => result.error = Some(e.to_string()),
                }
            }
        }
        cell
    }

    fn round(&self, job: &Job, side: &Side) -> io::Result<Sample> {
        let patience = PATIENCE + Duration::from_secs_f64(job.round_seconds);
        match &job.work {
            Work::Load { role, load } => serve_once(side, *role, load, &[], &self.cores, patience),
            Work::Idle { role, connections } => memory::idle(side, *role, *connections, &self.cores),
            Work::Slow { mib, stop_seconds } => memory::slow(side, *mib, *stop_seconds, &self.cores),
            Work::Count(count) => count.measure(side, &self.cores),
            Work::Alone(_) => Err(io::Error::other("it has no sides of its own")),
        }
    }

    fn measure_alone(&self, job: &Job, which: Alone) -> Vec<Cell> {
        self.ask_alone(which).unwrap_or_else(|e| {
            let sides = vec![SideResult { error: Some(e.to_string()), ..result("plimsoll") }];
            vec![Cell { sides, ..cell(job) }]
        })
    }

    /// In a process of its own, so that our memory is not in its way, with both processors.
    fn ask_alone(&self, which: Alone) -> io::Result<Vec<Cell>> {
        let name = |value: Option<clap::builder::PossibleValue>| value.expect("none is hidden").get_name().to_owned();
        let program =
            [this_program()?, "alone".to_owned(), name(which.to_possible_value()), self.scale.name().to_owned()];
        let cores: Vec<usize> = self.cores.server.iter().chain(&self.cores.load).copied().collect();
        let mut process = Process::start(&program[2], &cores, Stdout::Heard, &program)?;
        let line = process.line(ALONE)?;
        let cells = serde_json::from_str(&line).map_err(|e| process.fault(&format!("says no cells: {e}")))?;
        process.end(PATIENCE)?;
        Ok(cells)
    }
}

fn cell(job: &Job) -> Cell {
    Cell {
        scenario: job.scenario.to_owned(),
        variant: job.variant.to_owned(),
        parameters: job.parameters.clone(),
        sides: Vec::new(),
    }
}

fn result(side: &str) -> SideResult {
    SideResult { side: side.to_owned(), rounds: Vec::new(), error: None }
}

/// What is said on stderr meanwhile.
struct Progress {
    /// What each was thought to take.
    seconds: Vec<f64>,
    done: usize,
    start: Instant,
    begun: Instant,
}

impl Progress {
    fn new(seconds: Vec<f64>) -> Progress {
        Progress { seconds, done: 0, start: Instant::now(), begun: Instant::now() }
    }

    fn begin(&mut self, title: &str) {
        self.begun = Instant::now();
        eprint!("[{:>3}/{}] {title:<64} ", self.done + 1, self.seconds.len());
    }

    /// Which part of what is planned fits what is left of a limit.
    fn share(&self, limit: f64) -> f64 {
        let (behind, ahead) = self.seconds.split_at(self.done);
        let (behind, ahead): (f64, f64) = (behind.iter().sum(), ahead.iter().sum());
        // The first cells say little of the others.
        if behind < ahead / 10.0 {
            return 1.0;
        }
        let elapsed = self.start.elapsed().as_secs_f64();
        ((limit - elapsed) / (ahead * elapsed / behind)).clamp(0.0, 1.0)
    }

    /// The rest is what is planned, stretched as the part behind us was.
    fn end(&mut self, cells: &[Cell]) {
        self.done += 1;
        let elapsed = self.start.elapsed().as_secs_f64();
        let (behind, ahead) = self.seconds.split_at(self.done);
        let stretch = elapsed / behind.iter().sum::<f64>().max(0.001);
        let rest = ahead.iter().sum::<f64>() * stretch;
        let took = self.begun.elapsed().as_secs_f64();
        eprintln!("{took:>5.1} s │ {} done, {} to go", minutes(elapsed), minutes(rest));
        for (cell, side) in cells.iter().flat_map(|cell| cell.sides.iter().map(move |side| (cell, side))) {
            if let Some(e) = &side.error {
                eprintln!("          FAILED: {} {} {}: {e}", cell.scenario, cell.variant, side.side);
            }
        }
    }
}

pub fn minutes(seconds: f64) -> String {
    format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60)
}
