//! Echo: what a peer sends, it gets back (RFC 862). The smallest useful server, with the habits of a real one.
//!
//! It shows the handler that the README opens with. A peer that sends and never reads costs at most the high
//! mark: a connection over it is not read until the peer has caught up.
//!
//! ```text
//! cargo run --release --example echo                # then, in another terminal:
//! nc 127.0.0.1 2007                                 # type a line
//! cargo run --release --example echo -- '[::1]:0'   # IPv6, any free port; some shells would expand it without quotes
//! cargo run --release --example echo -- unix:/tmp/echo.sock
//! RUST_LOG=debug cargo run --release --example echo
//! ```

use clap::Parser;
use plimsoll::{ListenOptions, Reactor};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

/// Send back whatever a peer sends, until it ends.
#[derive(Parser)]
#[command(name = "echo", version)]
struct Arguments {
    /// Where to listen: 127.0.0.1:2007, [::1]:2007, unix:/path, unix:@name; port 0 and unix: take any that is free.
    #[arg(default_value = "127.0.0.1:2007")]
    address: String,

    /// End connections on which nothing moved for so many seconds; 0 never does.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    idle_timeout: u64,

    /// Connections at one time; further peers wait until one ends.
    #[arg(long, value_name = "N")]
    max_connections: Option<NonZeroUsize>,

    /// Pass the input on as shared slices (`split`) and not as a copy: to compare the two.
    #[arg(long)]
    split: bool,
}

fn main() -> ExitCode {
    env_logger::init();
    let arguments = Arguments::parse();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("echo: {}: {e}", arguments.address);
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    let mut reactor = Reactor::new(())?;
    let options = ListenOptions::new().with(|o| {
        o.max_connections = arguments.max_connections.map(NonZeroUsize::get);
        o.stream.idle_timeout = (arguments.idle_timeout > 0).then(|| Duration::from_secs(arguments.idle_timeout));
    });
    let listener = if arguments.split {
        reactor.net.serve_with(&*arguments.address, options, |ctx, input| {
            ctx.send(input.split());
        })?
    } else {
        reactor.net.serve_with(&*arguments.address, options, |ctx, input| {
            ctx.send(&input[..]);
            input.clear();
        })?
    };
    reactor.net.stop_on_signals()?;
    if let Some(address) = reactor.net.local_address(listener) {
        writeln!(io::stdout(), "listening on {address}")?;
    }
    reactor.run()
}
