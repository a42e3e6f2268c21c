//! Counted rounds: the same work in every run, for counts that are exact.
//!
//! Here the sockets block, and what is done next depends on what was told and never on the clock. The difference of
//! two runs of different length is then the price of what the longer one did more.
//!
//! ```text
//!   echo     every connection: write, write, write …    every connection: read, read, read …                       R rounds
//!   pairs    every pair: write …    every far end: read …    every far end: write …    every pair: read …   R rounds
//! ```

use super::pattern::{CHUNK_BYTES, Pattern};
use super::peer::Peer;
use super::upstream::Upstream;
use std::io;

/// `len` bytes on every connection and back, in each round; through the upstream, where there is one.
pub fn run(
    peers: &mut [Peer],
    rounds: u64,
    len: usize,
    pattern: &Pattern,
    mut upstream: Option<&mut Upstream>,
) -> io::Result<()> {
    let mut input = vec![0; CHUNK_BYTES];
    for _ in 0..rounds {
        peers.iter_mut().try_for_each(|peer| peer.write_all(len, pattern))?;
        if let Some(upstream) = &mut upstream {
            upstream.answer_all(len)?;
        }
        peers.iter_mut().try_for_each(|peer| peer.read_all(&mut input, pattern))?;
    }
    Ok(())
}
