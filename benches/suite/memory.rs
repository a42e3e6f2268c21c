//! Memory: what a connection costs that does nothing, what stays when it has gone, and what a slow reader may pile up.
//!
//! ```text
//!  bytes ▲           ┌───────────── open
//!        │         ╱                         closed: what the allocator keeps of it
//!        │  before                           again: one more has come and gone, and the allocator had a reason to look
//!        └──────────────────────────────► time
//! ```
//!
//! It is what the kernel has given to the process for itself, so it contains what the allocator adds. *Before* is
//! after the first fifty connections have come and gone: what is allocated for the first one serves all.

use crate::process::Process;
use crate::result::Sample;
use crate::rivals::Role;
use crate::server::{Cores, Load, Server, Side};
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long tens of thousands of connections may take to come or to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// What memory is read after at most, while it may grow.
const GLANCE: Duration = Duration::from_millis(20);

/// Bytes per connection that has exchanged one message and is idle; of a relay, per pair.
pub fn idle(side: &Side, role: Role, connections: u64, cores: &Cores) -> io::Result<Sample> {
    // The relay's upstream. It is not what is measured, but it would have the relay wait.
    let upstream = match role {
        Role::Relay => Some(Server::start(&Side::ours("floor"), Role::Echo, None, &[], cores)?),
        _ => None,
    };
    let address = upstream.as_ref().map(|it| (std::net::Ipv4Addr::LOCALHOST, it.port).into());
    let server = Server::start(side, role, address, &[], cores)?;
    let descriptors = server.process.descriptors()?;
    let settled = |process: &Process| -> io::Result<u64> {
        process.wait_for_descriptors(descriptors, PATIENCE)?;
        process.private_bytes()
    };
    churn(&server, cores)?;
    let before = settled(&server.process)?;

    let mut load = Load::start(&["idle".to_owned(), "--connections".to_owned(), connections.to_string()], cores)?;
    load.go(&server)?;
    await_line(&mut load, "open")?;
    let open = server.process.private_bytes()?;
    load.process.tell("")?;
    await_line(&mut load, "closed")?;
    let closed = settled(&server.process)?;
    load.process.tell("")?;
    await_line(&mut load, "again")?;
    let again = settled(&server.process)?;
    load.process.tell("")?;
    let mut sample = load.sample(PATIENCE)?;
    server.process.stop()?;
    if let Some(upstream) = upstream {
        upstream.process.stop()?;
    }

    let name = if role == Role::Relay { "bytes_per_pair" } else { "bytes_per_connection" };
    for (after, bytes) in [("", open), ("_after_close", closed), ("_after_one_more", again)] {
        // The allocator may give back more than the connections have taken.
        let each = bytes.saturating_sub(before) as f64 / connections as f64;
        sample.figures.insert(format!("{name}{after}"), each);
    }
    Ok(sample)
}

/// How a relay grows, from its start to its largest while the reader stands still.
pub fn slow(side: &Side, mib: u64, stop_seconds: u64, cores: &Cores) -> io::Result<Sample> {
    let words = format!("relay-slow --mib {mib} --stop {stop_seconds}");
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let mut load = Load::start(&words, cores)?;
    let server = Server::start(side, Role::Relay, load.upstream, &[], cores)?;
    let before = server.process.private_bytes()?;
    load.go(&server)?;
    await_line(&mut load, "stopped")?;
    let mut most = before;
    let until = Instant::now() + Duration::from_secs(stop_seconds);
    while Instant::now() + GLANCE < until {
        most = most.max(server.process.private_bytes()?);
        sleep(GLANCE);
    }
    await_line(&mut load, "resumed")?;
    let mut sample = load.sample(PATIENCE)?;
    server.process.stop()?;
    sample.figures.insert("growth_bytes".to_owned(), (most - before) as f64);
    Ok(sample)
}

fn churn(server: &Server, cores: &Cores) -> io::Result<()> {
    let mut load = Load::start(&["churn".to_owned(), "--count".to_owned(), "50".to_owned()], cores)?;
    load.go(server)?;
    load.sample(PATIENCE).map(drop)
}

fn await_line(load: &mut Load, expected: &str) -> io::Result<()> {
    let line = load.process.line(PATIENCE)?;
    if line.split(' ').next() == Some(expected) {
        return Ok(());
    }
    Err(load.process.fault(&format!("was to say {expected:?} and says {line:?}")))
}
