//! The peers: one connection each, with a way to behave that was drawn for it.
//!
//! Every peer knows what it has sent and checks what comes back against it. There are three ways to end. *Whole*: both
//! halves ended and all that was sent has come back. *Cut*: the peer itself ended early, as it was drawn to, and what
//! had come was what was sent first. Anything else is an error.

use crate::Soak;
use crate::stream::{PIECE_MAX_BYTES, first_difference, piece};
use fastrand::Rng;
use plimsoll::{BytesMut, CloseReason, Ctx, Flow, Handler, StreamOptions};
use std::time::Duration;

/// Timers of a peer.
const SEND_ON: u32 = 0;
const READ_ON: u32 = 1;
const WAKE: u32 = 2;

/// A peer's receive buffer where it is to fill soon. The kernel doubles it.
const NARROW_BYTES: usize = 16 * 1024;

/// How a peer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Small messages, each sent when the last has come back.
    Chat,
    /// One long stream, sent as fast as it is taken.
    Bulk,
    /// Sends everything, ends its half at once, and then reads.
    HalfClose,
    /// Reads a little, waits, reads a little.
    Slow,
    /// Stops reading in the middle of a long stream for seconds.
    Pause,
    /// One message, a long silence, another one.
    Idle,
    /// Ends with an RST in the middle.
    Reset,
    /// Closes in the middle, although more would come.
    Leave,
    /// Connects and closes.
    Touch,
    /// Connects and resets.
    Poke,
}

impl Manner {
    pub const ALL: [Manner; 10] = [
        Manner::Chat,
        Manner::Bulk,
        Manner::HalfClose,
        Manner::Slow,
        Manner::Pause,
        Manner::Idle,
        Manner::Reset,
        Manner::Leave,
        Manner::Touch,
        Manner::Poke,
    ];

    /// How much a peer of this manner sends if nothing cuts it short.
    fn length(self, chance: &mut Rng) -> u64 {
        // Each power of two is as likely as the next: small streams are many, large ones carry the bytes.
        let mut up_to = |most: u32| {
            let power = chance.u32(6..=most);
            chance.u64(0..1 << power)
        };
        match self {
            Manner::Chat => 1 + up_to(14),
            Manner::Bulk | Manner::Reset | Manner::Leave => 1 + up_to(22),
            Manner::HalfClose => up_to(18),
            Manner::Slow | Manner::Pause => 1 + up_to(23),
            Manner::Idle => 2 + up_to(10),
            Manner::Touch | Manner::Poke => 0,
        }
    }

    pub fn options(self) -> StreamOptions {
        let narrow = matches!(self, Manner::Slow | Manner::Pause);
        StreamOptions::new().with(|o| {
            // A peer that is not read from while it waits to be read waits for ever.
            o.read_while_high = true;
            o.receive_buffer = narrow.then_some(NARROW_BYTES);
            o.read_budget = if narrow { 1 } else { o.read_budget };
        })
    }
}

pub struct Peer {
    manner: Manner,
    /// Which server it talks to.
    server: &'static str,
    chance: Rng,
    /// Where in the pattern its stream begins.
    origin: u64,
    /// What it means to send, may send by now, has sent, and has had back.
    length: u64,
    due: u64,
    sent: u64,
    back: u64,
    /// It ended, or was made to end, before the stream's end.
    cut: bool,
    /// A paused one has had its pause.
    rested: bool,
    /// When this much has come back, it ends early.
    cut_at: u64,
}

impl Peer {
    pub fn new(manner: Manner, server: &'static str, mut chance: Rng) -> Peer {
        let length = manner.length(&mut chance);
        let cut_at = match manner {
            Manner::Reset | Manner::Leave => chance.u64(0..length),
            _ => u64::MAX,
        };
        let origin = chance.u64(0..1 << 40);
        let due = match manner {
            Manner::Chat | Manner::Idle => 1,
            _ => length,
        };
        Peer { manner, server, chance, origin, length, due, sent: 0, back: 0, cut: false, rested: false, cut_at }
    }

    /// Ends soon: what was sent is all there is, and nothing is waited for.
    pub fn hurry(&mut self, ctx: &mut Ctx<'_, Soak>) {
        self.rested = true;
        self.length = self.sent;
        self.due = self.sent;
        ctx.resume_reading();
        ctx.shutdown();
    }

