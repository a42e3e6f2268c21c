//! Wake-ups: what it costs to bring something to a loop from another thread.
//!
//! ```text
//!  ping-pong   post ─► the loop answers ─► post …           one after the other: two wake-ups each
//!  one-way     post, a pause in which the loop falls asleep  from before the post to the call on the loop
//!  burst       1,000 posts at once, then the answer          the loop is awake for most of them
//! ```
//!
//! | side | what is posted | through |
//! |---|---|---|
//! | plimsoll | a closure | `Mailbox::post` |
//! | tokio-unbounded | the note itself | `mpsc::unbounded_channel`, taken by `recv_many` on a current_thread runtime |
//! | tokio-bounded | the same | `mpsc::channel` of as many places as Plimsoll's box has by default |
//!
//! tokio has its I/O driver on, as a loop that serves sockets has: it sleeps in epoll_wait, like Plimsoll. The answer
//! takes the same way for all, a channel of the standard library. What this does not do: measure several
//! posters at once.

use crate::plan::Scale;
use crate::result::{Cell, Sample, SideResult};
use hdrhistogram::Histogram;
use plimsoll::{Mailbox, Reactor};
use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const BURST: usize = 1000;

/// Long enough for a loop to fall asleep, and for its processor to notice.
const PAUSE: Duration = Duration::from_micros(100);

/// Notes that tokio's loop takes at once; more are a turn of their own.
const TAKEN_AT_ONCE: usize = 256;

/// What tokio's bounded channel holds: the default of `ReactorOptions::mail_limit`.
const BOUND: usize = 64 * 1024;

/// Whoever waits so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn measure(scale: Scale) -> Vec<Cell> {
    let (rounds, posts) = match scale {
        Scale::Smoke => (1, 200),
        Scale::Quick => (5, 2_000),
        Scale::Full => (9, 5_000),
    };
    let bursts = (posts / 50).max(4);
    vec![
        compare("ping-pong", &[], rounds, |desk| ping_pong(desk, posts)),
        compare("one-way", &[], rounds, |desk| one_way(desk, posts / 2)),
        compare("burst", &[("posts", BURST as u64)], rounds, |desk| burst(desk, bursts)),
    ]
}

fn compare(
    variant: &str,
    parameters: &[(&str, u64)],
    rounds: usize,
    work: impl Fn(&mut Desk) -> io::Result<()>,
) -> Cell {
    let kinds = [("plimsoll", Kind::Plimsoll), ("tokio-unbounded", Kind::Unbounded), ("tokio-bounded", Kind::Bounded)];
    let mut sides = kinds.map(|(name, _)| SideResult { side: name.to_owned(), rounds: Vec::new(), error: None });
    for round in 0..rounds {
        let mut turns: Vec<_> = kinds.into_iter().zip(&mut sides).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for ((_, kind), side) in turns {
            let done = Desk::open(kind).and_then(|mut desk| {
                work(&mut desk)?;
                desk.close()
            });
            match done {
                Ok(sample) => side.rounds.push(sample),
                Err(e) => side.error = Some(e.to_string()),
            }
        }
    }
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    Cell { scenario: "wake-ups".to_owned(), variant: variant.to_owned(), parameters, sides: sides.into() }
}

fn ping_pong(desk: &mut Desk, posts: usize) -> io::Result<()> {
    let start = Instant::now();
    for _ in 0..posts {
        desk.post(Note::Answer)?;
        desk.wait()?;
    }
    desk.find("round_trip_ns", start.elapsed().as_nanos() as f64 / posts as f64);
    Ok(())
}

fn one_way(desk: &mut Desk, posts: usize) -> io::Result<()> {
    for _ in 0..posts {
        sleep(PAUSE);
        desk.post(Note::Time(Instant::now()))?;
    }
    desk.post(Note::Answer)?;
    desk.wait()
}

