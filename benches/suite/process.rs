//! Processes: the programs that the driver starts, and that end when it does.
//!
//! ```text
//!  driver ──► suite child --parent PID --cores 0 -- PROGRAM …        pins itself, asks to die with the driver, becomes
//!                                └──exec──► PROGRAM                  the program: so one number names it all the while
//! ```
//!
//! The rule: none is left behind. [`Process`] kills on drop; and if the driver itself is killed, the kernel kills
//! them, since each has asked for it (PR_SET_PDEATHSIG) before it became what it is. Nobody is waited for without
//! a limit either. None has huge pages that it has not asked for: where the system hands them out to all, two MiB at a
//! time would be whose memory is measured. Each has a process group of its own, so that Ctrl-C at a terminal ends the driver and not the server
//! a moment before, which would look like a fault of the server.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getppid};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a program may take to end when it was told to. Long enough for a graceful stop with its own deadline of 5 s.
const ENDING: Duration = Duration::from_secs(15);

/// How often we look whether a program has ended. Without a thread there is nothing better that std offers.
const GLANCE: Duration = Duration::from_millis(1);

/// How much of what a program says on its way out is kept.
const COMPLAINT_MAX_BYTES: u64 = 4096;

/// A program that runs.
pub struct Process {
    name: String,
    child: Child,
    /// A file without a name: a pipe would hold it up if it had much to say and nobody read.
    stderr: File,
    /// Read from its stdout and not yet taken.
    said: Vec<u8>,
    /// Who is to be told to end, where that is another: a tool may stay outside of what it runs.
    inner: Option<Pid>,
    is_tool: bool,
    /// Once it was waited for. Its number may be another's from then on.
    status: Option<ExitStatus>,
}

/// Whether anybody listens to what a program says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    Heard,
    /// Else a program that logs would stop when the pipe is full.
    Ignored,
}

