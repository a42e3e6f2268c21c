//! Every system call fails, in turn.
//!
//! A scene is a short piece of work for a reactor: some peers, some bytes, an orderly end. It is played once in
//! peace, and then again for every system call that it makes and every answer that this call can give: the n-th
//! call of the kind fails, is cut short or comes late, for n = 1, 2, … until a play has no n-th call any more.
//!
//! ```text
//!   for each scene ── for each kind of call ── for n = 1, 2, … ── for each fault of the kind
//!                                                   ▲                    │ play, then look:
//!                                                   │                    │   bytes, on_close, descriptors,
//!                                                   └── it was met ◄─────┘   queues, turns
//! ```
//!
//! What is looked at after each play is in `stage.rs`, the scenes are in `scenes/`, the table of what each call
//! can answer is below. A fault is *passing* if everything must arrive in spite of it. Any other is *lasting*: it may
//! harm one peer, to whom a prefix of what is his must arrive, and all others must be served as if nothing had
//! happened. The idea is SQLite's: "How SQLite Is Tested", section 3.
//!
//! Two more sweeps let the same call fail again and again: every third of a kind, and many in a row.
//!
//! The kernel is the real one, the peers are sockets of the standard library on the same thread, and the clock is
//! moved by hand. Each scene has a thread of its own with a table of descriptors of its own, so that counting
//! them means something while other tests run.

mod peer;
mod scenes;
mod stage;

use crate::sys::fault::{self, Call, Fault, Part, Plan};
use stage::{Stage, Trouble, open_descriptors};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A call that comes late comes so much later: longer than any pause of a scene, shorter than the deadlines.
const LATE: Duration = Duration::from_secs(3);

/// Sites of one kind in one scene. A scene that has more is too long for this.
const SITES_LIMIT: u32 = 2_000;

/// So many calls in a row fail for want of the same thing. More than a loop may turn in vain, though a turn that spins
/// may make two of them.
const SHORTAGE_CALLS: u32 = 2 * stage::FRUITLESS_LIMIT + 4;

/// The same of epoll_ctl(2): while it fails, a listener that is to pause is asked about once a turn, for which there is
/// no remedy. Less than a loop may turn in vain.
const SHORTAGE_CONTROLS: u32 = 26;

/// Who finds no descriptor for a peer finds none to keep in reserve either, for so many calls: by then a loop that
/// spins has been seen to, and the other half of the shortage is one in which there is a reserve and it does not help.
const SHORTAGE_SPARES: u32 = stage::FRUITLESS_LIMIT + 2;

/// A shortage begins with one of the first calls of its kind: from then on a scene is as it was.
const SHORTAGE_BEGINS: u32 = 3;

/// A piece of work, and the name it has in the table.
struct Scene {
    name: &'static str,
    play: fn(&mut Stage) -> Result<(), Trouble>,
    /// What fails in every play, in peace too: some calls are only made when another has failed.
    given: &'static [(Call, u32, Fault)],
}

impl Scene {
    /// A plan for a play in which nothing fails but what is given.
    fn plan(&self) -> Plan {
        self.given.iter().fold(Plan::new(), |plan, (call, nth, fault)| plan.with(*call, *nth, *fault))
    }
}

/// Whether everything must arrive all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Passing,
    Lasting,
}

