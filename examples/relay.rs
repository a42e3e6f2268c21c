//! Relay: whoever connects here is joined to an upstream, bytes both ways.
//!
//! It shows `net.relay`: back-pressure from the slower side to the faster with bounded memory, each side's end
//! carried across as it comes, and a client that is dropped at once when its upstream cannot be reached. Peers
//! are accepted while the upstream is slow to answer; what they send meanwhile waits, up to the mark.
//!
//! ```text
//! cargo run --release --example echo                                          # an upstream
//! cargo run --release --example relay -- 127.0.0.1:2008 127.0.0.1:2007
//! nc 127.0.0.1 2008
//! cargo run --release --example relay -- unix:/tmp/relay.sock localhost:2007 --idle-timeout 60
//! ```

use clap::Parser;
use env_logger::Env;
use plimsoll::{
    Address, BytesMut, CloseReason, Ctx, Handler, ListenOptions, Reactor, RelayOptions, StreamOptions, Target,
};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

/// Join every peer that connects to LISTEN to a connection of its own to UPSTREAM.
#[derive(Parser)]
#[command(name = "relay", version)]
struct Arguments {
    /// Where to listen: 127.0.0.1:2008, [::1]:2008, unix:/path, unix:@name; port 0 and unix: take any that is free.
    listen: String,

    /// Where to connect: an address as above, or host:port.
    upstream: String,

    /// Bytes queued toward one side above which the other side is not read.
    #[arg(long, default_value_t = 64 * 1024, value_name = "BYTES")]
    high_water: usize,

    /// End pairs on which nothing moved for so many seconds; 0 never does.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    idle_timeout: u64,

    /// Clients at one time; further ones wait until one ends.
    #[arg(long, value_name = "N")]
    max_connections: Option<NonZeroUsize>,

    /// How many seconds the upstream may take to answer.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    connect_timeout: u64,
}

fn main() -> ExitCode {
    // An upstream that is down is worth a line even to those who did not ask for a log.
    env_logger::Builder::from_env(Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    match relay(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("relay: {e}");
            ExitCode::FAILURE
        }
    }
}

/// One side of a pair. The library moves the bytes; what is left to do is to say how it ended.
struct Side(&'static str);

impl Handler for Side {
    // Only what comes before the two are joined would come here, and they are joined at once.
    fn on_data(&mut self, _: &mut Ctx, _: &mut BytesMut) {}

    fn on_close(&mut self, ctx: &mut Ctx, why: CloseReason) {
        let side = self.0;
        match (why, ctx.peer_address(ctx.token)) {
            (CloseReason::Connect(e), _) => log::warn!("upstream cannot be reached: {e}"),
            // Few clients of a Unix socket give theirs a name.
            (why, None | Some(Address::Unnamed)) => log::info!("{side} without a name: {why}"),
            (why, Some(address)) => log::info!("{side} {address}: {why}"),
        }
    }
}

fn relay(arguments: &Arguments) -> io::Result<()> {
    let upstream = Target::from(&arguments.upstream);
    if let Target::Invalid(text) = upstream {
        let what = format!("the upstream {text:?} is neither an address nor host:port");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let joint = RelayOptions::new().with(|o| {
        o.high_water = arguments.high_water;
        o.idle_timeout = (arguments.idle_timeout > 0).then(|| Duration::from_secs(arguments.idle_timeout));
    });
    let outward = StreamOptions::new().with(|o| o.connect_timeout = Duration::from_secs(arguments.connect_timeout));
    let outward = Rc::new(outward); // one for all
    let inward = ListenOptions::new().with(|o| o.max_connections = arguments.max_connections.map(NonZeroUsize::get));

    let mut reactor = Reactor::new(())?;
    let listener = reactor.net.listen_with(&*arguments.listen, inward, move |ctx, _| {
        let other = ctx.net.connect_with(upstream.clone(), outward.clone(), Side("upstream"));
        ctx.net.relay(ctx.token, other, joint.clone()).then_some(Side("client"))
    });
    let listener = listener.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", arguments.listen)))?;
    reactor.net.stop_on_signals()?;
    if let Some(address) = reactor.net.local_address(listener) {
        writeln!(io::stdout(), "listening on {address}")?;
    }
    reactor.run()
}
