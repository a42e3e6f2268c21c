//! Where a scene is played: a reactor, its peers, and who has a look at them afterwards.
//!
//! Reactor and peers take turns until the scene has what it waits for. If nobody moves for a while, the clock is
//! moved on to the next timer, so that a retry after a second costs a millisecond; if there is no timer either,
//! something was lost, and the play hangs. A loop that turns without anything to show for it spins: be it that it does
//! not want to sleep, or that epoll wakes it each time at once.

use super::peer::{Act, End, Host, Peer};
use super::scenes::echo::Echo;
use super::scenes::tcp_peer;
use crate::handler::{CloseReason, Ctx, Handler};
use crate::handover::Detached;
use crate::net::Net;
use crate::reactor::Reactor;
use crate::sockets::Source;
use crate::sys::Address;
use crate::sys::fault::{self, Call, Entry, Fault};
use crate::token::Token;
use bytes::BytesMut;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// Turns of one play. The longest takes some hundred.
const TURNS_LIMIT: u32 = 20_000;

/// So many turns may have nothing to show for it although the loop did not sleep, before somebody moves.
pub const FRUITLESS_LIMIT: u32 = 30;

/// With nothing moving, this is waited for the real kernel, and then the clock is moved.
const PATIENCE: Duration = Duration::from_millis(1);
const QUIET_TURNS: u32 = 1;

/// How far the clock moves at a time. A deadline of seconds is a hundred patient waits away, so that a kernel that is
/// late does not look like a peer that is late for seconds: TCP delays an acknowledgement by 40 ms of the real clock,
/// and without it a small send buffer stays full.
const STRIDE: Duration = Duration::from_millis(50);

/// Without a timer to move to, so many patient waits in a row are a hang. Not a time: a machine may have other things
/// to do than to run us.
const SILENT_TURNS_LIMIT: u32 = 200;

/// Another thread may take longer, and does not know of the moved clock.
const WORK_LIMIT: Duration = Duration::from_secs(20);

/// So much time on the moved clock is a hang, too.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// What a bystander sends at each of its two turns, and hears again.
const BYSTANDER_SENDS: usize = 500;

/// Which speech is a bystander's.
const BYSTANDER_PATTERN: u8 = 5;

/// Why a play ended before its end.
pub enum Trouble {
    /// A verb has answered with an error: the program would not go on.
    Refused(io::Error),
    /// Something is wrong.
    Wrong(String),
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Trouble {
        Trouble::Refused(e)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Refused(e) => write!(f, "refused: {e}"),
            Trouble::Wrong(what) => f.write_str(what),
        }
    }
}

pub fn wrong(what: impl Into<String>) -> Trouble {
    Trouble::Wrong(what.into())
}

/// What a handler was told at its end.
pub struct Reason {
    what: String,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Orderly,
    /// A scene may do that itself.
    Aborted,
    /// The connection is at fault, or whoever it is joined to.
    Failed,
}

impl Reason {
    fn of(why: &CloseReason) -> Reason {
        let standing = match why {
            CloseReason::Aborted => Standing::Aborted,
            why if why.is_orderly() => Standing::Orderly,
            _ => Standing::Failed,
        };
        Reason { what: why.to_string(), standing }
    }
}

/// The state that all handlers share: what was called how often.
#[derive(Default)]
pub struct Ledger {
    /// How often handlers heard `on_open`.
    pub opens: u64,
    /// How often each handler heard `on_close`.
    pub closes: Vec<u32>,
    pub reasons: Vec<Reason>,
    /// Connections that a scene wants to find again.
    pub tokens: Vec<Token>,
    /// Connections that came by neither accept nor connect.
    pub adopted: u64,
    /// For scenes that count something.
    pub counts: [u32; 4],
}

/// A handler in the ledger.
pub struct Entered<H> {
    id: usize,
    inner: H,
}

impl<H> Entered<H> {
    pub fn new(ledger: &mut Ledger, inner: H) -> Entered<H> {
        ledger.closes.push(0);
        Entered { id: ledger.closes.len() - 1, inner }
    }
}

