//! Frames: requests that begin with their length, each answered by a frame of its own; here, by itself.
//!
//! It shows how a codec sits on a connection: the handler takes every whole frame off its input and leaves a part of
//! one there, says how many bytes that part lacks (`want`) and how long it may lack them (a timer of its own). So
//! a peer that sends a byte now and then costs one frame's memory, for a time, and nobody else anything.
//!
//! A stream that is no stream of frames ends: answers to the frames before go out, then the connection is closed, and
//! one line in the log says what was wrong. A peer that does not finish a frame in time sees its connection reset.
//!
//! ```text
//! cargo run --release --example frames               # then, in another terminal:
//! printf '\0\0\0\5hello' | nc -N 127.0.0.1 2009 | xxd   # -N, to end with the input, is OpenBSD's; without it:
//! python3 -c "from socket import *; s = create_connection(('127.0.0.1', 2009)); s.sendall(b'\0\0\0\5hello'); print(s.recv(99))"
//! cargo run --release --example frames -- '[::1]:0' --header u16le --max-frame 1000
//! cargo run --release --features crc32c --example frames -- --trailer crc32c
//! ```

use clap::{Parser, ValueEnum};
use env_logger::Env;
use plimsoll::codec::{FrameError, LengthPrefixed, Width};
use plimsoll::{Address, BytesMut, CloseReason, Ctx, Handler, KeepAlive, ListenOptions, Reactor};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

/// Answer each frame with a frame, until the peer ends or sends something else.
#[derive(Parser)]
#[command(name = "frames", version)]
struct Arguments {
    /// Where to listen: 127.0.0.1:2009, [::1]:2009, unix:/path, unix:@name; port 0 and unix: take any that is free.
    #[arg(default_value = "127.0.0.1:2009")]
    address: String,

    /// The length in front of each frame: its bits, and whether the big or the little end comes first.
    #[arg(long, value_enum, default_value_t = Header::U32be)]
    header: Header,

    /// What follows each frame.
    #[arg(long, value_enum, default_value_t = Trailer::None)]
    trailer: Trailer,

    /// The longest payload that is answered; a frame that announces a longer one ends its connection.
    #[arg(long, default_value_t = 64 * 1024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=MAX_FRAME))]
    max_frame: u32,

    /// How many seconds a frame may take from its first byte to its last; 0 is for ever.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    frame_timeout: u64,

    /// End connections on which nothing moved for so many seconds; 0 never does.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    idle_timeout: u64,

    /// End connections that took nothing of what waits for them for so many seconds; 0 never does.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    stalled_timeout: u64,

    /// Ask silent TCP peers every so many seconds whether they are there; end those that miss it thrice. 0 never does.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(..=MAX_KEEP_ALIVE))]
    keep_alive: u64,

    /// Connections at one time; further peers wait until one ends.
    #[arg(long, value_name = "N")]
    max_connections: Option<NonZeroUsize>,
}

/// Answers to one read and one frame have to fit a connection's hard limit of 64 MiB, far from its edge.
const MAX_FRAME: i64 = 16 * 1024 * 1024;

/// What the kernel's counter holds. The library would take a longer time for this one.
const MAX_KEEP_ALIVE: u64 = 32_767;

/// A length of eight bytes and a sum of four: the most that a frame has beside its payload.
const AROUND_PAYLOAD: usize = 8 + 4;

#[cfg(not(feature = "crc32c"))]
const NO_CRC32C: &str =
    "crc32c is not built in: cargo run --release --features crc32c --example frames -- --trailer crc32c";

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "lower")]
enum Header {
    U8,
    U16be,
    U16le,
    U24be,
    U24le,
    U32be,
    U32le,
    U64be,
    U64le,
}

#[derive(Clone, Copy, ValueEnum)]
enum Trailer {
    /// Nothing but the next frame.
    None,
    /// The CRC32C of header and payload, little end first; for this, build with `--features crc32c`.
    Crc32c,
}

impl Arguments {
    fn codec(&self) -> io::Result<LengthPrefixed> {
        let plain = LengthPrefixed::new(self.max_frame as usize);
        let codec = match self.header {
            Header::U8 => plain.width(Width::U8),
            Header::U16be => plain.width(Width::U16),
            Header::U16le => plain.width(Width::U16).little_endian(),
            Header::U24be => plain.width(Width::U24),
            Header::U24le => plain.width(Width::U24).little_endian(),
            Header::U32be => plain,
            Header::U32le => plain.little_endian(),
            Header::U64be => plain.width(Width::U64),
            Header::U64le => plain.width(Width::U64).little_endian(),
        };
        match self.trailer {
            Trailer::None => Ok(codec),
            #[cfg(feature = "crc32c")]
            Trailer::Crc32c => Ok(codec.checksum()),
            #[cfg(not(feature = "crc32c"))]
            Trailer::Crc32c => Err(io::Error::new(io::ErrorKind::Unsupported, NO_CRC32C)),
        }
    }