impl Process {
    /// Starts a program on some processors; on all that we may use, if none are named.
    pub fn start(name: &str, cores: &[usize], stdout: Stdout, program: &[String]) -> io::Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["child", "--parent", &std::process::id().to_string()]);
        if !cores.is_empty() {
            let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
            command.args(["--cores", &cores.join(",")]);
        }
        command.arg("--").args(program);
        let stderr = nameless_file()?;
        command.process_group(0).stdin(Stdio::piped()).stderr(stderr.try_clone()?);
        command.stdout(if stdout == Stdout::Heard { Stdio::piped() } else { Stdio::null() });
        Ok(Process {
            name: name.to_owned(),
            child: command.spawn()?,
            stderr,
            said: Vec::new(),
            inner: None,
            is_tool: false,
            status: None,
        })
    }

    /// What it is, is a tool. If that has started the program and not become it, it is the program that is told to end.
    pub fn look_inside(&mut self) {
        self.is_tool = true;
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        self.inner = children.split_whitespace().next().and_then(|child| child.parse().ok()).map(Pid::from_raw);
    }

    /// Tells it to end, and sees that it does so as it was told.
    pub fn stop(mut self) -> io::Result<()> {
        if self.glance()?.is_none() {
            kill(self.inner.unwrap_or(self.group()), Signal::SIGTERM)?;
        }
        let status = self.wait(ENDING)?;
        // SIGTERM is how those end who do not listen to it.
        if status.success() || status.signal() == Some(Signal::SIGTERM as i32) {
            return Ok(());
        }
        Err(self.fault("did not end in order"))
    }

    /// Waits for the end of what ends by itself.
    pub fn end(mut self, patience: Duration) -> io::Result<()> {
        if self.wait(patience)?.success() { Ok(()) } else { Err(self.fault("failed")) }
    }

    /// The next line that it says, without its end.
    pub fn line(&mut self, patience: Duration) -> io::Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.said.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let Some(stdout) = &mut self.child.stdout else { return Err(self.fault("is not listened to")) };
            if !readable(stdout, deadline.saturating_duration_since(Instant::now()))? {
                return Err(self.fault(&format!("said nothing for {} s", patience.as_secs())));
            }
            let mut chunk = [0; 4096];
            match stdout.read(&mut chunk)? {
                0 => return Err(self.fault("ended too soon")),
                n => self.said.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// Says a line to it.
    pub fn tell(&mut self, line: &str) -> io::Result<()> {
        let Some(stdin) = &mut self.child.stdin else { return Ok(()) };
        let told = writeln!(stdin, "{line}");
        told.map_err(|_| self.fault("ended too soon"))
    }

    /// An error that says what it did, how it ended, and what it complained of.
    pub fn fault(&mut self, what: &str) -> io::Error {
        // What has ended its stdout is about to end.
        let patience = Instant::now() + Duration::from_millis(200);
        while matches!(self.glance(), Ok(None)) && Instant::now() < patience {
            sleep(GLANCE);
        }
        let ended = self.status.map(|status| format!(" ({status})")).unwrap_or_default();
        let complaint = self.complaint();
        let colon = if complaint.is_empty() { "" } else { ": " };
        io::Error::other(format!("{} {what}{ended}{colon}{complaint}", self.name))
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.glance(), Ok(Some(_)))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of its own: pages that no file stands behind. (Private_Dirty would also count the pages of a program that
    /// was built a moment ago and is not on the disk yet.)
    pub fn private_bytes(&self) -> io::Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("there is no 'Anonymous' in smaps_rollup"))
    }

    /// Waits until it has no more descriptors than these: those of ended connections are closed.
    pub fn wait_for_descriptors(&self, at_most: usize, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        while self.descriptors()? > at_most {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{} keeps descriptors of connections that ended", self.name)));
            }
            sleep(10 * GLANCE);
        }
        Ok(())
    }

    pub fn descriptors(&self) -> io::Result<usize> {
        let pid = self.inner.map_or(self.pid() as i32, Pid::as_raw);
        Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.pid() as i32)
    }

    fn glance(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.end_the_orphans();
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// What it has started itself ends with it. As long as it has ended and was not waited for, its number is nobody
    /// else's. Not so under a tool, which may write its table when the server has ended.
    fn end_the_orphans(&self) {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let ended = waitid(Id::Pid(self.group()), look).is_ok_and(|status| status != WaitStatus::StillAlive);
        if ended && !self.is_tool {
            // There are none, mostly.
            let _ = killpg(self.group(), Signal::SIGKILL);
        }
    }

    fn wait(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.glance()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(self.fault("does not end"));
            }
            sleep(GLANCE);
        }
    }

    /// The end of what stands in its stderr by now.
    fn complaint(&mut self) -> String {
        let mut complaint = Vec::new();
        let len = self.stderr.metadata().map_or(0, |it| it.len());
        let start = SeekFrom::Start(len.saturating_sub(COMPLAINT_MAX_BYTES));
        let read = self.stderr.seek(start).and_then(|_| self.stderr.read_to_end(&mut complaint));
        read.map_or(String::new(), |_| String::from_utf8_lossy(&complaint).trim().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.glance() {
            // Also what it has started itself. Where it is too early for a group, there is only itself.
            if killpg(self.group(), Signal::SIGKILL).is_err() {
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

/// Whether there is something to read, or the end, in time.
fn readable(stream: &impl AsFd, patience: Duration) -> io::Result<bool> {
    let patience = PollTimeout::try_from(patience).map_err(io::Error::other)?;
    loop {
        match poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], patience) {
            Err(Errno::EINTR) => continue,
            ready => return Ok(ready? > 0),
        }
    }
}

/// A file to write to, of which nothing is left when its last descriptor is closed.
fn nameless_file() -> io::Result<File> {
    let path = own_path("stderr");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// A path that no other run of the suite uses at the same time.
pub fn own_path(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("suite.{}.{what}", std::process::id()))
}

/// Becomes a program that is pinned and that dies with the driver. Returns only if it cannot.
pub fn become_child(parent: Option<i32>, cores: &[usize], program: &[String]) -> io::Error {
    let prepared = (|| {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // It outlasts exec.
        prctl::set_thp_disable(true)?;
        // It may have died before we asked.
        if parent.is_some_and(|parent| getppid().as_raw() != parent) {
            return Err(Errno::ESRCH);
        }
        if cores.is_empty() { Ok(()) } else { pin(cores) }
    })();
    match (prepared, program) {
        (Err(e), _) => e.into(),
        (Ok(()), [program, arguments @ ..]) => {
            let e = Command::new(program).args(arguments).exec();
            io::Error::new(e.kind(), format!("{program}: {e}"))
        }
        (Ok(()), []) => io::ErrorKind::InvalidInput.into(),
    }
}

/// Lets this process, and what it starts, run on these processors alone.
pub fn pin(cores: &[usize]) -> nix::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().try_for_each(|core| set.set(*core))?;
    sched_setaffinity(Pid::from_raw(0), &set)
}