/// What a kind of call can answer.
fn faults(call: Call) -> Vec<(Fault, Kind)> {
    use libc::*;
    let (passing, lasting): (&[i32], &[i32]) = match call {
        Call::Socket => (&[], &[EMFILE, ENFILE, ENOBUFS, ENOMEM]),
        Call::Bind => (&[], &[EADDRINUSE, ENOMEM]),
        Call::Listen => (&[], &[EADDRINUSE, ENOMEM]),
        Call::Connect => {
            (&[EINTR], &[EAGAIN, ENOBUFS, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL])
        }
        Call::PendingError => (&[], &[ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ECONNRESET, EACCES]),
        Call::Accept => (
            &[EINTR, EAGAIN, ENOBUFS, ENOMEM, ECONNABORTED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH],
            // The peer is turned away.
            &[EMFILE, ENFILE],
        ),
        Call::LocalAddress => (&[], &[ENOBUFS]),
        Call::PeerAddress => (&[], &[ENOBUFS, ENOTCONN]),
        Call::Recv => (&[EINTR, EAGAIN, ENOBUFS, ENOMEM], &[ECONNRESET, ETIMEDOUT, EHOSTUNREACH]),
        Call::Send | Call::SendVectored => {
            (&[EINTR, EAGAIN, ENOBUFS, ENOMEM], &[EPIPE, ECONNRESET, ETIMEDOUT, EHOSTUNREACH])
        }
        Call::Shutdown => (&[], &[ENOTCONN]),
        // What a receive reports of the network is about an earlier datagram of ours.
        Call::ReceiveBatch => (&[EINTR, EAGAIN, ENOBUFS, ENOMEM, EHOSTUNREACH], &[]),
        Call::SendBatch => (&[EINTR, EAGAIN, ENOBUFS, ENOMEM], &[EHOSTUNREACH]),
        Call::SetOption | Call::GetOption => (&[], &[ENOBUFS, ENOMEM]),
        Call::Fcntl => (&[], &[ENOMEM]),
        Call::EpollCreate | Call::Bell | Call::Spare => (&[], &[EMFILE, ENFILE, ENOMEM]),
        Call::EpollAdd => (&[], &[ENOMEM, ENOSPC]),
        // What is watched already goes on being watched, as it was.
        Call::EpollModify => (&[ENOMEM], &[]),
        Call::EpollRemove => (&[], &[ENOMEM]),
        Call::EpollWait | Call::Ring => (&[EINTR], &[]),
        Call::Unlink | Call::Stat => (&[], &[EACCES]),
        Call::SetSignal => (&[], &[EINVAL]),
        Call::Spawn => (&[], &[EAGAIN]),
        Call::Interfaces => (&[], &[EMFILE, ENOBUFS, ENOMEM]),
        Call::Random => (&[EAGAIN], &[]),
        // It is ignored, whatever it answers; and a look-up is made on another thread.
        Call::Close | Call::Resolve => (&[], &[]),
    };
    let cuts: &[Part] = match call {
        Call::Recv | Call::Send | Call::SendVectored => &[Part::OneByte, Part::Half],
        Call::ReceiveBatch | Call::SendBatch | Call::EpollWait => &[Part::OneByte, Part::Half],
        _ => &[],
    };
    let failures = |errnos: &[i32], kind| errnos.iter().map(|e| (Fault::Fail(*e), kind)).collect::<Vec<_>>();
    let mut faults = failures(passing, Kind::Passing);
    faults.extend(failures(lasting, Kind::Lasting));
    faults.extend(cuts.iter().map(|part| (Fault::Cut(*part), Kind::Passing)));
    faults.push((Fault::Delay(LATE), Kind::Passing));
    faults
}

/// Whether a fault may be noticed.
fn lasts(call: Call, fault: Fault) -> bool {
    faults(call).contains(&(fault, Kind::Lasting))
}

/// Plays a scene once under a plan; what calls it made, and what was wrong.
fn play(scene: &Scene, plan: Plan) -> (Plan, Result<(), String>) {
    let before = open_descriptors();
    fault::install(plan);
    let played = catch_unwind(AssertUnwindSafe(|| Stage::play(scene.play)));
    let plan = fault::remove().expect("the plan of this play");
    let verdict = match played {
        Ok(verdict) => verdict.and_then(|()| stage::await_descriptors(&before)),
        Err(panic) => Err(format!("panics: {:?}", panic.downcast_ref::<String>())),
    };
    (plan, verdict)
}

/// Sites and plays, by kind of call.
#[derive(Default)]
struct Tally {
    calls: BTreeMap<Call, (u32, u32)>,
    failures: Vec<String>,
}

