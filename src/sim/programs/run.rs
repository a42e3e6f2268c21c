//! Running a random program: the world, the reactor, and the loop that is turned until it stops or goes wrong.

use super::acts::{Act, Op, Program, Sky, Via};
use super::app::{App, draw_options, draw_reactor_options};
use super::deeds::{act, read_on, welcome};
use super::hand::Hand;
use super::messages::Messages;
use super::peers::Peers;
use super::post::{Post, offload};
use super::{dials, messages, verdict};
use crate::closures::{Mailbox, PostError};
use crate::handler::Loop;
use crate::options::{AtLimit, ListenOptions};
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
/// When those whom a full listener has let wait get room, again and again until all is at rest.
const ROOM_EVERY: Duration = Duration::from_secs(6);
/// When all must have come to rest: longer after that than any time-out.
const REST_AT: Duration = Duration::from_secs(90);
/// More turns than any program needs.
const TURNS_MAX: u64 = 300_000;
/// Turns in a row in which nothing happened and no time passed: the loop spins.
const FUTILE_MAX: u32 = 200;
/// Letters that are posted at once, if more than one is.
const BURST: usize = 3;
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
    run_as(program, false)
}

/// Runs a program whose handlers are careful, or are not: see [`App::careless`].
pub fn run_as(program: &Program, careless: bool) -> Result<Ran, String> {
    let hook = QuietPanics::begin();
    let ran = catch_unwind(AssertUnwindSafe(|| run_in_world(program, careless)));
    drop(hook);
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic at {}: {}", PLACE.take().unwrap_or_default(), text.unwrap_or_default()))
    })
}

