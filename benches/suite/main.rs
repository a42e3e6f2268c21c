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
mod load;
mod machine;
mod memory;
mod namespace;
mod plan;
mod report;
mod result;
#[path = "../rivals/mod.rs"]
mod rivals;
mod server;
mod statistic;
mod timers;
mod wakeups;

use clap::{Parser, Subcommand};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "suite", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// What cargo says to the programs that it runs as benchmarks.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
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
    /// Make the report of a run anew from its raw.json.
    Report { raw: PathBuf },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("suite: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    match arguments.command {
        Some(Command::Serve { side, role, options }) => rivals::serve(&side, role, options),
        Some(Command::Load { kind }) => {
            println!("{}", serde_json::to_string(&load::run(kind)?)?);
            Ok(())
        }
        Some(Command::Report { raw }) => {
            let run: result::Run = serde_json::from_slice(&std::fs::read(&raw)?)?;
            report::write(&run, raw.parent().unwrap_or(".".as_ref()))
        }
        None => Ok(()),
    }
}
