//! The suite: Plimsoll, tokio, mio and a bare epoll loop, side by side.
//!
//! One program plays all the parts, each in a process of its own, so that no server has the load generator's memory
//! or processor time on its bill:
//!
//! ```text
//!                       ┌── suite serve SIDE ROLE      the server, on one core     │ rivals/
//!  suite ── starts ─────┤        ▲ 127.0.0.1                                       │
//!  driver.rs            └── suite load KIND            its peers, on another core  │ load/
//!     │  ▲  one Sample a round, as a line of JSON ──┘
//!     ▼
//!  raw.json ──► report.md, index.html, charts          report/
//! ```
//!
//! ```text
//! cargo bench                          # everything: half an hour
//! cargo bench -- --quick               # a first look: three minutes
//! cargo bench -- --list                # the cells, and what each takes
//! cargo bench -- --only relay,counts   # some scenarios
//! cargo bench -- --server mine='./my-server {port}'
//! ```
//!
//! docs/measuring.md explains the method and every scenario.

mod counts;
mod driver;
mod liar;
mod load;
mod machine;
mod memory;
mod namespace;
mod plan;
mod process;
mod report;
mod result;
#[path = "../rivals/mod.rs"]
mod rivals;
mod scenarios;
mod server;
mod statistic;
mod timers;
mod wakeups;

use clap::{Parser, Subcommand};
use counts::Tool;
use driver::{Driver, minutes};
use liar::Lie;
use plan::{Alone, Job, Room, Scale, Work, plan};
use result::{Cell, Machine, Run};
use server::{Cores, Side};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Measure Plimsoll beside tokio, mio and a bare epoll loop, and make a report of it.
#[derive(Parser)]
#[command(name = "suite", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    choice: Choice,

    /// What cargo says to the programs that it runs as benchmarks.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(clap::Args)]
struct Choice {
    /// A first look, in three minutes instead of thirty.
    #[arg(long, conflicts_with = "smoke")]
    quick: bool,

    /// Only that everything works: seconds, and figures that mean nothing.
    #[arg(long)]
    smoke: bool,

    /// Only these scenarios, or parts of them: ping-pong,relay/bulk
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,

    /// A server of your own, an echo: NAME='COMMAND {port}'. It listens on 127.0.0.1 at that port.
    #[arg(long = "server", value_name = "NAME=COMMAND")]
    servers: Vec<Side>,

    /// Where the report goes [default: target/bench-report; of a part, target/bench-report-part; of a smoke run,
    /// target/bench-smoke]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,

    /// Rounds of every cell, instead of what its scenario has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,

