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
use super::upstream::Upstream;
use std::io::{self, Write};

/// Bytes of the one message.
const MESSAGE_BYTES: usize = 64;

/// Opens, closes, and comes again, at the pace of whoever writes the lines.
pub fn run(port: u16, connections: usize, mut upstream: Option<Upstream>) -> io::Result<()> {
    let pattern = Pattern::noise();
    let mut open = |numbers: std::ops::Range<usize>| match &mut upstream {
        None => Ok((dial_each(port, numbers, MESSAGE_BYTES, &pattern)?, Vec::new())),
        Some(upstream) => {
            let peers = upstream.dial_pairs(port, numbers, MESSAGE_BYTES, &pattern)?;
            Ok::<_, io::Error>((peers, std::mem::take(&mut upstream.streams)))
        }
    };
    let (peers, far) = open(0..connections)?;
    say(&format!("open {}", peers.len()))?;
    close(peers, far)?;
    say("closed")?;
    let (peers, far) = open(connections..connections + 1)?;
    close(peers, far)?;
    say("again")
}

/// Each in order: our end, and the other's, through the relay where there is one.
fn close(peers: Vec<Peer>, far: Vec<std::net::TcpStream>) -> io::Result<()> {
    peers.iter().try_for_each(Peer::shut_down)?;
    for (number, mut stream) in far.into_iter().enumerate() {
        super::bulk::expect_end(&mut stream, &format!("the end of pair {number} did not come through"))?;
    }
    peers.into_iter().try_for_each(Peer::expect_end)
}

fn say(what: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{what}")?;
    io::stdin().read_line(&mut String::new()).map(|_| ())
}