impl<H: Handler<Ledger>> Handler<Ledger> for Entered<H> {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.app.opens += 1;
        self.inner.on_open(ctx);
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        self.inner.on_data(ctx, input);
    }
    fn on_eof(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        self.inner.on_eof(ctx, input);
    }
    fn on_high_water(&mut self, ctx: &mut Ctx<'_, Ledger>, queued: usize) {
        self.inner.on_high_water(ctx, queued);
    }
    fn on_low_water(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        self.inner.on_low_water(ctx);
    }
    fn on_write_complete(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        self.inner.on_write_complete(ctx);
    }
    fn on_timer(&mut self, ctx: &mut Ctx<'_, Ledger>, key: u32) {
        self.inner.on_timer(ctx, key);
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, Ledger>, why: CloseReason) {
        ctx.app.closes[self.id] += 1;
        ctx.app.reasons.push(Reason::of(&why));
        self.inner.on_close(ctx, why);
    }
}

pub struct Stage {
    pub reactor: Reactor<Ledger>,
    pub peers: Vec<Peer>,
    pub hosts: Vec<Host>,
    /// So many peers are cut off by the scene itself.
    pub cuts: usize,
    /// So many peers are served by one connection, or by two of which neither is of use without the other.
    pub sides: usize,
    /// Who has nothing to do with the rest of the scene, in scenes in which a fault may harm all the others.
    bystander: Option<Peer>,
    /// A verb has answered with an error, and nothing after it was done.
    refused: bool,
    turns: u32,
    begin: Duration,
}

impl Stage {
    /// Plays a scene to its end, and looks at what is left.
    pub fn play(scene: fn(&mut Stage) -> Result<(), Trouble>) -> Result<(), String> {
        let reactor = match Reactor::new(Ledger::default()) {
            Ok(reactor) => reactor,
            Err(e) if lasting_faults() == 0 => return Err(format!("no reactor: {e}")),
            Err(_) => return Ok(()),
        };
        let begin = fault::ahead();
        let (peers, hosts) = (Vec::new(), Vec::new());
        let mut stage =
            Stage { reactor, peers, hosts, cuts: 0, sides: 1, bystander: None, refused: false, turns: 0, begin };
        let played = match scene(&mut stage) {
            Err(Trouble::Refused(_)) if lasting_faults() > 0 => {
                stage.refused = true;
                Ok(())
            }
            played => played,
        };
        let played = played.and_then(|()| stage.see_off_bystander());
        let ended = stage.end();
        match played.and(ended) {
            Ok(()) => stage.look(),
            Err(trouble) => Err(format!("{trouble}; {}", stage.describe())),
        }
    }

    pub fn net(&mut self) -> &mut Net<Ledger> {
        &mut self.reactor.net
    }

    /// Hands a connection to the loop, with a handler that is in the ledger if it is taken.
    pub fn adopt(&mut self, connection: impl Into<Detached>, handler: impl Handler<Ledger>) -> Result<Token, Trouble> {
        let id = self.reactor.app.closes.len();
        let token = self.net().adopt(connection, Entered { id, inner: handler })?;
        self.reactor.app.closes.push(0);
        self.reactor.app.adopted += 1;
        Ok(token)
    }

    pub fn address(&self, token: Token) -> Result<Address, Trouble> {
        self.reactor.net.local_address(token).ok_or_else(|| Trouble::Refused(io::ErrorKind::NotFound.into()))
    }

    /// Opens a listener for a peer whom the rest of the scene does not concern, which has its first echo before anything
    /// else is begun.
    pub fn open_bystander(&mut self) -> Result<(), Trouble> {
        let listener =
            self.net().listen("127.0.0.1:0", |ctx, _| Some(Entered::new(ctx.app, Echo { in_pieces: false })))?;
        let address = self.address(listener)?;
        let script = [Act::Send(BYSTANDER_SENDS), Act::Expect(BYSTANDER_SENDS)];
        self.bystander = Some(tcp_peer(&address, BYSTANDER_PATTERN, &script));
        self.until("a bystander is served", |stage| {
            stage.bystander.as_ref().is_none_or(|peer| peer.is_through() || peer.end.is_some())
        })
    }