    /// Sends what is due, as far as the connection and the common rate have room; ends our half behind the last byte.
    fn send_on(&mut self, ctx: &mut Ctx<'_, Soak>) {
        while self.sent < self.due {
            let wanted = (self.due - self.sent).min(PIECE_MAX_BYTES as u64) as usize;
            let granted = ctx.app.rate.take(ctx.net.now(), wanted);
            if granted == 0 {
                let wait = Duration::from_millis(self.chance.u64(50..500));
                return ctx.timer(SEND_ON, wait);
            }
            let flow = ctx.send(piece(self.origin + self.sent, granted));
            if flow == Flow::Closed {
                return;
            }
            self.sent += granted as u64;
            ctx.app.ledger.sent += granted as u64;
            if flow == Flow::High {
                return;
            }
        }
        if self.sent == self.length {
            ctx.shutdown();
        }
    }

    /// What a peer does about what has come.
    fn react(&mut self, ctx: &mut Ctx<'_, Soak>) {
        if self.back >= self.cut_at {
            return self.cut(ctx);
        }
        match self.manner {
            Manner::Chat if self.back == self.sent && self.sent < self.length => {
                self.due = (self.sent + self.chance.u64(1..=1024)).min(self.length);
                self.send_on(ctx);
            }
            Manner::Idle if self.back == self.sent && self.sent < self.length => {
                ctx.timer(WAKE, Duration::from_millis(self.chance.u64(1000..30_000)));
            }
            Manner::Slow if !self.rested => {
                ctx.pause_reading();
                ctx.timer(READ_ON, Duration::from_millis(self.chance.u64(1..100)));
            }
            Manner::Pause if !self.rested && self.back >= self.length / 2 => {
                self.rested = true;
                ctx.pause_reading();
                ctx.timer(READ_ON, Duration::from_millis(self.chance.u64(500..5000)));
            }
            _ => {}
        }
    }

    fn cut(&mut self, ctx: &mut Ctx<'_, Soak>) {
        self.cut = true;
        match self.manner {
            Manner::Reset | Manner::Poke => ctx.abort(),
            _ => ctx.close(),
        }
    }

    /// What is wrong with the way the connection ended.
    fn complaint(&self, why: &CloseReason, cut_short: bool) -> Option<String> {
        let (back, sent) = (self.back, self.sent);
        match why {
            CloseReason::Done if back == sent && sent == self.length => None,
            CloseReason::Done => Some(format!("ended in order, but {back} of {sent} bytes came back")),
            CloseReason::Aborted | CloseReason::Local if self.cut => None,
            _ if cut_short => None,
            why => Some(format!("{why}, when {back} of {sent} bytes had come back")),
        }
    }
}

impl Handler<Soak> for Peer {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Soak>) {
        match self.manner {
            Manner::Touch | Manner::Poke => self.cut(ctx),
            _ => self.send_on(ctx),
        }
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Soak>, input: &mut BytesMut) {
        if let Some(place) = first_difference(self.origin + self.back, input) {
            let place = place - self.origin;
            ctx.app.ledger.complain(format!("{:?} of {}: byte {place} is not what was sent", self.manner, self.server));
            self.cut = true;
            return ctx.abort();
        }
        self.back += input.len() as u64;
        ctx.app.ledger.back += input.len() as u64;
        input.clear();
        self.react(ctx);
    }

    fn on_low_water(&mut self, ctx: &mut Ctx<'_, Soak>) {
        self.send_on(ctx);
    }

    fn on_timer(&mut self, ctx: &mut Ctx<'_, Soak>, key: u32) {
        match key {
            READ_ON => ctx.resume_reading(),
            WAKE => {
                self.due = self.length;
                self.send_on(ctx);
            }
            _ => self.send_on(ctx),
        }
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Soak>, why: CloseReason) {
        let complaint = self.complaint(&why, ctx.app.cut_short);
        let ledger = &mut ctx.app.ledger;
        ledger.ended[self.manner as usize] += 1;
        ledger.open -= 1;
        if matches!(why, CloseReason::Done) {
            ledger.whole_sent += self.sent;
            ledger.whole_back += self.back;
        }
        if let Some(complaint) = complaint {
            ledger.complain(format!("{:?} of {}: {complaint}", self.manner, self.server));
        }
    }
}