/// Plays a scene under every fault of every call that it makes.
fn sweep(scene: &Scene) -> Tally {
    fault::own_table();
    let mut tally = Tally::default();
    let (peace, verdict) = play(scene, scene.plan());
    if let Err(what) = verdict {
        tally.failures.push(format!("{} in peace: {what}", scene.name));
        return tally;
    }
    for call in Call::ALL.iter().copied().filter(|call| peace.made(*call) > 0) {
        let (mut sites, mut plays) = (0, 0);
        for nth in 1..=SITES_LIMIT {
            let mut met = false;
            for (fault, _) in faults(call) {
                let (plan, verdict) = play(scene, scene.plan().with(call, nth, fault));
                // Also of a play that took another way and did not come to its fault.
                if let Err(what) = verdict {
                    tally.failures.push(format!("{}: {call} #{nth} {}: {what}", scene.name, name(fault)));
                }
                if plan.made(call) >= nth {
                    met = true;
                    plays += 1;
                }
            }
            if !met {
                break;
            }
            sites = nth;
        }
        tally.calls.insert(call, (sites, plays));
    }
    tally
}

/// Plays a scene under one fault over and over: every third call of the kind meets it.
fn storm(scene: &Scene) -> Tally {
    fault::own_table();
    let mut tally = Tally::default();
    for call in Call::ALL.iter().copied() {
        for (fault, _) in faults(call).into_iter().filter(|(_, kind)| *kind == Kind::Passing) {
            if matches!(fault, Fault::Delay(_)) {
                continue;
            }
            let plan = (1..SITES_LIMIT).step_by(3).fold(scene.plan(), |plan, nth| plan.with(call, nth, fault));
            let (plan, verdict) = play(scene, plan);
            if plan.made(call) == 0 {
                break;
            }
            let (sites, plays) = tally.calls.entry(call).or_default();
            *sites += plan.made(call).div_ceil(3);
            *plays += 1;
            if let Err(what) = verdict {
                tally.failures.push(format!("{}: every third {call} {}: {what}", scene.name, name(fault)));
            }
        }
    }
    tally
}

/// Plays a scene while something is short: many calls in a row fail for want of it.
fn drought(scene: &Scene) -> Tally {
    fault::own_table();
    let mut tally = Tally::default();
    for call in Call::ALL.iter().copied() {
        for fault in faults(call).into_iter().map(|(fault, _)| fault).filter(|fault| is_shortage(*fault)) {
            for first in 1..=SHORTAGE_BEGINS {
                let (plan, verdict) = play(scene, shortage(scene.plan(), call, first, fault));
                if let Err(what) = verdict {
                    let name = name(fault);
                    tally.failures.push(format!("{}: {call} #{first} and more {name}: {what}", scene.name));
                }
                if plan.made(call) < first {
                    break;
                }
                let (sites, plays) = tally.calls.entry(call).or_default();
                *sites += plan.met();
                *plays += 1;
            }
        }
    }
    tally
}

/// A plan in which something is short from the `first` call of a kind on.
fn shortage(plan: Plan, call: Call, first: u32, fault: Fault) -> Plan {
    let calls = if call == Call::EpollModify { SHORTAGE_CONTROLS } else { SHORTAGE_CALLS };
    let plan = (first..first + calls).fold(plan, |plan, nth| plan.with(call, nth, fault));
    let no_descriptor = call == Call::Accept && matches!(fault, Fault::Fail(libc::EMFILE | libc::ENFILE));
    // The first is the reactor's own, without which there is none.
    let spares = if no_descriptor { 2..2 + SHORTAGE_SPARES } else { 0..0 };
    spares.fold(plan, |plan, nth| plan.with(Call::Spare, nth, fault))
}

/// Whether it says that something is used up: memory, descriptors, watches.
fn is_shortage(fault: Fault) -> bool {
    use libc::*;
    matches!(fault, Fault::Fail(ENOBUFS | ENOMEM | ENOSPC | EMFILE | ENFILE))
}