fn run_in_world(program: &Program, careless: bool) -> Result<Ran, String> {
    // Begun in fair weather: a reactor that cannot be made is not what is looked for.
    let world =
        World::with_weather(program.seed ^ program.luck << 48, Weather { shortages: 0, ..program.sky.weather() });
    world.silence("10.0.2.1:80");
    let peers: Rc<RefCell<Peers>> = Rc::default();
    let app = begin(program, Rc::clone(&peers), careless);
    let options = app.options.clone();
    let mut reactor = Reactor::with_options(app, options).map_err(|e| format!("no reactor: {e}"))?;
    listen(&mut reactor)?;
    messages::open(&mut reactor.app, &mut reactor.net, &world)?;
    world.set_weather(program.sky.weather());
    schedule(&world, &mut reactor, program);
    turn_until_stopped(&world, &mut reactor)?;
    // The peers do what they still had to do, and then what is under way to them arrives, be it byte by byte.
    world.pass(Duration::from_millis(50));
    peers.borrow_mut().read_on();
    world.pass(Duration::from_secs(60));
    // Returns at once, and leaves the loop as it was before the stop.
    reactor.run().map_err(|e| format!("it does not return: {e}"))?;
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

fn begin(program: &Program, peers: Rc<RefCell<Peers>>, careless: bool) -> App {
    let mut chance = Chance::new(program.seed);
    let unix = chance.below(4) == 0;
    let options = draw_reactor_options(&mut chance);
    let listening = ListenOptions::default().with(|o| {
        o.stream = draw_options(&mut chance);
        o.max_connections = (chance.below(8) == 0).then(|| 1 + chance.below(3) as usize);
        o.at_limit = if chance.below(3) == 0 { AtLimit::Refuse } else { AtLimit::Pause };
        o.accept_budget = 1 + chance.below(8) as u32;
    });
    App {
        streams: Vec::new(),
        lives: Vec::new(),
        by_address: HashMap::new(),
        peers,
        dials: Vec::new(),
        messages: Messages::default(),
        post: Rc::new(RefCell::new(Post::new(options.mail_limit))),
        quiet: false,
        stopped: 0,
        stopped_at: 0,
        cut_at: None,
        at: if unix { "unix:@program" } else { "10.0.0.1:7" }.parse().expect("an address"),
        listening,
        options,
        unix,
        stormy: program.sky == Sky::Stormy,
        inside: 0,
        turned_away: 0,
        careless,
        wrong: Vec::new(),
        chance,
    }
}

fn listen(reactor: &mut Reactor<App>) -> Result<(), String> {
    let (at, options) = (reactor.app.at.clone(), reactor.app.listening.clone());
    let listening = reactor.net.listen_with(&at, options, |ctx, peer| welcome(ctx.app, ctx.net, ctx.token, peer));
    listening.map(drop).map_err(|e| format!("it does not listen: {e}"))
}

fn schedule(world: &World, reactor: &mut Reactor<App>, program: &Program) {
    for op in &program.ops {
        schedule_op(world, reactor, *op);
    }
    reactor.net.after(QUIET_AT, fall_quiet);
    reactor.net.after(REST_AT, |lp| {
        verdict::at_rest(lp.app, lp.net);
        lp.app.stop(lp.net);
    });
}

fn schedule_op(world: &World, reactor: &mut Reactor<App>, Op { at: micros, via, act: what }: Op) {
    let time = Duration::from_micros(micros.into());
    match what {
        Act::Arrive => {
            let at = reactor.app.at.clone();
            reactor.net.after(time, move |lp| arrive(lp.app, &at));
        }
        Act::DatagramIn(which, size) => {
            let send = reactor.app.messages.peer_sends(which, size);
            world.after(time, move |_| send());
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
            let (mailbox, post) = (reactor.net.mailbox(), Rc::clone(&reactor.app.post));
            // Now and then in a burst, which a small box does not hold.
            let letters = if micros % 4 == 0 { BURST } else { 1 };
            world.after(time, move |_| (0..letters).for_each(|nth| mail(&mailbox, &post, (nth == 0).then_some(what))));
        }
        _ => {
            reactor.net.after(time, move |lp| by_another_way(lp, via, what));
        }
    }
}

/// Posts a letter that has something done, or nothing.
fn mail(mailbox: &Mailbox<App>, post: &RefCell<Post>, what: Option<Act>) {
    let number = post.borrow().next();
    let posted = mailbox.post(move |lp| {
        lp.app.post.borrow_mut().read(number);
        if let Some(what) = what {
            act(lp.app, lp.net, what, None);
        }
    });
    // Refused also when the loop is gone.
    if !matches!(posted, Err(PostError::Gone(_))) {
        post.borrow_mut().posted(posted.is_ok());
    }
}

/// Nothing new is begun, and everybody reads.
fn fall_quiet(lp: &mut Loop<'_, App>) {
    lp.app.peers.borrow_mut().read_on();
    read_on(lp.app, lp.net);
    dials::still_dials(lp.app, lp.net);
    (0..lp.app.dials.len()).for_each(|which| dials::cancel(lp.app, lp.net, which as u8));
    if let Err(wrong) = lp.app.messages.read_on() {
        lp.app.wrong(wrong);
    }
    lp.app.quiet = true;
    if lp.app.listening.max_connections.is_some() {
        let rounds = ((REST_AT - QUIET_AT).as_secs() / ROOM_EVERY.as_secs()) as u32 - 2;
        for round in 0..rounds {
            lp.net.after(ROOM_EVERY * round, |lp| verdict::make_room(lp.app, lp.net));
        }
    }
}

fn arrive(app: &mut App, at: &Address) {
    let reads = app.chance.below(2) == 0;
    let (stream, address) = app.peers.borrow_mut().arrive(at, reads);
    app.by_address.insert(address, stream);
    app.stream_at(stream);
}

fn by_another_way(lp: &mut Loop<'_, App>, via: Via, what: Act) {
    match via {
        Via::Timer | Via::Mail => act(lp.app, lp.net, what, None),
        Via::Defer => lp.net.defer(move |lp| act(lp.app, lp.net, what, None)),
        Via::Offload => offload(lp.app, lp.net, move |app, net| act(app, net, what, None)),
        Via::Tell | Via::Callback => {
            let which = lp.app.chance.below(8) as u8;
            let Some((stream, token)) = lp.app.pick(which) else { return };
            if via == Via::Callback {
                return lp.app.streams[stream].todo.push(what);
            }
            lp.net.tell::<Hand>(token, move |hand, ctx| {
                hand.called(ctx.app, "tell");
                act(ctx.app, ctx.net, what, None);
            });
        }
    }
}

fn turn_until_stopped(world: &World, reactor: &mut Reactor<App>) -> Result<(), String> {
    let mut futile = 0;
    let mut before = (world.calls(), world.elapsed());
    let mut stats = *reactor.net.stats();
    while !reactor.is_stopped() {
        reactor.turn(None).map_err(|e| format!("the loop would sleep for ever: {e}"))?;
        verdict::in_between(&reactor.app, &reactor.net)?;
        verdict::within_budgets(&reactor.app, &stats, reactor.net.stats())?;
        stats = *reactor.net.stats();
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
