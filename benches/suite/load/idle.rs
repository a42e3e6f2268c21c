//! Idle connections: opened, used once, and held while somebody else looks at the server's memory.
//!
//! ```text
//!   open N ┊ closed ┊ again ┊        at each ┊ a line on standard input is waited for
//! ```
//!
//! `again` is one more connection, come and gone: what a server gives back only when it is next woken is given back
//! by then.

use super::pattern::Pattern;
use super::peer::{Peer, dial_each};
use std::io::{self, Write};

/// Bytes of the one message.
const MESSAGE_BYTES: usize = 64;

/// Opens, closes, and comes again, at the pace of whoever writes the lines. Where a relay is measured it is this that it
/// relays: its upstream is somebody else.
pub fn run(port: u16, connections: usize) -> io::Result<()> {
    let pattern = Pattern::noise();
    let open = |numbers| dial_each(port, numbers, MESSAGE_BYTES, &pattern);
    let peers = open(0..connections)?;
    say(&format!("open {}", peers.len()))?;
    close(peers)?;
    say("closed")?;
    close(open(connections..connections + 1)?)?;
    say("again")
}

/// Our ends first, and then the server's.
fn close(peers: Vec<Peer>) -> io::Result<()> {
    peers.iter().try_for_each(Peer::shut_down)?;
    peers.into_iter().try_for_each(Peer::expect_end)
}

fn say(what: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{what}")?;
    io::stdin().read_line(&mut String::new()).map(|_| ())
}