    /// Print what would be measured, and how long it takes.
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make the report of a run anew, from its raw.json.
    Report { raw: PathBuf },
    /// Be a server, until told to end.
    #[command(hide = true)]
    Serve {
        side: String,
        role: rivals::Role,
        #[command(flatten)]
        options: rivals::Options,
    },
    /// Be the peers of a server.
    #[command(hide = true)]
    Load {
        #[command(subcommand)]
        kind: load::Kind,
    },
    /// Measure what needs neither.
    #[command(hide = true)]
    Alone { which: Alone, scale: Scale },
    /// Be an echo that is wrong.
    #[command(hide = true)]
    Lie { lie: Lie, port: u16 },
    /// Try to step into a network of its own.
    #[command(hide = true)]
    Cross,
    /// Become a program that is pinned and dies with the driver.
    #[command(hide = true)]
    Child {
        #[arg(long)]
        parent: Option<i32>,
        #[arg(long, value_delimiter = ',')]
        cores: Vec<usize>,
        #[arg(last = true)]
        program: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        None => drive(arguments.choice),
        Some(command) => play(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("suite: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The parts that the driver gives to others.
fn play(command: Command) -> io::Result<()> {
    match command {
        Command::Report { raw } => {
            let run: Run = serde_json::from_slice(&fs::read(&raw)?)?;
            let out = raw.parent().unwrap_or(Path::new("."));
            report::write(&run, out)?;
            println!("{}", out.join("report.md").display());
        }
        Command::Serve { side, role, options } => rivals::serve(&side, role, options)?,
        Command::Load { kind } => println!("{}", serde_json::to_string(&load::run(kind)?)?),
        Command::Alone { which, scale } => {
            let cells: Vec<Cell> = match which {
                Alone::Timers => timers::measure(scale),
                Alone::WakeUps => wakeups::measure(scale),
            };
            println!("{}", serde_json::to_string(&cells)?);
        }
        Command::Lie { lie, port } => liar::serve(lie, port)?,
        Command::Cross => namespace::cross()?,
        Command::Child { parent, cores, program } => return Err(process::become_child(parent, &cores, &program)),
    }
    Ok(())
}

// ── The driver's part ────────────────────────────────────────────────────────────────────────────────────────────

fn drive(choice: Choice) -> io::Result<()> {
    let start = Instant::now();
    let scale = match (choice.smoke, choice.quick) {
        (true, _) => Scale::Smoke,
        (_, true) => Scale::Quick,
        _ => Scale::Full,
    };
    let room = Room { descriptors: machine::raise_descriptor_limit()?, memory_bytes: machine::memory_bytes() };
    let (all, mut warnings) = plan(scale, room);
    let whole: f64 = all.iter().map(|job| job.seconds(0)).sum();
    let mut jobs = chosen(all, &choice.only)?;
    if let Some(rounds) = choice.rounds {
        jobs.iter_mut().for_each(|job| job.rounds = rounds as usize);
    }
    leave_out_what_lacks_a_tool(&mut jobs, &mut warnings);
    warnings.extend(say_who_counts(&jobs));
    if choice.list {
        list(&jobs, choice.servers.len());
        return in_time(whole, scale);
    }
    in_time(whole, scale)?;

    let (cores, machine) = settle_down(room, &mut warnings)?;
    let name = match (scale, choice.only.is_empty()) {
        (Scale::Smoke, _) => "bench-smoke",
        (_, true) => "bench-report",
        (_, false) => "bench-report-part",
    };
    let out = choice.out.map_or_else(|| beside_the_program(name), Ok)?;
    fs::create_dir_all(&out)?;
    forget_the_charts_before(&out)?;
    warnings.iter().for_each(|warning| eprintln!("note: {warning}"));
    let mut run = Run {
        machine,
        command: command_line(),
        started: machine::now(),
        seconds: 0.0,
        scale: scale.name().to_owned(),
        warnings,
        cells: Vec::new(),
    };
    // Who asks for more gets more.
    let limit = (choice.rounds.is_none() && choice.servers.is_empty()).then_some(scale.limit_seconds());
    if scale == Scale::Smoke {
        liar::see_through(&cores)?;
    }
    let driver = Driver { scale, cores, servers: choice.servers, limit };
    let raw = out.join("raw.json");
    let mut kept = Ok(());
    let mut hurried = false;
    driver.run(&jobs, |cells, fewer| {
        run.seconds = start.elapsed().as_secs_f64();
        run.cells = cells.to_vec();
        hurried = fewer;
        kept = keep(&run, &raw);
    });
    kept?;
    if hurried {
        run.warnings.push("the machine is slower than planned: some cells have fewer rounds".to_owned());
        keep(&run, &raw)?;
    }
    report::write(&run, &out)?;
    eprintln!("{} in {}; {}", out.join("report.md").display(), minutes(run.seconds), out.join("index.html").display());
    let failed: usize = run.cells.iter().flat_map(|cell| &cell.sides).filter(|side| side.error.is_some()).count();
    if failed > 0 { Err(io::Error::other(format!("{failed} measurements FAILED, see above"))) } else { Ok(()) }
}

/// Whether a whole run keeps the promise of its scale.
fn in_time(seconds: f64, scale: Scale) -> io::Result<()> {
    if seconds <= scale.limit_seconds() {
        return Ok(());
    }
    let (takes, limit) = (minutes(seconds), minutes(scale.limit_seconds()));
    Err(io::Error::other(format!("a {} run takes {takes}, and {limit} is what it may", scale.name())))
}

fn chosen(jobs: Vec<Job>, only: &[String]) -> io::Result<Vec<Job>> {
    if let Some(unknown) = only.iter().find(|name| !jobs.iter().any(|job| job.is(name))) {
        let mut known: Vec<&str> = jobs.iter().map(|job| job.scenario).collect();
        known.dedup();
        return Err(io::Error::other(format!("there is no {unknown:?} here, but: {}", known.join(" "))));
    }
    let wanted = |job: &Job| only.is_empty() || only.iter().any(|name| job.is(name));
    Ok(jobs.into_iter().filter(wanted).collect())
}

fn leave_out_what_lacks_a_tool(jobs: &mut Vec<Job>, warnings: &mut Vec<String>) {
    jobs.retain(|job| {
        let Work::Count(count) = &job.work else { return true };
        let Some(program) = count.tool.missing() else { return true };
        warnings.push(format!("{}: left out, there is no {program} on this machine", job.title()));
        false
    });
}

/// Whoever is slowed finds more at each read.
fn say_who_counts(jobs: &[Job]) -> Option<String> {
    let mut tools =
        jobs.iter().filter_map(|job| if let Work::Count(count) = &job.work { Some(count.tool) } else { None });
    let calls = tools.find(|tool| *tool != Tool::Instructions)?;
    let slows =
        if calls.program() == "strace" { ", which slows a server: of a stream each read finds more" } else { "" };
    Some(format!("system calls were counted by {}{slows}", calls.program()))
}

fn list(jobs: &[Job], servers: usize) {
    for job in jobs {
        let own = if job.open { servers } else { 0 };
        println!(
            "{:>6.1} s  {:<64} {} sides × {}",
            job.seconds(servers),
            job.title(),
            job.sides.len() + own,
            job.rounds
        );
    }
    println!("{:>8}  in all", minutes(jobs.iter().map(|job| job.seconds(servers)).sum()));
}

/// A network of our own, and a processor for the servers and one for their peers. The driver is asleep nearly always,
/// and where it is not, it is in the way of the peers and not of the servers.
fn settle_down(room: Room, warnings: &mut Vec<String>) -> io::Result<(Cores, Machine)> {
    let (namespace, complaints) = namespace::enter()?;
    warnings.extend(complaints);
    let allowed = machine::cores()?;
    let mut machine = Machine { namespace, ..machine::describe(&allowed, room.descriptors) };
    let mut cores = Cores::default();
    if let [server, second, ..] = allowed[..] {
        let load = allowed[1..].iter().copied().find(|core| !machine::are_siblings(server, *core));
        if load.is_none() {
            warnings.push("servers and load have the two threads of one core: they slow each other".to_owned());
        }
        let load = load.unwrap_or(second);
        cores = Cores { server: vec![server], load: vec![load] };
        process::pin(&[load])?;
        (machine.server_core, machine.load_core) = (Some(server as u32), Some(load as u32));
    } else {
        warnings.push("there is one processor for servers and load alike: they measure each other".to_owned());
    }
    Ok((cores, machine))
}

fn keep(run: &Run, raw: &Path) -> io::Result<()> {
    fs::write(raw, serde_json::to_vec_pretty(run)?)
}

/// Charts of an earlier run are not to stand beside those of this one. Where there was no run, they are not ours.
fn forget_the_charts_before(out: &Path) -> io::Result<()> {
    if !out.join("raw.json").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "svg") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// In `target`, as cargo has put the program into `target/release/deps`. What is short does not write over the report
/// that took half an hour.
fn beside_the_program(name: &str) -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).unwrap_or(Path::new("target"));
    Ok(target.join(name))
}

/// As it would be typed.
fn command_line() -> String {
    let mut line = "cargo bench --".to_owned();
    for word in std::env::args().skip(1).filter(|word| word != "--bench") {
        line += &if word.contains([' ', '{']) { format!(" '{word}'") } else { format!(" {word}") };
    }
    line.trim_end_matches(" --").to_owned()
}