    /// The bystander is served once more, whatever has become of the others, and ends. Once it has, there is nothing to do.
    pub fn see_off_bystander(&mut self) -> Result<(), Trouble> {
        match &mut self.bystander {
            Some(peer) if peer.sent == BYSTANDER_SENDS && peer.end.is_none() => {
                peer.go_on(&[Act::Send(BYSTANDER_SENDS), Act::Expect(2 * BYSTANDER_SENDS), Act::Shutdown]);
            }
            _ => {}
        }
        self.until("a bystander ends", |stage| stage.bystander.as_ref().is_none_or(|peer| peer.end.is_some()))
    }

    fn bystander_is_harmed(&self) -> bool {
        let harmed = |peer: &Peer| peer.end.is_some() && !(peer.end == Some(End::Orderly) && peer.heard_itself());
        self.bystander.as_ref().is_some_and(harmed)
    }

    /// The bystander was served whole, unless it was the bystander whom the fault has hit: then nobody else was.
    fn bystander_is_served(&self) -> Result<(), String> {
        let Some(peer) = &self.bystander else { return Ok(()) };
        if !peer.has_prefix_of(BYSTANDER_PATTERN) {
            return Err("a bystander has got what it did not send".into());
        }
        // The others' harm is counted where they are looked at, but for those who have not even come.
        let elsewhere = usize::from(self.refused || self.peers.len() < self.sides);
        if self.bystander_is_harmed() && lasting_faults() <= elsewhere {
            return Err("a bystander was harmed, too".into());
        }
        Ok(())
    }

    /// How many peers may have been harmed by what has failed so far: a fault that lasts is a fault of one connection.
    /// If it was the bystander's, it was nobody else's.
    ///
    /// The exception is a verb that is refused (no socket, no address to bind, no epoll instance): the program goes no
    /// further, and whom it served by then is cut off by its end.
    pub fn may_harm(&self) -> usize {
        let elsewhere = lasting_faults().saturating_sub(usize::from(self.bystander_is_harmed()));
        if self.refused { self.peers.len() } else { elsewhere * self.sides }
    }

    /// Nothing has failed that may be noticed.
    pub fn unharmed(&self) -> bool {
        self.may_harm() == 0
    }

    /// All peers but those that may have been harmed have come to an orderly end with their script done, and were
    /// `served`.
    pub fn all_but_the_harmed(&self, served: impl Fn(usize, &Peer) -> bool) -> Result<(), Trouble> {
        let whole = |peer: &Peer| peer.end == Some(End::Orderly) && peer.is_through();
        let harmed: Vec<usize> =
            (0..).zip(&self.peers).filter(|(at, peer)| !whole(peer) || !served(*at, peer)).map(|(at, _)| at).collect();
        let excused = self.may_harm() + self.cuts;
        if harmed.len() > excused {
            return Err(wrong(format!("peers {harmed:?} were not served, which may be said of {excused}")));
        }
        Ok(())
    }

    /// Turns until `done`.
    pub fn until(&mut self, what: &str, done: impl Fn(&Stage) -> bool) -> Result<(), Trouble> {
        let (mut quiet, mut fruitless) = (0, 0);
        let mut last_move = Instant::now();
        while !done(self) {
            let before = self.pulse();
            let peers_moved = self.step_peers();
            let asleep = Instant::now();
            self.turn(if quiet > 0 { PATIENCE } else { Duration::ZERO })?;
            let woken = quiet > 0 && asleep.elapsed() < PATIENCE / 2;
            if peers_moved || before != self.pulse() {
                (quiet, fruitless) = (0, 0);
                last_move = Instant::now();
                continue;
            }
            quiet += 1;
            if !self.reactor.net.jobs.is_empty() {
                if last_move.elapsed() > WORK_LIMIT {
                    return Err(wrong(format!("hangs for want of a worker: {what}")));
                }
                continue;
            }
            match self.reactor.next_turn_in() {
                Some(Duration::ZERO) => fruitless += 1,
                // Time does not help against what wakes it.
                _ if woken => fruitless += 1,
                Some(left) if quiet > QUIET_TURNS => fault::advance(left.min(STRIDE)),
                None if quiet > SILENT_TURNS_LIMIT => return Err(wrong(format!("hangs: {what}"))),
                _ => {}
            }
            if fruitless > FRUITLESS_LIMIT {
                return Err(wrong(format!("spins: {what}")));
            }
            if fault::ahead() - self.begin > TIME_LIMIT {
                return Err(wrong(format!("hangs, in spite of its timers: {what}")));
            }
        }
        Ok(())
    }

