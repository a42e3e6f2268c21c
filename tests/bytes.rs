//! Bytes in are bytes out: thousands of connections with random sizes, pauses, leftovers and half-closes, both
//! ends in one reactor. What is sent is a pattern, so a loss, a repetition or an exchange shows.

mod support;

use plimsoll::{BytesMut, CloseReason, Ctx, Flow, Handler, ListenOptions, Reactor, StreamOptions, Token};
use std::net::SocketAddr;
use std::time::Duration;
use support::{Chance, address_of, pattern, turn_until};

/// Asked for at the head of each stream: how much of what follows is to come back before the server's half ends.
const HEAD_BYTES: usize = 8;

#[derive(Default)]
struct App {
    /// What a client and its server do not agree about ends the test here.
    clients_done: usize,
    servers_done: usize,
    received: usize,
    sent: usize,
}

/// Sends in one of the ways there are.
fn send_somehow(ctx: &mut Ctx<'_, App>, chance: &mut Chance, data: &[u8]) -> Flow {
    match chance.below(3) {
        0 => ctx.send(data),
        1 => ctx.send(data.to_vec()),
        _ => ctx.send(plimsoll::Bytes::copy_from_slice(data)),
    }
}

fn sometimes_pause(ctx: &mut Ctx<'_, App>, chance: &mut Chance) {
    if chance.once_in(6) {
        ctx.pause_reading();
        ctx.timer(RESUME, Duration::from_micros(chance.below(3000) as u64));
    }
}

const RESUME: u32 = 1;
const SEND: u32 = 2;

struct Client {
    chance: Chance,
    data: Vec<u8>,
    sent: usize,
    echo: usize,
    got: usize,
    ended: bool,
}

impl Client {
    fn new(mut chance: Chance) -> Client {
        let magnitude = chance.below(19);
        let len = chance.below(1 << magnitude);
        let mut data = pattern(HEAD_BYTES + len, chance.next());
        // Mostly all of it; sometimes the server's half ends before the client's.
        let echo = if chance.once_in(4) { chance.below(len + 1) } else { len };
        data[..HEAD_BYTES].copy_from_slice(&(echo as u64).to_le_bytes());
        Client { chance, data, sent: 0, echo, got: 0, ended: false }
    }

    fn send_some(&mut self, ctx: &mut Ctx<'_, App>) {
        while self.sent < self.data.len() {
            let magnitude = 1 + self.chance.below(17);
            let len = (1 + self.chance.below(1 << magnitude)).min(self.data.len() - self.sent);
            let range = self.sent..self.sent + len;
            self.sent += len;
            match send_somehow(ctx, &mut self.chance, &self.data[range]) {
                Flow::Open if self.chance.once_in(3) => {
                    return ctx.timer(SEND, Duration::from_micros(self.chance.below(2000) as u64));
                }
                Flow::Open => {}
                Flow::High => return,
                Flow::Closed => panic!("closed before everything was sent"),
            }
        }
        ctx.shutdown();
    }

    fn check(&mut self, input: &[u8]) {
        let at = HEAD_BYTES + self.got;
        assert!(at + input.len() <= self.data.len(), "more comes back than was sent");
        assert!(self.data[at..at + input.len()] == *input, "other bytes come back than were sent, at {at}");
        self.got += input.len();
    }
}

impl Handler<App> for Client {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.sent += self.data.len();
        self.send_some(ctx);
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        assert!(!self.ended, "input after the end");
        let n = if self.chance.once_in(3) { self.chance.below(input.len() + 1) } else { input.len() };
        let taken = input.split_to(n);
        self.check(&taken);
        sometimes_pause(ctx, &mut self.chance);
    }
    fn on_eof(&mut self, _: &mut Ctx<'_, App>, input: &mut BytesMut) {
        let rest = input.split();
        self.check(&rest);
        assert!(!self.ended, "a second end");
        assert_eq!(self.got, self.echo, "less comes back than was asked for");
        self.ended = true;
    }
    fn on_low_water(&mut self, ctx: &mut Ctx<'_, App>) {
        self.send_some(ctx);
    }
    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, key: u32) {
        match key {
            RESUME => ctx.net.resume_reading(ctx.token),
            _ => self.send_some(ctx),
        }
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        assert!(matches!(why, CloseReason::Done), "{why:?}");
        assert!(self.ended && self.sent == self.data.len());
        ctx.app.clients_done += 1;
    }
}

