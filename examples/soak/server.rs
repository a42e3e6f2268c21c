//! A process that is watched: what it holds of memory, descriptors and processor, as the kernel counts it.
//!
//! The servers are processes of their own, so that what is counted is theirs alone; they are the built examples
//! as anybody would start them. `soak` watches itself in the same way.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A stop lets connections flush for 5 s; who takes longer hangs.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// The kernel counts processor time in hundredths of a second, whatever its own clock does: proc(5).
const TICK: Duration = Duration::from_millis(10);

/// One of the examples, running.
pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts the example `name` of `directory` on a free port, with what else it is to be told.
    pub fn start(directory: &Path, name: &'static str, further: &[String]) -> io::Result<Server> {
        let path = directory.join(name);
        let mut command = Command::new(&path);
        command.arg("127.0.0.1:0").args(further).stdin(Stdio::null()).stdout(Stdio::piped());
        // An interrupt from the terminal is for us, who end them when all is counted.
        command.process_group(0);
        let about = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let mut child = command.spawn().map_err(about)?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim_end().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        match address {
            Some(address) => Ok(Server { name, address, child }),
            None => {
                let _ = child.kill();
                Err(about(io::Error::other(format!("it says {line:?} and not where it listens"))))
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it as an operator would, and says what is wrong with the way it ended.
    pub fn stop(mut self) -> Result<(), String> {
        let name = self.name;
        kill(Pid::from_raw(self.id() as i32), Signal::SIGTERM).map_err(|e| format!("{name} was gone: {e}"))?;
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("{name} ended with {status}")),
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
        Err(format!("{name} did not end when told to"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended by then, unless something went wrong with us.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process holds at one moment.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Memory of its own, the program's file not counted.
    pub bytes: u64,
    pub descriptors: usize,
    /// Processor time used since its start.
    pub busy: Duration,
}

impl Holdings {
    /// All nothing for a process that is gone.
    pub fn of(process: u32) -> Holdings {
        let file = |name| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
        let resident = file("status").lines().find_map(|line| kib(line.strip_prefix("RssAnon:")?));
        // The second field is the name in parentheses, which may hold anything.
        let stat = file("stat");
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
        Holdings {
            bytes: resident.unwrap_or(0),
            descriptors: fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count),
            busy: TICK * ticks,
        }
    }
}

fn kib(text: &str) -> Option<u64> {
    text.trim().strip_suffix(" kB")?.parse().ok().map(|kib: u64| kib * 1024)
}
