//! What a random program consists of: operations, their drawing from a seed, and their text.
//!
//! The text is what Rust's own `Debug` prints, so that it need not be invented; it is read back here, so that a
//! program that was shrunk can be run again just as it stands, luck and all:
//!
//! ```text
//!   Stormy seed 4011265 luck 3; 0 Timer Arrive; 120 Mail Send(0, 17); 400 Callback Close(0)
//! ```

use crate::sim::Weather;
use crate::sys::sim::chance::Chance;
use std::fmt;
use std::str::FromStr;

/// An enum whose variants can be read as they are printed.
macro_rules! words {
    ($(#[$doc:meta])* enum $kind:ident {
        $($(#[$of_one:meta])* $name:ident $(($($part:ty),+))?,)+
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind { $($(#[$of_one])* $name $(($($part),+))?,)+ }

        impl FromStr for $kind {
            type Err = String;

            fn from_str(text: &str) -> Result<$kind, String> {
                let (name, parts) = text.split_once('(').unwrap_or((text, ""));
                let mut parts = parts.trim_end_matches(')').split(',').map(str::trim);
                // A variant without parts asks for none.
                let _ = &mut parts;
                $(if name == stringify!($name) {
                    return Ok($kind::$name $(($(read::<$part>(parts.next(), text)?),+))?);
                })+
                Err(format!("no such word: {text}"))
            }
        }
    };
}

fn read<T: FromStr>(part: Option<&str>, text: &str) -> Result<T, String> {
    part.and_then(|part| part.parse().ok()).ok_or_else(|| format!("not understood: {text}"))
}

words! {
    /// One thing that somebody does. Numbers of connections count round, so that every number is some connection's.
    enum Act {
        // The program.
        Send(u8, u16),
        Flush(u8),
        Pause(u8),
        Resume(u8),
        Want(u8, u16),
        Shutdown(u8),
        Close(u8),
        Abort(u8),
        Relay(u8, u8),
        /// Detach, and adopt at once.
        Rehome(u8),
        /// Another handler for the same connection.
        Swap(u8),
        /// A filter under the handler.
        Filter(u8),
        /// Other options while it runs.
        Tune(u8),
        Timer(u8, u8, u16),
        CancelTimer(u8, u8),
        /// Connects to somebody, or tries to.
        Connect(Place),
        Dial(Place),
        CancelDial(u8),
        Datagram(u8, u16),
        CloseDatagrams,
        Stop,
        // The peers.
        Arrive,
        Write(u8, u16),
        Urgent(u8),
        Read(u8, u16),
        Takes(u8),
        StopsReading(u8),
        Fin(u8),
        Leave(u8),
        Reset(u8),
        Vanish(u8),
        DatagramIn(u8, u16),
    }
}

words! {
    enum Place {
        /// A server from outside.
        Server,
        /// The program's own listener: both ends are its.
        Own,
        /// An address that swallows all.
        Silence,
        /// An address where nobody listens.
        Nobody,
    }
}

words! {
    /// By which way the program comes to do something. Peers act by themselves.
    enum Via {
        Timer,
        Mail,
        Defer,
        Tell,
        Offload,
        /// In the next `on_data` of the connection.
        Callback,
    }
}

words! {
    enum Sky {
        Calm,
        Windy,
        Stormy,
    }
}

impl Sky {
    pub fn weather(self) -> Weather {
        match self {
            Sky::Calm => Weather::calm(),
            Sky::Windy => Weather::windy(),
            Sky::Stormy => Weather::stormy(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// Microseconds from the start.
    pub at: u32,
    pub via: Via,
    pub act: Act,
}

/// What is run: a pure function of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub seed: u64,
    /// Another number lets chance fall otherwise for the same operations.
    pub luck: u64,
    pub sky: Sky,
    pub ops: Vec<Op>,
}

impl Program {
    pub fn from_seed(seed: u64, sky: Sky) -> Program {
        let mut chance = Chance::new(seed ^ 0x0b5e_55ed);
        let count = 4 + chance.below(40);
        // Close together, or far apart: both bring things into orders of their own.
        let span = [300, 3_000, 30_000][chance.below(3) as usize];
        let mut ops = vec![Op { at: 0, via: Via::Timer, act: Act::Arrive }];
        ops.extend((0..count).map(|_| Op {
            at: chance.below(span) as u32,
            via: draw_via(&mut chance),
            act: draw_act(&mut chance),
        }));
        Program { seed, luck: 0, sky, ops }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} seed {} luck {}", self.sky, self.seed, self.luck)?;
        self.ops.iter().try_for_each(|op| write!(f, "; {} {:?} {:?}", op.at, op.via, op.act))
    }
}

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Program, String> {
        let mut parts = text.split(';').map(str::trim);
        let head: Vec<&str> = parts.next().unwrap_or_default().split(' ').collect();
        let [sky, "seed", seed, "luck", luck] = head[..] else { return Err(format!("not understood: {text}")) };
        let op = |text: &str| {
            let mut words = text.splitn(3, ' ');
            Ok(Op { at: read(words.next(), text)?, via: read(words.next(), text)?, act: read(words.next(), text)? })
        };
        let ops = parts.map(op).collect::<Result<_, String>>()?;
        Ok(Program { sky: sky.parse()?, seed: read(Some(seed), text)?, luck: read(Some(luck), text)?, ops })
    }
}

fn draw_via(chance: &mut Chance) -> Via {
    [Via::Timer, Via::Mail, Via::Defer, Via::Tell, Via::Offload, Via::Callback][chance.below(6) as usize]
}

fn draw_act(chance: &mut Chance) -> Act {
    let which = chance.below(8) as u8;
    // Now one byte, now a few, now more than any buffer holds.
    let most = [2, 40, 3_000, 60_000][chance.below(4) as usize];
    let size = chance.below(most) as u16;
    match chance.below(120) {
        0..14 => Act::Send(which, size),
        14..16 => Act::Flush(which),
        16..21 => Act::Pause(which),
        21..26 => Act::Resume(which),
        26..29 => Act::Want(which, size),
        29..33 => Act::Shutdown(which),
        33..37 => Act::Close(which),
        37..39 => Act::Abort(which),
        39..42 => Act::Relay(which, chance.below(8) as u8),
        42..45 => Act::Rehome(which),
        45..47 => Act::Timer(which, chance.below(3) as u8, chance.below(3_000) as u16),
        47..50 => Act::Connect(Place::Server),
        50..52 => Act::Connect(Place::Own),
        52 => Act::Connect(Place::Silence),
        53 => Act::Connect(Place::Nobody),
        54 if chance.below(3) == 0 => Act::Stop,
        54..64 => Act::Arrive,
        64..78 => Act::Write(which, size),
        78..80 => Act::Urgent(which),
        80..84 => Act::Read(which, size),
        84..88 => Act::Takes(which),
        88..91 => Act::StopsReading(which),
        91..95 => Act::Fin(which),
        95..97 => Act::Leave(which),
        97..99 => Act::Reset(which),
        99 => Act::Vanish(which),
        100..102 => Act::Swap(which),
        102..104 => Act::Filter(which),
        104..106 => Act::Tune(which),
        106 => Act::Timer(which, chance.below(3) as u8, chance.below(20) as u16),
        107 => Act::CancelTimer(which, chance.below(3) as u8),
        108 => Act::Dial([Place::Server, Place::Server, Place::Server, Place::Nobody][chance.below(4) as usize]),
        109 => Act::CancelDial(which),
        110..115 => Act::Datagram(which, size),
        115..119 => Act::DatagramIn(which, size),
        _ if chance.below(2) == 0 => Act::Stop,
        _ => Act::CloseDatagrams,
    }
}
