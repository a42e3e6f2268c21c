//! Plimsoll: the library as a user writes it. Options are the defaults.

use super::{FRAME_MAX_BYTES, Options, Role, Side, announce, first_frame, whole_frames};
use plimsoll::codec::LengthPrefixed;
use plimsoll::{
    BytesMut, Ctx, Flow, Handler, ListenOptions, Reactor, ReactorOptions, RelayOptions, StreamOptions, Token,
};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const ADDRESS: &str = "127.0.0.1:0";

/// Longer than a round trip with its work on the other side; a processor is what it costs.
const SPIN: Duration = Duration::from_micros(50);

pub fn serve(side: Side, role: Role, options: &Options) -> io::Result<()> {
    match role {
        Role::Echo => echo(side),
        Role::Frames => frames(),
        Role::Relay => relay(options.upstream()?),
        Role::FanOut => fan_out(),
    }
}

fn run<A: 'static>(mut reactor: Reactor<A>, listener: Token) -> io::Result<()> {
    let address = reactor.net.local_address(listener).and_then(|address| address.ip());
    announce(address.ok_or_else(|| io::Error::other("the listener has no address"))?)?;
    reactor.run()
}

fn echo(side: Side) -> io::Result<()> {
    let options = ReactorOptions::new().with(|o| {
        if side == Side::PlimsollSpin {
            o.spin = SPIN;
        }
    });
    let mut reactor = Reactor::with_options((), options)?;
    let listener = if side == Side::PlimsollSplit {
        reactor.net.serve(ADDRESS, |ctx, input| {
            ctx.send(input.split());
        })?
    } else {
        reactor.net.serve(ADDRESS, |ctx, input| {
            ctx.send(&input[..]);
            input.clear();
        })?
    };
    run(reactor, listener)
}

const FRAMES: LengthPrefixed = LengthPrefixed::new(FRAME_MAX_BYTES - 4);

fn frames() -> io::Result<()> {
    let mut reactor = Reactor::new(())?;
    let listener = reactor.net.serve(ADDRESS, |ctx, input| {
        loop {
            match FRAMES.decode(input) {
                Ok(Some(frame)) => ctx.send(frame.whole()),
                Ok(None) => break,
                Err(_) => return ctx.abort(),
            };
        }
    })?;
    run(reactor, listener)
}

/// One side of a pair: the library moves the bytes.
struct Joined;

impl Handler for Joined {
    fn on_data(&mut self, _: &mut Ctx, _: &mut BytesMut) {}
}

fn relay(upstream: SocketAddr) -> io::Result<()> {
    let mut reactor = Reactor::new(())?;
    let outward = Rc::new(StreamOptions::new());
    let listener = reactor.net.listen_with(ADDRESS, ListenOptions::new(), move |ctx, _| {
        let other = ctx.net.connect_with(upstream, outward.clone(), Joined);
        ctx.net.relay(ctx.token, other, RelayOptions::new()).then_some(Joined)
    })?;
    run(reactor, listener)
}

/// The subscribers that keep up.
type Room = Vec<Token>;

/// What the first byte has said.
#[derive(Clone, Copy)]
enum Guest {
    Unknown,
    Subscriber,
    Publisher,
}

impl Handler<Room> for Guest {
    fn on_data(&mut self, ctx: &mut Ctx<Room>, input: &mut BytesMut) {
        if let Guest::Unknown = self {
            *self = match input.split_to(1)[0] {
                b'S' => Guest::Subscriber,
                b'P' => Guest::Publisher,
                _ => return ctx.abort(),
            };
            if let Guest::Subscriber = self {
                ctx.app.push(ctx.token);
            }
        }
        if let Guest::Subscriber = self {
            return input.clear();
        }
        let Ok(whole) = whole_frames(input) else { return ctx.abort() };
        let burst = input.split_to(whole);
        // One send for each frame and subscriber: to gather them is the library's work. Frame by frame for one subscriber
        // after the other, since a thousand connections do not fit the nearest cache. Who is over the high mark leaves the
        // list until low water, or for ever if it is gone: that spares a look at each queue before each send.
        ctx.app.retain(|&subscriber| frames_of(&burst).all(|frame| ctx.net.send(subscriber, frame) == Flow::Open));
    }

    fn on_low_water(&mut self, ctx: &mut Ctx<Room>) {
        if let Guest::Subscriber = self {
            ctx.app.push(ctx.token);
        }
    }
}

/// The frames that whole ones consist of.
fn frames_of(mut burst: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let frame = first_frame(burst).ok()??;
        burst = &burst[frame.len()..];
        Some(frame)
    })
}

fn fan_out() -> io::Result<()> {
    let mut reactor = Reactor::new(Room::new())?;
    let listener = reactor.net.listen(ADDRESS, |_, _| Some(Guest::Unknown))?;
    run(reactor, listener)
}