    fn listen_options(&self) -> ListenOptions {
        ListenOptions::new().with(|o| {
            o.max_connections = self.max_connections.map(NonZeroUsize::get);
            // A frame that is not whole lies in the input, which has to have room for all of it.
            o.stream.input_limit = self.max_frame as usize + AROUND_PAYLOAD;
            o.stream.idle_timeout = unless_zero(self.idle_timeout);
            o.stream.stalled_timeout = unless_zero(self.stalled_timeout);
            o.stream.keep_alive =
                unless_zero(self.keep_alive).map(|time| KeepAlive { idle: time, interval: time, probes: 3 });
        })
    }
}

fn unless_zero(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// One peer and its requests.
struct Requests {
    frames: LengthPrefixed,
    /// `None` leaves a peer all the time that it takes.
    frame_timeout: Option<Duration>,
    /// A part of a frame lies in the input. Its timer runs, unless the peer is not read.
    begun: bool,
}

/// The key of the timer by which a frame that has begun must be whole.
const WHOLE: u32 = 0;

impl Handler for Requests {
    fn on_data(&mut self, ctx: &mut Ctx, input: &mut BytesMut) {
        match self.answer(ctx, input) {
            Ok(answered) => self.wait(ctx, input, answered > 0),
            Err(e) => give_up(ctx, e),
        }
    }

    fn on_eof(&mut self, ctx: &mut Ctx, input: &mut BytesMut) {
        // A part of a frame will never be whole now.
        match self.answer(ctx, input).and_then(|_| self.frames.finish(input).map(drop)) {
            Ok(()) => ctx.shutdown(),
            Err(e) => give_up(ctx, e),
        }
    }

    /// Whoever does not read its answers is not read either, and cannot be asked to finish a frame meanwhile. If it
    /// takes nothing at all, it has stalled.
    fn on_high_water(&mut self, ctx: &mut Ctx, _queued: usize) {
        ctx.cancel_timer(WHOLE);
    }

    fn on_low_water(&mut self, ctx: &mut Ctx) {
        if self.begun {
            self.start_timer(ctx);
        }
    }

    fn on_timer(&mut self, ctx: &mut Ctx, _whole: u32) {
        log::warn!("{}: a frame was begun and not finished in time", peer(ctx));
        ctx.abort();
    }

    fn on_close(&mut self, ctx: &mut Ctx, why: CloseReason) {
        log::info!("{}: {why}", peer(ctx));
    }
}

impl Requests {
    /// Takes every whole frame off the input and sends what it asks for; how many there were.
    fn answer(&self, ctx: &mut Ctx, input: &mut BytesMut) -> Result<usize, FrameError> {
        let mut answered = 0;
        while let Some(request) = self.frames.decode(input)? {
            // A server with something to say says it here. All that is sent in one callback leaves in one write.
            let header = self.frames.header(request.len())?;
            ctx.send(&header[..]);
            ctx.send(&request[..]);
            ctx.send(&self.frames.trailer(&[&header, &request])[..]);
            answered += 1;
        }
        Ok(answered)
    }

    /// For the rest of the frame in the input, or for the first byte of another. A frame that is `new` has its own time;
    /// further bytes of the same one give it no more.
    fn wait(&mut self, ctx: &mut Ctx, input: &BytesMut, new: bool) {
        if input.is_empty() {
            self.begun = false;
            ctx.cancel_timer(WHOLE);
            ctx.want(0);
        } else {
            if new || !self.begun {
                self.start_timer(ctx);
            }
            self.begun = true;
            ctx.want(self.frames.wanted(input));
        }
    }

    fn start_timer(&self, ctx: &mut Ctx) {
        if let Some(time) = self.frame_timeout {
            ctx.timer(WHOLE, time);
        }
    }
}

/// Nobody knows where the next frame begins.
fn give_up(ctx: &mut Ctx, error: FrameError) {
    log::warn!("{}: {error}", peer(ctx));
    ctx.close();
}

/// What the log calls it. Few clients of a Unix socket give theirs a name.
fn peer(ctx: &Ctx) -> String {
    match ctx.peer_address(ctx.token) {
        None | Some(Address::Unnamed) => "a peer without a name".to_owned(),
        Some(address) => address.to_string(),
    }
}

fn main() -> ExitCode {
    // A bad frame is worth a line even to those who did not ask for a log.
    env_logger::Builder::from_env(Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("frames: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    let (frames, frame_timeout) = (arguments.codec()?, unless_zero(arguments.frame_timeout));
    let mut reactor = Reactor::new(())?;
    let listener = reactor.net.listen_with(&*arguments.address, arguments.listen_options(), move |_, _| {
        Some(Requests { frames, frame_timeout, begun: false })
    });
    let listener = listener.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", arguments.address)))?;
    reactor.net.stop_on_signals()?;
    if let Some(address) = reactor.net.local_address(listener) {
        writeln!(io::stdout(), "listening on {address}")?;
    }
    reactor.run()
}