    fn turn(&mut self, timeout: Duration) -> Result<(), Trouble> {
        self.turns += 1;
        if self.turns > TURNS_LIMIT {
            return Err(wrong("spins: too many turns"));
        }
        // An error here ends `run`: nothing that these faults do may be one.
        self.reactor.turn(Some(timeout)).map_err(|e| wrong(format!("turn: {e}")))
    }

    fn step_peers(&mut self) -> bool {
        let mut moved = false;
        for host in &self.hosts {
            if let Some(peer) = host.accept() {
                self.peers.push(peer);
                moved = true;
            }
        }
        for peer in self.peers.iter_mut().chain(&mut self.bystander) {
            moved |= peer.step();
        }
        moved
    }

    /// What changes when the loop has done something.
    fn pulse(&self) -> [u64; 11] {
        let s = self.reactor.net.stats();
        [
            s.bytes_read,
            s.bytes_written,
            s.accepts,
            s.refused,
            s.connects,
            s.closes,
            s.datagrams_in,
            s.datagrams_out,
            s.datagrams_dropped,
            s.timers,
            s.mail,
        ]
    }

    /// Whether every peer has seen its end.
    pub fn peers_ended(&self) -> bool {
        self.peers.iter().all(|peer| peer.end.is_some())
    }

    /// A graceful stop, to its end.
    fn end(&mut self) -> Result<(), Trouble> {
        self.net().stop();
        self.until("stop", |stage| stage.reactor.is_stopped())?;
        // What was sent last is with the peers' kernel.
        while self.step_peers() {}
        // Returns at once, and takes the stop's own deadline back.
        self.reactor.run().map_err(|e| wrong(format!("run: {e}")))
    }

