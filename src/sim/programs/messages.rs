//! Datagrams of a random program: whole or not at all, none altered, none twice, and each accounted for.
//!
//! A datagram begins with its number; the rest is a pattern that follows from it. What the program offered is either
//! out, or counted as dropped, and what was sent to it and fits into the kernel's buffer is received.

use super::app::App;
use super::oracle::{Direction, pattern};
use crate::datagram::Admission;
use crate::net::Net;
use crate::options::UdpOptions;
use crate::sim::{DatagramPeer, World};
use crate::sys::Address;
use crate::sys::datagram::Received;
use crate::token::Token;
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

/// Peers that can be sent to, and send.
const PEERS: usize = 3;
/// Before the pattern.
const NUMBER_BYTES: usize = 4;
/// No UDP datagram can be as long.
const TOO_LONG: usize = 70_000;
/// What a kernel's buffer surely holds, each with its overhead.
const SURELY_HELD: usize = 200_000;
const OVERHEAD: usize = 1_000;

/// What was sent in one direction between two sockets.
#[derive(Debug, Default)]
struct Line {
    /// By number: how long each was, and to whom or by whom.
    sent: Vec<(usize, usize)>,
    got: HashSet<usize>,
    bytes: [usize; PEERS + 2],
}

#[derive(Debug, Default)]
pub struct Messages {
    token: Option<Token>,
    at: Option<Address>,
    closed: bool,
    peers: Vec<(Address, DatagramPeer)>,
    /// Where nobody is.
    nowhere: Option<Address>,
    /// Offered and not refused for want of a socket.
    offered: u64,
    /// Of these, refused because the queue was full.
    full: u64,
    options: UdpOptions,
    out: Line,
    /// Peers send by themselves, while nobody has the program in hand.
    inward: Rc<RefCell<Line>>,
}

/// Opens the program's socket, if chance will have one.
pub fn open(app: &mut App, net: &mut Net<App>, world: &World) -> Result<(), String> {
    if app.chance.below(3) != 0 {
        return Ok(());
    }
    let name = |number: usize| -> Address {
        let text = match app.unix {
            true => format!("unix:@datagrams-{number}"),
            false => format!("10.3.0.{}:9", number + 1),
        };
        text.parse().expect("an address")
    };
    let options = UdpOptions::default().with(|o| {
        o.max_datagram = [2_048, 70_000][app.chance.below(2) as usize];
        o.queue_limit = [1, 3, 1_024][app.chance.below(3) as usize];
        o.receive_budget = 1 + app.chance.below(3) as u32;
    });
    app.messages.options = options.clone();
    let token = net.udp_with(name(0), options, |ctx, datagram| received(ctx.app, &datagram));
    app.messages.token = Some(token.map_err(|e| format!("no datagram socket: {e}"))?);
    for number in 1..=PEERS {
        let peer = world.datagrams(name(number)).map_err(|e| format!("no datagram peer: {e}"))?;
        app.messages.peers.push((name(number), peer));
    }
    (app.messages.at, app.messages.nowhere) = (Some(name(0)), Some(name(PEERS + 1)));
    Ok(())
}

fn content(number: usize, direction: Direction, len: usize) -> Vec<u8> {
    let mut data = (number as u32).to_le_bytes().to_vec();
    data.extend_from_slice(pattern(number, direction, 0, len - NUMBER_BYTES));
    data
}

impl Line {
    /// The next one, of about this length, to or from that peer.
    fn draw(&mut self, peer: usize, direction: Direction, len: usize) -> Vec<u8> {
        let data = content(self.sent.len(), direction, len + NUMBER_BYTES);
        self.sent.push((data.len(), peer));
        self.bytes[peer] += data.len() + OVERHEAD;
        data
    }

    /// One has arrived, as much of it as there was room for.
    fn arrived(&mut self, peer: usize, direction: Direction, data: &[u8], len: usize) -> Result<(), String> {
        let number = data.first_chunk().map(|number| u32::from_le_bytes(*number) as usize).ok_or("a stub")?;
        let (sent, whose) = *self.sent.get(number).ok_or("it was never sent")?;
        if whose != peer {
            return Err(format!("number {number} came to or from another"));
        }
        if sent != len || content(number, direction, sent)[..data.len()] != *data {
            return Err(format!("number {number} was altered: {len} bytes of {sent}"));
        }
        if self.got.insert(number) { Ok(()) } else { Err(format!("number {number} came twice")) }
    }

    /// Whether the receivers' buffers held all of it.
    fn fits(&self) -> bool {
        self.bytes.iter().all(|bytes| *bytes < SURELY_HELD)
    }
}

