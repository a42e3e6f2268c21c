//! Dialers of a random program: that they try again and again until they are told not to, never twice at once, and in
//! the time that they say.

use super::acts::Place;
use super::app::{App, Life, Stream, draw_options};
use super::hand::{Hand, LATE};
use super::probe::{MS, now, remote_address};
use crate::dial::DialToken;
use crate::net::Net;
use crate::options::DialOptions;
use crate::sim::Harbor;
use crate::sys::Address;
use crate::token::Token;
use std::time::Duration;

/// Whether a connection has lasted long enough is the library's to say if it is as close as this.
const DOUBT: u64 = 5 * MS;

#[derive(Debug)]
pub struct Dial {
    token: Option<DialToken>,
    options: DialOptions,
    place: Place,
    harbor: Option<Harbor>,
    reads: bool,
    /// The handler of the present attempt.
    current: Option<usize>,
    /// Attempts that failed in a row; unknown when it was a matter of moments.
    failures: Option<u32>,
    attempts: u32,
    opened_at: Option<u64>,
    ended_at: u64,
    pub cancelled: bool,
}

pub fn dial(app: &mut App, net: &mut Net<App>, place: Place) {
    let index = app.dials.len();
    let address: Address = match place {
        Place::Server => format!("10.0.4.{index}:80"),
        _ => "10.0.3.1:80".to_owned(),
    }
    .parse()
    .expect("an address");
    let harbor = (place == Place::Server).then(|| Harbor::open(&address)).and_then(Result::ok);
    let reads = app.chance.below(2) == 0;
    if let Some(harbor) = harbor.filter(|_| reads) {
        harbor.takes();
    }
    let options = DialOptions::default().with(|o| {
        o.first_delay = Duration::from_millis(1 + app.chance.below(200));
        o.max_delay = Duration::from_millis(500 + app.chance.below(3_000));
        o.stable_after = Duration::from_millis([20, 5_000][app.chance.below(2) as usize]);
        o.max_failures = (app.chance.below(4) == 0).then(|| 1 + app.chance.below(3) as u32);
        o.stream = draw_options(&mut app.chance);
    });
    app.dials.push(Dial {
        token: None,
        options: options.clone(),
        place,
        harbor,
        reads,
        current: None,
        failures: Some(0),
        attempts: 0,
        opened_at: None,
        ended_at: now(),
        cancelled: false,
    });
    let token = net.dial(address, options, move |ctx| attempt(ctx.app, index, ctx.token));
    app.dials[index].token = Some(token);
}

/// Cancels one of them; what it has by then is closed.
pub fn cancel(app: &mut App, net: &mut Net<App>, which: u8) {
    let Some(index) = usize::from(which).checked_rem(app.dials.len()) else { return };
    let dial = &mut app.dials[index];
    let Some(token) = dial.token.filter(|_| !dial.cancelled) else { return };
    dial.cancelled = true;
    let current = net.dialed(token);
    if let Some(stream) = app.streams.iter_mut().find(|stream| stream.token.is_some() && stream.token == current) {
        stream.close_asked(current.map_or(0, |token| net.queued(token)));
    }
    net.cancel_dial(token);
}

/// The library asks for the handler of another attempt.
fn attempt(app: &mut App, index: usize, token: Token) -> Hand {
    let dial = &mut app.dials[index];
    let wrong = dial.begin_attempt();
    let (reads, place) = (dial.reads, dial.place);
    let options = dial.options.stream.clone();
    if let Err(wrong) = wrong {
        app.wrong(format!("dialer {index}: {wrong}"));
    }
    let stream = app.peers.borrow_mut().expect(None, reads);
    let hand = app.born(stream, Life { dial: Some(index), ..Life::default() });
    app.dials[index].current = Some(hand.life);
    *app.stream_at(stream) = Stream {
        token: Some(token),
        life: Some(hand.life),
        options,
        place: Some(place),
        begun_at: now(),
        ..Stream::default()
    };
    hand
}

/// An attempt is a connection now: whose peer is the one that has the same name for it.
pub fn opened(app: &mut App, net: &Net<App>, life: usize, stream: usize, token: Token) {
    let Some(index) = app.lives[life].dial else { return };
    let dial = &mut app.dials[index];
    dial.opened_at = Some(now());
    let name = net.local_address(token);
    while let Some(peer) = dial.harbor.and_then(Harbor::accept) {
        if remote_address(peer) == name {
            app.peers.borrow_mut().parties[stream].attach(peer);
            return;
        }
    }
}

/// The connection of an attempt, or the attempt, is over.
pub fn ended(app: &mut App, index: usize) {
    let dial = &mut app.dials[index];
    dial.current = None;
    dial.ended_at = now();
    let lasted = dial.opened_at.take().map(|at| dial.ended_at - at);
    let stable = dial.options.stable_after.as_nanos() as u64;
    dial.failures = match lasted {
        Some(lasted) if lasted > stable + DOUBT => Some(0),
        Some(lasted) if lasted + DOUBT > stable => None,
        _ => dial.failures.map(|failures| failures + 1),
    };
}

/// Nobody has told it not to, so it dials, or has a connection, or waits for no longer than it says.
pub fn still_dials(app: &mut App, net: &Net<App>) {
    for (index, dial) in app.dials.iter().enumerate() {
        let Some(token) = dial.token.filter(|_| !dial.cancelled && app.stopped == 0) else { continue };
        if dial.gave_up() != Some(false) {
            continue;
        }
        let waits = now() - dial.ended_at < (dial.options.max_delay + LATE).as_nanos() as u64;
        if net.dialed(token).is_none() && !waits {
            return app.wrong.push(format!("dialer {index} does not dial any more, after {} attempts", dial.attempts));
        }
    }
}

impl Dial {
    /// Whether it has failed as often as it was to; `None` if that was a matter of moments.
    fn gave_up(&self) -> Option<bool> {
        let Some(most) = self.options.max_failures else { return Some(false) };
        self.failures.map(|failures| failures >= most)
    }

    fn begin_attempt(&mut self) -> Result<(), String> {
        self.attempts += 1;
        if self.cancelled {
            return Err("it was cancelled, and tries again".to_owned());
        }
        if self.current.is_some() {
            return Err("it tries while it has a connection".to_owned());
        }
        if self.gave_up() == Some(true) {
            return Err(format!("it has failed {:?} times, and tries again", self.failures));
        }
        if self.attempts == 1 {
            return Ok(());
        }
        let Some(failures) = self.failures else { return Ok(()) };
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.options.first_delay.saturating_mul(1 << doublings).min(self.options.max_delay);
        let (full, waited) = (full.as_nanos() as u64, now() - self.ended_at);
        if waited + DOUBT < full / 2 || waited > full + LATE.as_nanos() as u64 {
            return Err(format!("after {failures} failures it waited for {waited} ns, and was to for {full} or half"));
        }
        Ok(())
    }
}
