//! The built examples as processes: started, watched from outside, ended.

use super::{DEADLINE, peer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

fn path(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("this test has a file");
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}

/// One of the examples, to be given arguments and started.
pub fn example(name: &str) -> Command {
    prepared(Command::new(path(name)))
}

fn prepared(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command
}

/// Reads all along, until the server has ended: one whose log is a full pipe stands still.
fn collect(stderr: ChildStderr) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let log = Arc::new(Mutex::new(String::new()));
    let writer = log.clone();
    let collector = thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = writer.lock().expect("nobody panics with it");
            log.push_str(&line);
            log.push('\n');
        }
    });
    (log, collector)
}

/// A server that is killed when the test is over, however it ends.
pub struct Server {
    child: Child,
    pub address: String,
    /// Its stderr so far: see [`Server::logs`].
    log: Arc<Mutex<String>>,
    collector: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(name: &str, arguments: &[&str]) -> Server {
        Server::of(example(name).args(arguments))
    }

    /// One that says in its log how each connection ends.
    pub fn start_with_log(name: &str, arguments: &[&str]) -> Server {
        Server::of(example(name).args(arguments).env("RUST_LOG", "info"))
    }

    /// One that may have so many descriptors.
    pub fn start_with_descriptors(limit: usize, name: &str, arguments: &[&str]) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]).arg(path(name)).args(arguments);
        Server::of(&mut prepared(command))
    }

    fn of(command: &mut Command) -> Server {
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.strip_prefix("listening on ").and_then(|line| line.strip_suffix('\n'));
        let address = address.unwrap_or_else(|| panic!("{command:?} says {line:?}")).to_owned();
        let (log, collector) = collect(child.stderr.take().expect("a pipe"));
        Server { child, address, log, collector: Some(collector) }
    }

    /// Waits until it has logged `what`, a given number of times. That it logs no more, or nothing at all, is seen in
    /// what [`Server::ends_in_order`] answers: a line may be late.
    #[track_caller]
    pub fn logs(&self, what: &str, times: usize) {
        assert!(times > 0, "this would wait for nothing");
        let deadline = Instant::now() + DEADLINE;
        loop {
            let log = self.log.lock().expect("nobody panics with it").clone();
            if log.matches(what).count() == times {
                return;
            }
            assert!(Instant::now() < deadline, "not {times} times {what:?}: {log}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn ip(&self) -> SocketAddr {
        self.address.parse().expect("an IP address")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_none()
    }

    /// How it ends, without being killed.
    #[track_caller]
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).expect("it runs")
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// Memory of its own, in bytes.
    pub fn memory(&self) -> usize {
        let status = self.proc("status");
        let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        kib.expect("Linux counts it").parse::<usize>().expect("a number") * 1024
    }

    /// Processor time that it has used, to a hundredth of a second.
    pub fn busy(&self) -> Duration {
        let stat = self.proc("stat");
        // The second field is the name in parentheses, which may hold anything.
        let after_name = stat.rsplit(')').next().expect("fields");
        let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().expect("a number"));
        Duration::from_millis(10) * ticks.sum::<u32>()
    }

    /// That it sleeps while nobody does anything. A loop that spins has a processor all the time, or what a busy
    /// machine leaves it, which is more than the twentieth part.
    #[track_caller]
    pub fn idles(&self) {
        let busy = self.busy();
        thread::sleep(Duration::from_secs(1));
        let spent = self.busy() - busy;
        assert!(spent <= Duration::from_millis(50), "it is busy with nothing: {spent:?} of a second");
    }

    /// That an ordinary peer is served at once. What it says is a frame, and to an echo ten bytes.
    #[track_caller]
    pub fn serves(&self) {
        let message = b"\0\0\0\x06polite";
        let mut polite = peer(self.ip());
        polite.write_all(message).expect("written");
        let mut answer = [0; 10];
        polite.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, message);
    }

    /// Waits until it holds `descriptors` again: everybody else has gone.
    #[track_caller]
    pub fn comes_back_to(&self, descriptors: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.descriptors() != descriptors {
            assert!(Instant::now() < deadline, "{} descriptors, {descriptors} before", self.descriptors());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM ends it in order. All that it has logged.
    #[track_caller]
    pub fn ends_in_order(mut self) -> String {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.wait(), Some(0));
        let collector = self.collector.take().expect("it is joined here alone");
        collector.join().expect("it reads to the end");
        std::mem::take(&mut *self.log.lock().expect("nobody panics with it"))
    }

    /// The same, and so many lines have this in them.
    #[track_caller]
    pub fn ends_having_logged(self, what: &str, times: usize) {
        let log = self.ends_in_order();
        assert_eq!(log.lines().filter(|line| line.contains(what)).count(), times, "{what:?}: {log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
