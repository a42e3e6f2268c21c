//! What the program is told of its connections.
//!
//! Every connection has the same handler, which watches what it is called for and how often, checks each byte, and
//! takes as much of its input as chance says.

use super::app::App;
use super::deeds::{act, close, send, shutdown};
use super::mask::mask_behind;
use super::oracle::{Direction, check, copy};
use super::probe::now;
use super::{dials, reasons};
use crate::handler::{CloseReason, Ctx, Handler};
use bytes::BytesMut;
use std::time::Duration;

/// A timer that runs later than this after its time is late: a turn takes less than a tenth of it.
pub const LATE: Duration = Duration::from_millis(20);

/// The handler of every connection.
pub struct Hand {
    pub stream: usize,
    pub life: usize,
}

impl Hand {
    /// No callback comes before `on_open` or after `on_close`, none but that when the program has closed the connection,
    /// and none to a handler that was replaced.
    pub fn called(&self, app: &mut App, what: &str) {
        if app.streams[self.stream].closed_at.is_some() {
            app.wrong(format!("stream {}: {what} after the program has closed it", self.stream));
        }
        let life = &app.lives[self.life];
        let (opened, closed) = (life.opened, life.closed);
        if closed > 0 || life.replaced || opened != 1 && what != "on_timer" && what != "tell" {
            let replaced = life.replaced;
            app.wrong(format!(
                "stream {}: {what} when on_open had come {opened} times, on_close {closed}; replaced: {replaced}",
                self.stream
            ));
        }
    }

    /// Checks input, and takes some of it.
    fn take(&self, app: &mut App, input: &mut BytesMut, all: bool) {
        if let Err(wrong) = self.check(app, input) {
            app.wrong(wrong);
        }
        let n = match app.chance.below(4) {
            _ if all || app.quiet => input.len(),
            0 | 1 => input.len(),
            2 => app.chance.below(input.len() as u64 + 1) as usize,
            _ => 0,
        };
        let _ = input.split_to(n);
        app.streams[self.stream].left = !input.is_empty();
        app.streams[self.stream].consumed += n as u64;
        if app.careless && n == 1 {
            app.streams[self.stream].consumed += 1;
        }
    }

    fn check(&self, app: &App, input: &[u8]) -> Result<(), String> {
        let stream = &app.streams[self.stream];
        let (from, end) = (stream.consumed, stream.consumed + input.len() as u64);
        match (stream.mirror, stream.masked) {
            (Some(other), _) => check(other, Direction::Out, from, input),
            (None, Some(masked)) => {
                let mut expected = copy(self.stream, Direction::In, from, end);
                // Decoded by the filter, which the peer does not have.
                mask_behind(&mut expected, from, masked.input_from);
                if expected == input {
                    return Ok(());
                }
                Err(format!("stream {}: {from} to {end} did not come through the filter as it should", self.stream))
            }
            (None, None) => check(self.stream, Direction::In, from, input),
        }
    }

    fn do_todo(&self, ctx: &mut Ctx<'_, App>) {
        for todo in std::mem::take(&mut ctx.app.streams[self.stream].todo) {
            act(ctx.app, ctx.net, todo, Some(self.stream));
        }
    }

    /// A filter that was put under the running callback decodes what that leaves.
    fn leave_to_filter(&self, app: &mut App) {
        let stream = &mut app.streams[self.stream];
        let consumed = stream.consumed;
        if let Some(masked) = &mut stream.masked {
            masked.input_from = masked.input_from.min(consumed);
        }
    }
}

impl Handler<App> for Hand {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.lives[self.life].opened += 1;
        self.called(ctx.app, "on_open");
        ctx.app.streams[self.stream].opened_at = Some(now());
        dials::opened(ctx.app, ctx.net, self.life, self.stream, ctx.token);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        self.called(ctx.app, "on_data");
        if input.is_empty() {
            ctx.app.wrong(format!("stream {}: on_data without input", self.stream));
        }
        self.do_todo(ctx);
        if ctx.app.streams[self.stream].relay.is_some() {
            return self.leave_to_filter(ctx.app);
        }
        self.take(ctx.app, input, false);
        self.leave_to_filter(ctx.app);
        // Two ends that answer each other would never come to an end.
        if ctx.app.chance.below(3) == 0 && !ctx.app.quiet && !ctx.app.streams[self.stream].own {
            let len = ctx.app.chance.below(3_000) as usize;
            send(ctx.app, ctx.net, self.stream, len);
        }
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        self.called(ctx.app, "on_eof");
        ctx.app.lives[self.life].eofs += 1;
        ctx.app.streams[self.stream].eof = true;
        if ctx.app.lives[self.life].eofs > 1 {
            ctx.app.wrong(format!("stream {}: a second on_eof", self.stream));
        }
        self.take(ctx.app, input, true);
        match ctx.app.chance.below(3) {
            0 => {}
            1 => close(ctx.app, ctx.net, self.stream, ctx.token),
            _ => shutdown(ctx.app, ctx.net, self.stream, ctx.token),
        }
    }

    fn on_high_water(&mut self, ctx: &mut Ctx<'_, App>, _queued: usize) {
        self.called(ctx.app, "on_high_water");
    }

    fn on_low_water(&mut self, ctx: &mut Ctx<'_, App>) {
        self.called(ctx.app, "on_low_water");
        if !std::mem::take(&mut ctx.app.streams[self.stream].high) {
            ctx.app.wrong(format!("stream {}: on_low_water without a High", self.stream));
        }
    }

    fn on_write_complete(&mut self, ctx: &mut Ctx<'_, App>) {
        self.called(ctx.app, "on_write_complete");
        let queued = ctx.queued();
        if queued > 0 || !std::mem::take(&mut ctx.app.streams[self.stream].owes_complete) {
            ctx.app.wrong(format!("stream {}: on_write_complete with {queued} bytes queued, or again", self.stream));
        }
    }

    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, key: u32) {
        self.called(ctx.app, "on_timer");
        let now = ctx.net.now();
        match ctx.app.streams[self.stream].timers.remove(&key) {
            Some(due) if now < due => ctx.app.wrong(format!("stream {}: timer {key} is early", self.stream)),
            Some(due) if now > due + LATE => ctx.app.wrong(format!("stream {}: timer {key} is late", self.stream)),
            Some(_) => {}
            None => ctx.app.wrong(format!("stream {}: timer {key} was not armed", self.stream)),
        }
        let len = ctx.app.chance.below(100) as usize;
        send(ctx.app, ctx.net, self.stream, len);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        let life = &mut ctx.app.lives[self.life];
        life.closed += 1;
        if life.closed > 1 || life.replaced {
            ctx.app.wrong(format!("stream {}: a second on_close", self.stream));
        }
        reasons::closed(ctx.app, ctx.net, self, ctx.token, &why);
        let own = &mut ctx.app.streams[self.stream];
        if own.token == Some(ctx.token) {
            own.high = false;
            own.timers.clear();
            own.ended = Some(format!("{why:?}"));
        }
    }
}
