//! A filter under an echo: on a connection that was accepted, and on one of our own.
//!
//! ```text
//!   wire   greeting │ block 0 │ block 1 │ …            what the peer says, and hears again
//!   plain           │ 0, block 0 │ 1, block 1 │ …      what the handler hears, and gives back
//! ```
//!
//! The filter numbers what comes in, and takes the numbers off what goes out: so it would see a byte that is lost or
//! doubled on its way through the handler. Before what comes back stands its greeting, behind it the farewell.

use super::super::peer::{Act, speech};
use super::super::stage::{Entered, Stage, Trouble, wrong};
use super::echo::Echo;
use super::{tcp_host, tcp_peer};
use crate::filter::Filter;
use crate::options::{ListenOptions, StreamOptions};
use bytes::BytesMut;
use std::io;
use std::rc::Rc;

/// Input is decoded in blocks, so that some of it waits.
const BLOCK: usize = 1_000;

/// A number has so many bytes.
const NUMBER: usize = 4;

/// So much is said before anything is heard.
const SPEECH: usize = 300 * BLOCK;

const GREETING: &[u8] = b"well met";
const FAREWELL: &[u8] = b"farewell";

#[derive(Default)]
struct Numbers {
    /// Blocks that have come in.
    decoded: u32,
    /// The block that goes out now, and how much of it and its number has gone.
    encoded: u32,
    place: usize,
}

impl Filter for Numbers {
    fn decode(&mut self, wire: &mut BytesMut, plain: &mut BytesMut, reply: &mut BytesMut) -> io::Result<()> {
        if self.decoded == 0 && wire.len() >= BLOCK {
            reply.extend_from_slice(GREETING);
        }
        for block in wire.split_to(wire.len() / BLOCK * BLOCK).chunks(BLOCK) {
            plain.extend_from_slice(&self.decoded.to_be_bytes());
            plain.extend_from_slice(block);
            self.decoded += 1;
        }
        Ok(())
    }

    fn encode(&mut self, mut plain: &[u8], wire: &mut BytesMut) -> io::Result<()> {
        while !plain.is_empty() {
            let number = self.encoded.to_be_bytes();
            let end = if self.place < NUMBER { NUMBER } else { NUMBER + BLOCK };
            let (piece, rest) = plain.split_at(plain.len().min(end - self.place));
            if end > NUMBER {
                wire.extend_from_slice(piece);
            } else if number[self.place..][..piece.len()] != *piece {
                return Err(io::ErrorKind::InvalidData.into());
            }
            plain = rest;
            self.place += piece.len();
            if self.place == NUMBER + BLOCK {
                (self.encoded, self.place) = (self.encoded + 1, 0);
            }
        }
        Ok(())
    }

    fn finish(&mut self, wire: &mut BytesMut) -> io::Result<()> {
        wire.extend_from_slice(FAREWELL);
        Ok(())
    }
}

/// A peer that we accept and one that we connect to say more than the buffers hold before they read.
pub fn filter(stage: &mut Stage) -> Result<(), Trouble> {
    let script = [Act::SendDeaf(SPEECH), Act::Shutdown];
    let (host, upstream) = tcp_host(2, &script);
    stage.hosts.push(host);
    let small = Rc::new(StreamOptions::new().with(|o| {
        o.send_buffer = Some(32 * 1024);
        o.receive_buffer = Some(32 * 1024);
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    }));
    let options = ListenOptions::new().with(|o| o.stream = (*small).clone());
    let listener = stage.net().listen_with("127.0.0.1:0", options, |ctx, _| {
        ctx.net.filter(ctx.token, Numbers::default());
        Some(Entered::new(ctx.app, Echo { in_pieces: false }))
    })?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &script));
    let echo = Entered::new(&mut stage.reactor.app, Echo { in_pieces: true });
    let ours = stage.net().connect_with(upstream, small, echo);
    stage.net().filter(ours, Numbers::default());
    stage
        .until("peers have their echo", |stage| stage.peers_ended() && (stage.peers.len() == 2 || !stage.unharmed()))?;
    let whole = |at: usize| [GREETING, speech(at as u8 + 1, SPEECH), FAREWELL].concat();
    if let Some((at, _)) = (0..).zip(&stage.peers).find(|(at, peer)| !whole(*at).starts_with(&peer.received)) {
        return Err(wrong(format!("peer {at} has got what it did not send")));
    }
    stage.all_but_the_harmed(|at, peer| peer.received.len() == whole(at).len())
}
