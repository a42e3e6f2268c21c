//! Counts: what does not depend on the machine's mood.
//!
//! ```text
//!   load ──► server under a tool, short run  ─► n₁ ┐
//!                                                  ├──  (n₂ − n₁) ÷ (what the long run did more)  =  the price of one
//!   load ──► server under a tool, long run   ─► n₂ ┘
//! ```
//!
//! Instructions in user space are callgrind's. System calls are counted by perf at the kernel's tracepoints, where that is
//! allowed, since it slows nobody; else by strace. Whatever both runs do once, such as to start, to accept and to end,
//! cancels out. The load works by number and not by the clock here, so the long run is the short one and more of the
//! same.
//! For that the server is told to end only when it has closed its last connection.
//!
//! Exact they are where the peers move by number: messages, connections, bursts. What a bulk stream takes is not: how much
//! a read of it finds is a matter of timing, so that one is counted in rounds.
//!
//! epoll_wait is not counted: however many events it brings share it, and how many that are is a matter of timing.

use crate::machine;
use crate::process::own_path;
use crate::result::Sample;
use crate::rivals::Role;
use crate::server::{Cores, Side, serve_once, this_program};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long one run may take. Under valgrind everything is fifty times slower.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a tool may take to write its table when the server has ended.
const TABLE: Duration = Duration::from_secs(15);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Instructions in user space.
    Instructions,
    /// System calls but for epoll_wait.
    Calls,
    /// System calls that send.
    Writes,
}

const WAITS: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2"];

const WRITES: &[&str] = &["write", "writev", "sendto", "sendmsg", "sendmmsg"];

impl Tool {
    /// What has to be installed, if it is not.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Tool::Instructions => (!machine::has("valgrind")).then_some("valgrind"),
            Tool::Calls | Tool::Writes => (!*PERF_MAY_COUNT && !machine::has("strace")).then_some("strace"),
        }
    }

    /// Who counts, on this machine.
    pub fn program(self) -> &'static str {
        match self {
            Tool::Instructions => "callgrind",
            _ if *PERF_MAY_COUNT => "perf",
            _ => "strace",
        }
    }

    /// What is put before a program, so that it is counted and the count stands in `path`.
    fn command(self, path: &str) -> io::Result<Vec<String>> {
        let command = match self {
            Tool::Instructions => format!("valgrind --quiet --tool=callgrind --callgrind-out-file={path}"),
            // With -D the server is our child and strace is not, so it is the server that is told to end.
            _ if !*PERF_MAY_COUNT => format!("strace -D -f -c -o {path}"),
            Tool::Calls => format!("perf stat -x, -o {path} -e raw_syscalls:sys_enter,{} --", tracepoints(WAITS)),
            Tool::Writes => format!("perf stat -x, -o {path} -e {} --", tracepoints(WRITES)),
        };
        let mut command = words(&command);
        if command[0] == "perf" {
            // It is perf that dies with us, and the server is to die with perf.
            command.extend([this_program()?, "child".to_owned(), "--".to_owned()]);
        }
        Ok(command)
    }

    /// The count that stands in a text, when it is all there.
    fn count(self, text: &str) -> Option<u64> {
        match self {
            Tool::Instructions => text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok(),
            Tool::Calls if *PERF_MAY_COUNT => {
                let all = events(text, &["sys_enter"])?;
                Some(all - events(text, WAITS)?)
            }
            Tool::Writes if *PERF_MAY_COUNT => events(text, WRITES),
            Tool::Calls => rows(text, |name| !WAITS.contains(&name)),
            Tool::Writes => rows(text, |name| WRITES.contains(&name)),
        }
    }
}

/// Tracepoints are for root, or for those whom root allows it.
static PERF_MAY_COUNT: LazyLock<bool> = LazyLock::new(|| {
    let tried = Command::new("perf").args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "true"]).output();
    tried.is_ok_and(|it| it.status.success() && events(&String::from_utf8_lossy(&it.stderr), &["sys_enter"]) > Some(0))
});

fn tracepoints(calls: &[&str]) -> String {
    calls.iter().map(|call| format!("syscalls:sys_enter_{call}")).collect::<Vec<_>>().join(",")
}

/// perf's lines: `count,,event,…`.
fn events(text: &str, wanted: &[&str]) -> Option<u64> {
    let count = |wanted: &&str| {
        let ours = |event: &str| {
            event.rsplit_once(':').is_some_and(|(_, name)| name.trim_start_matches("sys_enter_") == *wanted)
        };
        text.lines().find_map(|line| {
            let columns: Vec<&str> = line.split(',').collect();
            columns.get(2).filter(|event| ours(event))?;
            columns[0].parse::<u64>().ok()
        })
    };
    wanted.iter().map(count).sum()
}

/// strace's table has `% time, seconds, usecs/call, calls, errors (or nothing), syscall`, and the total at its end.
fn rows(table: &str, wanted: impl Fn(&str) -> bool) -> Option<u64> {
    let rows = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let name = *columns.last()?;
        let count = columns.get(3)?.parse::<u64>().ok()?;
        (name != "total" && wanted(name)).then_some(count)
    });
    table.lines().any(|line| line.ends_with(" total")).then(|| rows.sum())
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
        let tool = self.tool.command(&path)?;
        let (option, ..) = self.lengths;
        let load = words(&format!("{} {option} {length}", self.load));
        let sample = serve_once(side, self.role, &load, &tool, cores, PATIENCE)?;
        Ok((paper.count(self.tool)?, sample))
    }
}

impl Default for Count {
    fn default() -> Count {
        Count { tool: Tool::Calls, role: Role::Echo, figure: "", load: "", lengths: ("", 0, 1), items: 1 }
    }
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

    fn count(&self, tool: Tool) -> io::Result<u64> {
        let deadline = Instant::now() + TABLE;
        loop {
            let text = fs::read_to_string(&self.0).unwrap_or_default();
            if let Some(count) = tool.count(&text) {
                return Ok(count);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{tool:?} were not counted: {}", text.trim())));
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