fn name(fault: Fault) -> String {
    match fault {
        Fault::Fail(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        other => format!("{other:?}"),
    }
}

/// Kinds of calls down, scenes across: sites swept, and the sum of plays.
fn table(scenes: &[Scene], tallies: &[Tally]) -> String {
    let mut text = String::from("| call | faults |");
    scenes.iter().for_each(|scene| write!(text, " {} |", scene.name).expect("a string"));
    text.push_str(" sites | plays |\n|---|---|");
    scenes.iter().for_each(|_| text.push_str("---|"));
    text.push_str("---|---|\n");
    let (mut all_sites, mut all_plays) = (0, 0);
    for call in Call::ALL {
        let of = |tally: &Tally| tally.calls.get(call).copied().unwrap_or_default();
        let (sites, plays) = tallies.iter().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if sites == 0 {
            continue;
        }
        write!(text, "| {call} | {} |", faults(*call).len()).expect("a string");
        for tally in tallies {
            match of(tally) {
                (0, _) => text.push_str(" – |"),
                (sites, _) => write!(text, " {sites} |").expect("a string"),
            }
        }
        writeln!(text, " {sites} | {plays} |").expect("a string");
        all_sites += sites;
        all_plays += plays;
    }
    text.push_str("| all | |");
    for tally in tallies {
        write!(text, " {} |", tally.calls.values().map(|(sites, _)| sites).sum::<u32>()).expect("a string");
    }
    writeln!(text, " {all_sites} | {all_plays} |").expect("a string");
    text
}

/// All scenes, or the one that PLIMSOLL_SCENE names. A name that none has is refused: nothing played is nothing seen.
fn chosen(only: Option<&str>) -> Vec<Scene> {
    let mut scenes = scenes::all();
    if let Some(only) = only {
        let names: Vec<_> = scenes.iter().map(|scene| scene.name).collect();
        assert!(names.contains(&only), "PLIMSOLL_SCENE={only}: the scenes are {}", names.join("; "));
        scenes.retain(|scene| scene.name == only);
    }
    scenes
}

/// Every scene, each on a thread of its own.
fn everywhere(what: &str, sweep: fn(&Scene) -> Tally) {
    let begin = Instant::now();
    let scenes = chosen(std::env::var("PLIMSOLL_SCENE").ok().as_deref());
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let threads: Vec<_> = scenes.iter().map(|scene| scope.spawn(|| sweep(scene))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a scene's panic is caught")).collect()
    });
    println!("{what}, in {:.1} s:\n\n{}", begin.elapsed().as_secs_f64(), table(&scenes, &tallies));
    let failures: Vec<&String> = tallies.iter().flat_map(|tally| &tally.failures).collect();
    assert!(failures.is_empty(), "{} of the plays:\n{}", failures.len(), first_lines(&failures));
}

#[test]
fn the_table_has_a_column_for_every_scene() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/found.md"));
    let page = page.expect("a page of what was found");
    let head = page.lines().find(|line| line.starts_with("| call | faults |")).expect("the table of the sweep");
    for scene in scenes::all() {
        assert!(head.contains(&format!("| {} |", scene.name)), "{} has no column", scene.name);
    }
}

#[test]
fn a_scene_can_be_played_alone() {
    let names: Vec<_> = chosen(Some("udp, full")).iter().map(|scene| scene.name).collect();
    assert_eq!(names, ["udp, full"]);
}

#[test]
#[should_panic(expected = "PLIMSOLL_SCENE=nosuch: the scenes are echo; relay")]
fn a_scene_that_there_is_not_is_refused() {
    chosen(Some("nosuch"));
}

#[test]
fn nothing_is_lost_whichever_call_fails() {
    everywhere("sites swept", sweep);
}

#[test]
fn nothing_is_lost_though_every_third_call_fails() {
    everywhere("faults met", storm);
}

#[test]
fn nothing_is_lost_though_a_shortage_lasts_for_many_calls() {
    everywhere("faults met", drought);
}

fn first_lines(failures: &[&String]) -> String {
    failures.iter().take(60).map(|line| format!("  {line}\n")).collect()
}