pub fn send(app: &mut App, net: &mut Net<App>, which: u8, size: u16) {
    let messages = &mut app.messages;
    let Some(token) = messages.token else { return };
    let whom = usize::from(which) % (PEERS + 2);
    let too_long = whom == PEERS + 1 && !app.unix;
    let to = messages.peers.get(whom).map(|(name, _)| name).or(messages.nowhere.as_ref());
    let Some(to) = to.cloned() else { return };
    let data = messages.out.draw(whom, Direction::Out, if too_long { TOO_LONG } else { usize::from(size) });
    let waiting = messages.waiting(net);
    match net.send_to(token, to, data) {
        Admission::Closed if !messages.closed && app.stopped == 0 => {
            app.wrong("the datagram socket is closed, and nobody has closed it".to_owned());
        }
        Admission::Closed => {}
        admission => {
            let full = admission == Admission::Full;
            messages.offered += 1;
            messages.full += u64::from(full);
            if full != (waiting >= messages.options.queue_limit as u64) {
                app.wrong(format!("{waiting} datagrams waited, and one more was answered {admission:?}"));
            }
        }
    }
}

pub fn close(app: &mut App, net: &mut Net<App>) {
    if let Some(token) = app.messages.token {
        app.messages.closed = true;
        net.close(token);
    }
}

/// The program has a datagram.
fn received(app: &mut App, datagram: &Received<'_>) {
    let messages = &app.messages;
    let peer = messages.peers.iter().position(|(name, _)| *name == datagram.from).unwrap_or(PEERS);
    let cut = datagram.len > messages.options.max_datagram;
    let checked = if datagram.truncated != cut || (datagram.data.len() < datagram.len) != cut {
        Err(format!("{} bytes of {} came, cut: {}", datagram.data.len(), datagram.len, datagram.truncated))
    } else {
        messages.inward.borrow_mut().arrived(peer, Direction::In, datagram.data, datagram.len)
    };
    if let Err(wrong) = checked {
        app.wrong(format!("a datagram for the program: {wrong}"));
    }
}

impl Messages {
    /// How many were admitted, and are neither out nor dropped.
    fn waiting(&self, net: &Net<App>) -> u64 {
        self.offered - net.stats().datagrams_out - net.stats().datagrams_dropped
    }

    /// The most that a turn may bring.
    pub fn receive_budget(&self) -> u64 {
        self.options.receive_budget.into()
    }

    /// What a peer does by itself, when its time has come.
    pub fn peer_sends(&self, which: u8, size: u16) -> impl FnOnce() + use<> {
        let index = usize::from(which).checked_rem(self.peers.len());
        let line = Rc::clone(&self.inward);
        let to = index.and_then(|index| Some((index, self.peers[index].1, self.at.clone()?)));
        move || {
            let Some((index, peer, at)) = to else { return };
            // For the program's buffer it is all the same who fills it, so its bytes are one sum.
            let data = line.borrow_mut().draw(index, Direction::In, usize::from(size));
            if peer.send(&at, &data).is_err() {
                // A Unix receiver that is full or gone says so, and nothing was sent.
                line.borrow_mut().bytes[PEERS] = SURELY_HELD;
            }
        }
    }

    /// Peers take what has come to them.
    pub fn read_on(&mut self) -> Result<(), String> {
        for (index, (_, peer)) in self.peers.iter().enumerate() {
            while let Some((from, data)) = peer.receive() {
                let arrived = self.out.arrived(index, Direction::Out, &data, data.len());
                arrived.map_err(|wrong| format!("a datagram for peer {index}: {wrong}"))?;
                if self.at.as_ref() != Some(&from) {
                    return Err(format!("a datagram for peer {index} has come from {from}"));
                }
            }
        }
        Ok(())
    }

    /// Everybody has read for long.
    pub fn at_rest(&mut self, net: &Net<App>) -> Result<(), String> {
        let Some(token) = self.token else { return Ok(()) };
        self.read_on()?;
        self.accounted(net)?;
        let line = self.inward.borrow();
        let held = line.bytes.iter().sum::<usize>() < SURELY_HELD;
        if held && !self.closed && net.local_address(token).is_some() && line.got.len() != line.sent.len() {
            return Err(format!(
                "{} of {} datagrams were received, and nothing comes",
                line.got.len(),
                line.sent.len()
            ));
        }
        let to_peers = self.out.sent.iter().filter(|(_, whom)| *whom < PEERS).count();
        if self.out.fits() && self.out.got.len() as u64 > net.stats().datagrams_out {
            return Err(format!("{} of {to_peers} datagrams arrived, more than went out", self.out.got.len()));
        }
        Ok(())
    }

    /// What was offered has gone out or was dropped.
    pub fn accounted(&self, net: &Net<App>) -> Result<(), String> {
        let (out, dropped) = (net.stats().datagrams_out, net.stats().datagrams_dropped);
        if self.token.is_some() && out + dropped != self.offered {
            return Err(format!("of {} datagrams {out} went out and {dropped} were dropped", self.offered));
        }
        let got = self.out.got.len() as u64;
        let nowhere = self.out.sent.iter().filter(|(_, whom)| *whom >= PEERS).count() as u64;
        if self.out.fits() && got + nowhere < out {
            return Err(format!("{out} datagrams went out, {got} arrived, and only {nowhere} were for nobody"));
        }
        Ok(())
    }
}