    /// The promises that hold for every scene and every fault.
    fn look(self) -> Result<(), String> {
        let said = self.describe();
        self.all_but_the_harmed(|_, _| true).map_err(|trouble| format!("{trouble}; {said}"))?;
        self.bystander_is_served().map_err(|what| format!("{what}; {said}"))?;
        let complete = lasting_faults() == 0 && self.cuts == 0;
        let Stage { reactor, mut peers, bystander, cuts, .. } = self;
        peers.extend(bystander);
        let Reactor { app, net, .. } = reactor;
        let promise = |kept: bool, what: &str| if kept { Ok(()) } else { Err(format!("{what}; {said}")) };
        promise(app.closes.iter().all(|n| *n == 1), "on_close is not called exactly once")?;
        let s = net.stats();
        promise(
            s.closes == s.accepts + s.connects + app.adopted,
            "connections that came and that went differ in number",
        )?;
        let came = s.accepts + app.adopted + u64::from(fault::made_so_far(Call::Connect));
        let told = |standing| app.reasons.iter().filter(|reason| reason.standing == standing).count();
        if lasting_faults() == 0 {
            promise(told(Standing::Failed) == 0, "a connection is said to have failed, and nothing has")?;
            promise(told(Standing::Aborted) == cuts, "a connection is said to be aborted, and nobody did it")?;
        }
        promise(!transfer_failed() || told(Standing::Failed) > 0, "a transfer has failed, and nobody is told")?;
        promise(app.opens + failed_attempts() <= came, "a connection is open whose attempt has failed")?;
        promise(s.held == 0, "memory is counted that nobody holds")?;
        let sockets = &net.sockets;
        let lists = [sockets.ready.len(), sockets.dirty.len(), sockets.due.len(), sockets.ended.len()];
        let more = [sockets.reaped.len(), sockets.graveyard.len(), sockets.dirty_datagrams.len()];
        promise(lists.iter().chain(&more).all(|len| *len == 0), "a list is not empty")?;
        promise(sockets.table.iter().all(|(_, source)| matches!(**source, Source::Bell(_))), "a socket is left")?;
        promise(sockets.timers.len() == net.alarms.len(), "a timer is left that nobody asked for")?;
        let received: usize = peers.iter().map(|peer| peer.received.len()).sum();
        let sent: usize = peers.iter().map(|peer| peer.sent).sum();
        promise(received as u64 <= s.bytes_written, "a peer has got more than was written")?;
        promise(s.bytes_read <= sent as u64, "more was read than any peer has sent")?;
        if complete {
            promise(received as u64 == s.bytes_written, "not all that was written has arrived")?;
            promise(s.bytes_read == sent as u64, "not all that was sent was read")?;
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let Reactor { app, net, .. } = &self.reactor;
        let peer = |peer: &Peer| format!("{}→ ←{} {:?}", peer.sent, peer.received.len(), peer.end);
        let peers: Vec<String> = self.peers.iter().chain(&self.bystander).map(peer).collect();
        let phase = |source: &Source| match source {
            Source::Connection(conn) => format!("{:?} {} queued", conn.phase, conn.queued()),
            Source::Listener(_) => "listener".into(),
            Source::Datagram(_) => "datagrams".into(),
            Source::Bell(_) => "bell".into(),
        };
        let open: Vec<String> = net.sockets.table.iter().map(|(_, source)| phase(source)).collect();
        let reasons: Vec<&String> = app.reasons.iter().map(|reason| &reason.what).collect();
        format!(
            "turns {}, peers {peers:?}, open {open:?}, closes {:?} {reasons:?}, counts {:?}, timers {}",
            self.turns,
            app.closes,
            app.counts,
            net.sockets.timers.len()
        )
    }
}

/// How many faults were met so far that need not be overcome.
///
/// Calls of accept(2) that find no descriptor one after the other count once: the peer who is turned away is the one
/// that is accepted at last, with the descriptor that was kept in reserve.
fn lasting_faults() -> usize {
    let mut met = fault::met_so_far();
    // Without the first spare there is no reactor. Without a later one a listener pauses, and nobody is harmed.
    met.retain(|entry| super::lasts(entry.call, entry.fault) && (entry.call, entry.nth > 1) != (Call::Spare, true));
    let follows = |entry: &Entry| {
        entry.call == Call::Accept && met.iter().any(|before| before.call == entry.call && before.nth + 1 == entry.nth)
    };
    met.iter().filter(|entry| !follows(entry)).count()
}

/// Whether a connection could not be read from or written to, which nothing can mend.
fn transfer_failed() -> bool {
    let transfer = |call| matches!(call, Call::Recv | Call::Send | Call::SendVectored);
    fault::met_so_far().iter().any(|entry| transfer(entry.call) && super::lasts(entry.call, entry.fault))
}

/// How many attempts to connect have failed by plan: at once, or as SO_ERROR told.
fn failed_attempts() -> u64 {
    let failed = |entry: &&Entry| {
        matches!(entry.call, Call::Connect | Call::PendingError) && matches!(entry.fault, Fault::Fail(_))
    };
    fault::met_so_far().iter().filter(failed).count() as u64
}

/// The descriptors of this thread, but for the one that lists them.
pub fn open_descriptors() -> Vec<String> {
    let listed = std::fs::read_dir("/proc/thread-self/fd").expect("a Linux with /proc");
    let mut names: Vec<String> = listed
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .filter(|link| !link.contains("/fd"))
        .collect();
    names.sort();
    names
}

/// Waits until no more are open than `before`: a worker lets go of the bell a moment after the result has come.
///
/// Without a table of its own a thread sees what all threads open, and nothing can be said.
pub fn await_descriptors(before: &[String]) -> Result<(), String> {
    if !fault::has_own_table() {
        return Ok(());
    }
    let begin = Instant::now();
    loop {
        let now = open_descriptors();
        if now == before {
            return Ok(());
        }
        if begin.elapsed() > WORK_LIMIT {
            return Err(format!("descriptors leak: {before:?} before, {now:?} after"));
        }
        std::thread::yield_now();
    }
}