fn burst(desk: &mut Desk, bursts: usize) -> io::Result<()> {
    let start = Instant::now();
    for _ in 0..bursts {
        for _ in 1..BURST {
            desk.post(Note::Nothing)?;
        }
        desk.post(Note::Answer)?;
        desk.wait()?;
    }
    desk.find("posts_per_second", (bursts * BURST) as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// What is brought to the loop.
enum Note {
    Nothing,
    Answer,
    /// When it was posted.
    Time(Instant),
}

/// What the loop does with it.
struct Clerk {
    answers: SyncSender<()>,
    /// Nanoseconds.
    latencies: Histogram<u64>,
}

impl Clerk {
    fn hear(&mut self, note: Note) {
        match note {
            Note::Nothing => {}
            Note::Answer => {
                // Gone: the poster has given up.
                let _ = self.answers.try_send(());
            }
            Note::Time(posted) => self.latencies.saturating_record(posted.elapsed().as_nanos() as u64),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Plimsoll,
    Unbounded,
    Bounded,
}

/// The way to a loop.
enum Door {
    Plimsoll(Mailbox<Clerk>),
    Unbounded(mpsc::UnboundedSender<Note>),
    Bounded(mpsc::Sender<Note>),
}

/// The poster's side: a loop on a thread of its own, and the way to it and back.
struct Desk {
    door: Door,
    answers: Receiver<()>,
    figures: BTreeMap<String, f64>,
    clerk: JoinHandle<io::Result<Clerk>>,
}

impl Desk {
    fn open(kind: Kind) -> io::Result<Desk> {
        // What comes back is at most one answer at a time.
        let (answers_sender, answers) = sync_channel(1);
        let latencies = Histogram::new_with_max(PATIENCE.as_nanos() as u64, 3).map_err(io::Error::other)?;
        let clerk = Clerk { answers: answers_sender, latencies };
        let (door, clerk) = match kind {
            Kind::Plimsoll => {
                let (doors, door) = sync_channel(1);
                let clerk = thread::spawn(move || {
                    let mut reactor = Reactor::new(clerk)?;
                    // It waits for nothing else.
                    let _ = doors.send(reactor.net.mailbox());
                    reactor.run()?;
                    Ok(reactor.into_app())
                });
                (Door::Plimsoll(door.recv().map_err(io::Error::other)?), clerk)
            }
            Kind::Unbounded => {
                let (door, mut notes) = mpsc::unbounded_channel();
                let clerk = thread::spawn(move || {
                    on_tokio(clerk, async move |taken| notes.recv_many(taken, TAKEN_AT_ONCE).await)
                });
                (Door::Unbounded(door), clerk)
            }
            Kind::Bounded => {
                let (door, mut notes) = mpsc::channel(BOUND);
                let clerk = thread::spawn(move || {
                    on_tokio(clerk, async move |taken| notes.recv_many(taken, TAKEN_AT_ONCE).await)
                });
                (Door::Bounded(door), clerk)
            }
        };
        Ok(Desk { door, answers, figures: BTreeMap::new(), clerk })
    }

    #[inline]
    fn post(&self, note: Note) -> io::Result<()> {
        match &self.door {
            Door::Plimsoll(mailbox) => mailbox.post(move |lp| lp.app.hear(note)).map_err(refused),
            Door::Unbounded(sender) => sender.send(note).map_err(|_| closed()),
            Door::Bounded(sender) => match sender.try_send(note) {
                // Only who finds it full has to wait for a place, and with what that takes.
                Err(mpsc::error::TrySendError::Full(note)) => sender.blocking_send(note).map_err(|_| closed()),
                sent => sent.map_err(|_| closed()),
            },
        }
    }

    fn wait(&self) -> io::Result<()> {
        self.answers.recv_timeout(PATIENCE).map_err(|e| match e {
            RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
            RecvTimeoutError::Disconnected => closed(),
        })
    }

    fn find(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    fn close(mut self) -> io::Result<Sample> {
        match self.door {
            Door::Plimsoll(mailbox) => mailbox.post(|lp| lp.stop()).map_err(refused)?,
            Door::Unbounded(sender) => drop(sender),
            Door::Bounded(sender) => drop(sender),
        }
        let Clerk { latencies, .. } = self.clerk.join().map_err(|_| io::Error::other("the loop has panicked"))??;
        let mut sample = Sample::default();
        if !latencies.is_empty() {
            for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
                let latency = latencies.value_at_quantile(quantile);
                self.figures.insert(format!("latency_{name}_ns"), latency as f64);
            }
            let quantiles = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0];
            sample.percentiles = quantiles.map(|q| (q, latencies.value_at_quantile(q))).into();
        }
        sample.figures = self.figures;
        Ok(sample)
    }
}

/// `take` fills its list with what has come, and says how much; nothing at the end.
fn on_tokio(mut clerk: Clerk, mut take: impl AsyncFnMut(&mut Vec<Note>) -> usize) -> io::Result<Clerk> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        while take(&mut taken).await > 0 {
            taken.drain(..).for_each(|note| clerk.hear(note));
        }
    });
    Ok(clerk)
}

fn closed() -> io::Error {
    io::Error::other("the loop has ended")
}

fn refused(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(e.to_string())
}
