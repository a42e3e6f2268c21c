//! The machine: what a reader has to know about it before any figure means something.

use crate::namespace;
use crate::result::Machine;
use nix::sched::sched_getaffinity;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Command;

/// What can be found out of where we run. Which processors do what, and whether the network is our own, is for the
/// driver to say.
pub fn describe(cores: &[usize], descriptor_limit: u64) -> Machine {
    Machine {
        cpu: line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: cores.len() as u32,
        memory_bytes: memory_bytes(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| unknown(), |it| it.trim().to_owned()),
        rustc: said_by("rustc", &["--version"]).unwrap_or_else(unknown),
        versions: versions(),
        congestion_control: namespace::congestion_control(),
        namespace: false,
        server_core: None,
        load_core: None,
        descriptor_limit,
    }
}

/// The processors that we may use.
pub fn cores() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..nix::sched::CpuSet::count()).filter(|core| allowed.is_set(*core) == Ok(true)).collect())
}

/// Whether two processors are threads of one core, and slow each other.
pub fn are_siblings(one: usize, other: usize) -> bool {
    let path = format!("/sys/devices/system/cpu/cpu{one}/topology/thread_siblings_list");
    let list = fs::read_to_string(path).unwrap_or_default();
    // `0,4` or `0-1`.
    list.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&other))
    })
}

/// As many descriptors as this user may have; whatever we start inherits it.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

pub fn memory_bytes() -> u64 {
    let kib = line_of("/proc/meminfo", "MemTotal").and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// RFC 3339, in UTC.
pub fn now() -> String {
    said_by("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).unwrap_or_else(unknown)
}

/// Whether there is such a program.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

fn versions() -> BTreeMap<String, String> {
    let mut versions = BTreeMap::from([("plimsoll".to_owned(), plimsoll())]);
    // Where cargo starts us it says where the manifest is, and the lock file lies beside it.
    let lock = std::env::var("CARGO_MANIFEST_DIR").and_then(|directory| {
        fs::read_to_string(format!("{directory}/Cargo.lock")).map_err(|_| std::env::VarError::NotPresent)
    });
    for package in ["tokio", "mio"] {
        let version = lock.as_ref().ok().and_then(|lock| locked(lock, package));
        versions.insert(package.to_owned(), version.unwrap_or_else(unknown));
    }
    versions
}

fn plimsoll() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match said_by("git", &["describe", "--always", "--dirty"]) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

fn locked(lock: &str, package: &str) -> Option<String> {
    let rest = lock.split(&format!("name = \"{package}\"\nversion = \"")).nth(1)?;
    Some(rest.split('"').next()?.to_owned())
}

fn line_of(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !said.is_empty()).then_some(said)
}

fn unknown() -> String {
    "unknown".to_owned()
}
