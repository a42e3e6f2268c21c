//! Counts: what does not depend on the machine's mood.
//!
//! ```text
//!   load ──► server under a tool, short run  ─► n₁ ┐
//!                                                  ├──  (n₂ − n₁) ÷ (what the long run did more)  =  the price of one
//!   load ──► server under a tool, long run   ─► n₂ ┘
//! ```
//!
//! Instructions in user space are callgrind's, system calls strace's. Whatever both runs do once, such as to start, to
//! accept and to end, cancels out. The load works by number and not by the clock here, so the long run
//! is the short one and more of the same.
//!
//! epoll_wait is not counted: however many events it brings share it, and how many that are is a matter of timing.

use crate::process::own_path;
use crate::result::Sample;
use crate::rivals::Role;
use crate::server::{Cores, Side, serve_once};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long one run may take. Under valgrind everything is fifty times slower.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long strace may take to write its table when the server has ended.
const TABLE: Duration = Duration::from_secs(15);

/// What is counted, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Instructions in user space.
    Callgrind,
    /// System calls but for epoll_wait.
    Strace,
    /// System calls that send.
    StraceOfWrites,
}

impl Tool {
    pub fn program(self) -> &'static str {
        match self {
            Tool::Callgrind => "valgrind",
            Tool::Strace | Tool::StraceOfWrites => "strace",
        }
    }
}

/// A figure by counting.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub tool: Tool,
    pub role: Role,
    /// Its name among the figures of a sample.
    pub figure: &'static str,
    /// What the peers do, without how much of it.
    pub load: &'static str,
    /// The option that says how much, for the short run and for the long one.
    pub lengths: (&'static str, u64, u64),
    /// Things that are counted, in a length of one.
    pub items: u64,
}

impl Count {
    /// One run of each length.
    pub fn measure(&self, side: &Side, cores: &Cores) -> io::Result<Sample> {
        let (_, short, long) = self.lengths;
        let (few, _) = self.run(side, short, cores)?;
        let (many, mut sample) = self.run(side, long, cores)?;
        let each = (many as f64 - few as f64) / ((long - short) * self.items) as f64;
        sample.figures.clear();
        sample.percentiles.clear();
        sample.figures.insert(self.figure.to_owned(), each);
        Ok(sample)
    }

    fn run(&self, side: &Side, length: u64, cores: &Cores) -> io::Result<(u64, Sample)> {
        let paper = Paper::new()?;
        let path = paper.0.to_string_lossy();
        let tool = match self.tool {
            Tool::Callgrind => format!("valgrind --quiet --tool=callgrind --callgrind-out-file={path}"),
            // With -D the server is our child and strace is not, so it is the server that is told to end.
            Tool::Strace | Tool::StraceOfWrites => format!("strace -D -f -c -o {path}"),
        };
        let (option, ..) = self.lengths;
        let load = words(&format!("{} {option} {length}", self.load));
        let sample = serve_once(side, self.role, &load, &words(&tool), cores, PATIENCE)?;
        let count = match self.tool {
            Tool::Callgrind => instructions(&paper.complete(|text| text.contains("\ntotals: "))?),
            Tool::Strace => calls(&paper.complete(has_total)?, |name| !is_wait(name)),
            Tool::StraceOfWrites => calls(&paper.complete(has_total)?, is_write),
        };
        Ok((count.ok_or_else(|| io::Error::other(format!("{} counted nothing", self.tool.program())))?, sample))
    }
}

impl Default for Count {
    fn default() -> Count {
        Count { tool: Tool::Strace, role: Role::Echo, figure: "", load: "", lengths: ("", 0, 1), items: 1 }
    }
}

fn instructions(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

/// The table has `% time, seconds, usecs/call, calls, errors (or nothing), syscall`.
fn calls(table: &str, wanted: impl Fn(&str) -> bool) -> Option<u64> {
    let rows = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let name = *columns.last()?;
        let count = columns.get(3)?.parse::<u64>().ok()?;
        (name != "total" && wanted(name)).then_some(count)
    });
    has_total(table).then(|| rows.sum())
}

fn has_total(table: &str) -> bool {
    table.lines().any(|line| line.ends_with(" total"))
}

fn is_wait(name: &str) -> bool {
    matches!(name, "epoll_wait" | "epoll_pwait" | "epoll_pwait2")
}

fn is_write(name: &str) -> bool {
    matches!(name, "write" | "writev" | "sendto" | "sendmsg" | "sendmmsg")
}

/// Where a tool writes what it has counted.
struct Paper(PathBuf);

impl Paper {
    fn new() -> io::Result<Paper> {
        let path = own_path("counts");
        // What a run before has left there is not to be taken for this one's.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(Paper(path)),
        }
    }

    /// What stands there when it is all there.
    fn complete(&self, whole: impl Fn(&str) -> bool) -> io::Result<String> {
        let deadline = Instant::now() + TABLE;
        loop {
            let text = fs::read_to_string(&self.0).unwrap_or_default();
            if whole(&text) {
                return Ok(text);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("what was counted was not written down"));
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Paper {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