struct Server {
    chance: Chance,
    /// Still to be echoed; known when the head is there.
    left: Option<usize>,
    received: usize,
}

impl Server {
    /// Takes some of the input; all of it at the end.
    fn take(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut, all: bool) {
        if self.left.is_none() && input.len() >= HEAD_BYTES {
            let head = input.split_to(HEAD_BYTES);
            self.received += HEAD_BYTES;
            self.left = Some(u64::from_le_bytes(head[..].try_into().expect("eight bytes")) as usize);
        }
        let Some(mut left) = self.left else { return };
        let n = if all || !self.chance.once_in(3) { input.len() } else { self.chance.below(input.len() + 1) };
        let mut data = input.split_to(n);
        self.received += n;
        let mut echo = data.split_to(n.min(left));
        left -= echo.len();
        match self.chance.below(3) {
            // The slice itself, whole or in pieces.
            0 => drop(ctx.send(echo)),
            1 => {
                while !echo.is_empty() {
                    let len = (1 + self.chance.below(5000)).min(echo.len());
                    ctx.send(echo.split_to(len));
                }
            }
            _ => drop(send_somehow(ctx, &mut self.chance, &echo)),
        }
        if left == 0 {
            ctx.shutdown();
        }
        self.left = Some(left);
    }
}

impl Handler<App> for Server {
    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        self.take(ctx, input, false);
        sometimes_pause(ctx, &mut self.chance);
        if self.chance.once_in(10) {
            ctx.want(self.chance.below(3000));
        }
    }
    fn on_eof(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        self.take(ctx, input, true);
        assert_eq!(self.left, Some(0), "less came than was sent");
    }
    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, _: u32) {
        ctx.net.resume_reading(ctx.token);
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        assert!(matches!(why, CloseReason::Done), "{why:?}");
        ctx.app.received += self.received;
        ctx.app.servers_done += 1;
    }
}

fn options(chance: &mut Chance) -> StreamOptions {
    let mut some = |least: usize, most: usize| least + chance.below(most - least);
    let (high_water, low_water, eager_flush) = (some(1000, 200_000), some(0, 50_000), some(1, 100_000));
    let (input_limit, buffer) = (some(10_000, 1 << 20), some(4096, 200_000));
    StreamOptions::new().with(|o| {
        o.high_water = high_water;
        o.low_water = low_water;
        o.eager_flush = eager_flush;
        o.input_limit = input_limit;
        o.read_budget = 1 + (high_water % 4) as u32;
        o.send_buffer = (buffer > 64 * 1024).then_some(buffer);
    })
}

#[test]
fn what_thousands_of_connections_send_comes_back() {
    const COUNT: usize = 3000;
    const AT_A_TIME: usize = 150;
    let mut chance = Chance::new();
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut listeners: Vec<Token> = Vec::new();
    // Listeners with options of their own, and the defaults.
    for n in 0..6 {
        // A server that takes its time with leftovers needs room for them: what it leaves stays under the limit,
        // since it is offered again with each read.
        let stream = if n == 0 { StreamOptions::new() } else { options(&mut chance).with(|o| o.input_limit = 1 << 20) };
        let mut own = chance.split();
        let options = ListenOptions::new().with(|o| o.stream = stream);
        let listener = reactor
            .net
            .listen_with("127.0.0.1:0", options, move |_, _| {
                Some(Server { chance: own.split(), left: None, received: 0 })
            })
            .expect("it listens");
        addresses.push(address_of(&reactor, listener));
        listeners.push(listener);
    }
    let mut begun = 0;
    turn_until(&mut reactor, "all connections have come and gone", |r| {
        while begun < COUNT && begun - r.app.clients_done < AT_A_TIME {
            // A client that does not read while its own output is over the mark would wait for a server that does
            // the same.
            let options = options(&mut chance).with(|o| {
                o.read_while_high = true;
                o.input_limit = 1 << 20;
            });
            let address = addresses[chance.below(addresses.len())];
            r.net.connect_with(address, options, Client::new(chance.split()));
            begun += 1;
        }
        r.app.clients_done == COUNT && r.app.servers_done == COUNT
    });
    assert_eq!(reactor.app.received, reactor.app.sent);
    assert_eq!(reactor.net.stats().held, 0, "nothing is counted as held any more");
    assert!(reactor.net.tokens().is_empty());
    println!("{} MiB over {COUNT} connections", reactor.app.sent >> 20);
}
