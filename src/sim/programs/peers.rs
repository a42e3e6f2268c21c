//! The peers of a random program: what they do, and what they remember of it.

use super::acts::Act;
use super::oracle::{Direction, pattern};
use super::probe;
use crate::sim::{Harbor, Peer};
use crate::sys::Address;

/// One peer; it has the number of its stream.
#[derive(Debug)]
pub struct Party {
    /// `None`: a server from outside to whom nobody has connected yet.
    peer: Option<Peer>,
    harbor: Option<Harbor>,
    /// Bytes of the pattern that it has sent.
    pub sent: u64,
    /// What it had read when it went.
    last_read: Option<Vec<u8>>,
    urgent_sent: bool,
    /// How often it has sent anything.
    pub writes: u32,
    /// It has closed, reset the connection or vanished: what is under way to it may be lost.
    pub gone: bool,
    pub vanished: bool,
    pub reset: bool,
    pub unix: bool,
    /// It has read everything as it came, from the beginning.
    pub always_read: bool,
    pub fin: bool,
    /// Bytes that its end and the program's can have under way to it: few take long.
    window: usize,
}

impl Party {
    fn new(peer: Option<Peer>, harbor: Option<Harbor>, reads: bool) -> Party {
        Party {
            peer,
            harbor,
            sent: 0,
            last_read: None,
            urgent_sent: false,
            writes: 0,
            gone: false,
            vanished: false,
            reset: false,
            unix: false,
            always_read: reads,
            fin: false,
            window: 0,
        }
    }

    /// The peer, once it is there.
    pub fn peer(&mut self) -> Option<Peer> {
        if self.peer.is_none() {
            self.peer = self.harbor.and_then(Harbor::accept);
        }
        self.peer
    }

    /// It is this one, and there already.
    pub fn attach(&mut self, peer: Peer) {
        self.peer = Some(peer);
    }

    /// What it has sent and the program's kernel does not have yet.
    pub fn under_way(&mut self) -> usize {
        self.window = self.window.max(self.peer().map_or(0, probe::window));
        self.peer().map_or(0, probe::under_way)
    }

    /// A peer that reads everything as it comes has so many bytes within a second, however bad the weather.
    pub fn surely_reads(&self) -> u64 {
        // Segments have 1,500 bytes on average, and are a fifth of a millisecond under way at most, as is the answer.
        1_000 * self.window.min(1_500) as u64 / 4
    }

    pub fn received(&mut self) -> Vec<u8> {
        match &self.last_read {
            Some(read) => read.clone(),
            None => self.peer().map(Peer::received).unwrap_or_default(),
        }
    }

    fn go(&mut self, peer: Peer, how: fn(Peer)) {
        self.last_read = Some(peer.received());
        self.gone = true;
        how(peer);
    }
}

#[derive(Debug, Default)]
pub struct Peers {
    pub parties: Vec<Party>,
}

impl Peers {
    /// A peer that connects to the program.
    pub fn arrive(&mut self, to: &Address, reads: bool) -> (usize, Address) {
        let number = self.parties.len();
        // Each has a name of its own, by which the program knows it.
        let from = match to.port() {
            Some(_) => format!("10.1.{}.{}:5000", number / 250, number % 250),
            None => format!("unix:@peer-{number}"),
        };
        let from: Address = from.parse().expect("an address");
        let peer = Peer::connect(Some(&from), to);
        if reads {
            peer.takes();
        }
        self.parties.push(Party { unix: to.is_unix(), ..Party::new(Some(peer), None, reads) });
        (number, from)
    }

    /// One to whom the program connects.
    pub fn expect(&mut self, harbor: Option<Harbor>, reads: bool) -> usize {
        if let Some(harbor) = harbor.filter(|_| reads) {
            harbor.takes();
        }
        self.parties.push(Party::new(None, harbor, reads));
        self.parties.len() - 1
    }

    pub fn act(&mut self, act: Act) {
        let (Act::Write(which, _)
        | Act::Urgent(which)
        | Act::Read(which, _)
        | Act::Takes(which)
        | Act::StopsReading(which)
        | Act::Fin(which)
        | Act::Leave(which)
        | Act::Reset(which)
        | Act::Vanish(which)) = act
        else {
            return;
        };
        if self.parties.is_empty() {
            return;
        }
        let stream = usize::from(which) % self.parties.len();
        let party = &mut self.parties[stream];
        let Some(peer) = party.peer().filter(|_| !party.gone) else { return };
        match act {
            Act::Write(_, len) if !party.fin => {
                let len = usize::from(len);
                peer.send(pattern(stream, Direction::In, party.sent, len));
                party.sent += len as u64;
                party.writes += 1;
            }
            // A second one would make the first a byte like any other.
            Act::Urgent(_) if !party.fin && !party.urgent_sent => {
                party.urgent_sent = true;
                party.writes += 1;
                peer.send_urgent(b"!");
            }
            Act::Read(_, len) => drop(peer.read(usize::from(len))),
            Act::Takes(_) => peer.takes(),
            Act::StopsReading(_) => {
                party.always_read = false;
                peer.stops_reading();
            }
            Act::Fin(_) => {
                party.fin = true;
                peer.shutdown();
            }
            Act::Leave(_) => party.go(peer, Peer::close),
            Act::Reset(_) => {
                // A Unix socket can only close.
                party.reset = !party.unix;
                party.go(peer, Peer::reset);
            }
            Act::Vanish(_) => {
                party.vanished = true;
                party.go(peer, Peer::vanish);
            }
            _ => {}
        }
    }

    /// Everybody reads from now on.
    pub fn read_on(&mut self) {
        for party in &mut self.parties {
            if let Some(peer) = party.peer().filter(|_| !party.gone) {
                peer.takes();
            }
        }
    }
}
