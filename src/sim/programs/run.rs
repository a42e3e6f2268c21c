//! Running a random program: the world, the reactor, and the loop that is turned until it stops or goes wrong.

use super::hand::{App, Hand, act, draw_options, recognize};
use super::peers::Peers;
use super::verdict;
use super::{Act, Op, Program, Via};
use crate::handler::Loop;
use crate::options::{ListenOptions, ReactorOptions};
use crate::reactor::Reactor;
use crate::sim::{Weather, World};
use crate::sys::Address;
use crate::sys::sim::chance::Chance;
use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// When the program stops doing things, reads all that is left and waits for what is still under way.
const QUIET_AT: Duration = Duration::from_secs(20);
/// When all must have come to rest: longer after that than any time-out.
const REST_AT: Duration = Duration::from_secs(60);
/// More turns than any program needs.
const TURNS_MAX: u64 = 300_000;
/// Turns in a row in which nothing happened and no time passed: the loop spins.
const FUTILE_MAX: u32 = 200;
/// Descriptors of a reactor without sockets: epoll, bell, spare.
const OWN_DESCRIPTORS: usize = 3;

/// A run that kept every promise.
#[derive(Debug)]
pub struct Ran {
    pub turns: u64,
    pub trace: u64,
}

/// Runs a program; the error says which promise was broken.
pub fn run(program: &Program) -> Result<Ran, String> {
    let hook = QuietPanics::begin();
    let ran = catch_unwind(AssertUnwindSafe(|| run_in_world(program)));
    drop(hook);
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic at {}: {}", PLACE.take().unwrap_or_default(), text.unwrap_or_default()))
    })
}

fn run_in_world(program: &Program) -> Result<Ran, String> {
    // Begun in fair weather: a reactor that cannot be made is not what is looked for.
    let world =
        World::with_weather(program.seed ^ program.luck << 48, Weather { shortages: 0, ..program.sky.weather() });
    world.silence(&"10.0.2.1:80".parse().expect("an address"));
    let peers: Rc<RefCell<Peers>> = Rc::default();
    let app = App {
        chance: Chance::new(program.seed),
        streams: Vec::new(),
        lives: Vec::new(),
        by_address: HashMap::new(),
        peers: Rc::clone(&peers),
        quiet: false,
        stopped: 0,
        at: Address::Unnamed,
        unix: false,
        wrong: Vec::new(),
    };
    let options = ReactorOptions::default().with(|o| o.closure_budget = 8);
    let mut reactor = Reactor::with_options(app, options).map_err(|e| format!("no reactor: {e}"))?;
    let unix = reactor.app.chance.below(4) == 0;
    let at: Address = if unix { "unix:@program" } else { "10.0.0.1:7" }.parse().expect("an address");
    (reactor.app.at, reactor.app.unix) = (at.clone(), unix);
    listen(&mut reactor, &at)?;
    world.set_weather(program.sky.weather());
    schedule(&world, &mut reactor, program, &at);
    turn_until_stopped(&world, &mut reactor)?;
    // The peers do what they still had to do, and then what is under way to them arrives, be it byte by byte.
    world.pass(Duration::from_millis(50));
    peers.borrow_mut().read_on();
    world.pass(Duration::from_secs(60));
    verdict::at_the_end(&mut reactor)?;
    if world.open_descriptors() != OWN_DESCRIPTORS {
        return Err(format!("{} descriptors are open after the stop", world.open_descriptors()));
    }
    let ran = Ran { turns: world.turns(), trace: world.trace() };
    drop(reactor);
    match world.open_descriptors() {
        0 => Ok(ran),
        open => Err(format!("{open} descriptors are left")),
    }
}

fn listen(reactor: &mut Reactor<App>, at: &Address) -> Result<(), String> {
    let options = ListenOptions::default().with(|o| o.stream = draw_options(&mut reactor.app.chance));
    let listening = reactor.net.listen_with(at, options, |ctx, peer| {
        let stream = recognize(ctx.app, ctx.net, peer)?;
        let token = ctx.token;
        ctx.app.stream_at(stream).token = Some(token);
        if ctx.app.stream_at(stream).own {
            ctx.net.options(token, |o| o.read_while_high = true);
        }
        Some(ctx.app.hand(stream))
    });
    listening.map(drop).map_err(|e| format!("it does not listen: {e}"))
}

fn schedule(world: &World, reactor: &mut Reactor<App>, program: &Program, at: &Address) {
    let mailbox = reactor.net.mailbox();
    for &Op { at: micros, via, act: what } in &program.ops {
        let time = Duration::from_micros(micros.into());
        match what {
            Act::Arrive => {
                let at = at.clone();
                reactor.net.after(time, move |lp| arrive(lp.app, &at));
            }
            Act::Write(..)
            | Act::Urgent(_)
            | Act::Read(..)
            | Act::Takes(_)
            | Act::StopsReading(_)
            | Act::Fin(_)
            | Act::Leave(_)
            | Act::Reset(_)
            | Act::Vanish(_) => {
                let peers = Rc::clone(&reactor.app.peers);
                world.after(time, move |_| peers.borrow_mut().act(what));
            }
            _ if via == Via::Mail => {
                let mailbox = mailbox.clone();
                world.after(time, move |_| {
                    // Refused when the loop is gone.
                    let _ = mailbox.post(move |lp| act(lp.app, lp.net, what, false));
                });
            }
            _ => {
                reactor.net.after(time, move |lp| by_another_way(lp, via, what));
            }
        }
    }
    let peers = Rc::clone(&reactor.app.peers);
    reactor.net.after(QUIET_AT, move |lp| {
        peers.borrow_mut().read_on();
        for token in lp.net.tokens() {
            lp.net.want(token, 0);
            lp.net.pause_reading(token);
            lp.net.resume_reading(token);
        }
        lp.app.quiet = true;
    });
    reactor.net.after(REST_AT, |lp| {
        verdict::at_rest(lp.app, lp.net);
        lp.app.stopped += 1;
        lp.net.stop();
    });
}

fn arrive(app: &mut App, at: &Address) {
    let reads = app.chance.below(2) == 0;
    let (stream, address) = app.peers.borrow_mut().arrive(at, reads);
    app.by_address.insert(address, stream);
    app.stream_at(stream);
}

fn by_another_way(lp: &mut Loop<'_, App>, via: Via, what: Act) {
    match via {
        Via::Timer | Via::Mail => act(lp.app, lp.net, what, false),
        Via::Defer => lp.net.defer(move |lp| act(lp.app, lp.net, what, false)),
        Via::Offload => {
            // Refused when too much waits, which it never does.
            let _ = lp.net.offload(
                move || what,
                |lp, what| {
                    if let Ok(what) = what {
                        act(lp.app, lp.net, what, false);
                    }
                },
            );
        }
        Via::Tell | Via::Callback => {
            let which = lp.app.chance.below(8) as u8;
            let Some((stream, token)) = lp.app.pick(which) else { return };
            if via == Via::Callback {
                return lp.app.streams[stream].todo.push(what);
            }
            lp.net.tell::<Hand>(token, move |hand, ctx| {
                hand.called(ctx.app, "tell");
                act(ctx.app, ctx.net, what, false);
            });
        }
    }
}

fn turn_until_stopped(world: &World, reactor: &mut Reactor<App>) -> Result<(), String> {
    let mut futile = 0;
    let mut before = (world.calls(), world.elapsed());
    while !reactor.is_stopped() {
        reactor.turn(None).map_err(|e| format!("the loop would sleep for ever: {e}"))?;
        if let Some(wrong) = reactor.app.wrong.first() {
            return Err(wrong.clone());
        }
        let after = (world.calls(), world.elapsed());
        // Two readings of the clock before and behind the wait, and one when the turn is over.
        let idle = after.0 - before.0 <= 4 && after.1 - before.1 < Duration::from_micros(50);
        futile = if idle { futile + 1 } else { 0 };
        before = after;
        if futile > FUTILE_MAX {
            return Err(format!("the loop spins at {:?}", world.elapsed()));
        }
        if world.turns() > TURNS_MAX {
            return Err(format!("{TURNS_MAX} turns were not enough, at {:?}", world.elapsed()));
        }
    }
    Ok(())
}

/// Panics of the library are findings, and told in the report; shrinking would print hundreds of them.
struct QuietPanics;

impl QuietPanics {
    fn begin() -> QuietPanics {
        QUIET.set(true);
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !QUIET.get() {
                    usual(info);
                } else {
                    PLACE.set(info.location().map(|place| format!("{}:{}", place.file(), place.line())));
                }
            }));
        });
        QuietPanics
    }
}

impl Drop for QuietPanics {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

thread_local! {
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    static PLACE: std::cell::Cell<Option<String>> = const { std::cell::Cell::new(None) };
}
