//! What users write: handlers, and what a callback holds while it runs.
//!
//! Handlers lie *beside* the network and not in it. So a callback has `&mut` to its own state (`self`), to the
//! state that all connections share ([`Ctx::app`]) and to every other connection ([`Ctx::net`]) at the same
//! time, without reference counting, cells or locks.
//!
//! ```text
//!   Reactor ─┬─ app                       ◄── ctx.app       shared by all
//!            ├─ handlers   slot ► handler ◄── self          of this connection
//!            └─ net        slot ► socket  ◄── ctx.net       ctx.token names this connection's
//! ```
//!
//! The rule that is kept: no verb of [`Net`] calls a handler. What asks for a callback is written down and
//! delivered later in the same turn, so a callback is never entered from another one.

use crate::net::Net;
use crate::token::Token;
use bytes::{Bytes, BytesMut};
use std::any::Any;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

/// The behaviour and state of one connection.
///
/// `A` is the state that all connections of a reactor share. Only [`on_data`](Handler::on_data) must be written;
/// the other callbacks have defaults that are right for most servers. Closures of the shape
/// `FnMut(&mut Ctx<A>, &mut BytesMut)` are handlers too.
///
/// A callback may do anything to any connection, its own included: closing, aborting and stopping take effect
/// after it has returned.
///
/// ```text
///   on_open ──► on_data* ──► on_eof ──────────────┐
///      │           │    on_high_water             ├──► on_close     once, last
///      │           │    on_low_water              │
///      │           │    on_write_complete         │
///      └───────────┴─── on_timer ─────────────────┘
/// ```
///
/// `on_open`, `on_data`, `on_eof` and `on_timer` are called in the turn in which their event is served. Marks and
/// endings are told when the turn settles, after everything has been flushed; `on_write_complete` when the connection
/// has been, which may be right after a callback. A connection that could not be made hears `on_close` only.
///
/// ```no_run
/// use plimsoll::{Bytes, BytesMut, CloseReason, Ctx, Flow, Handler, Reactor, Token};
///
/// /// What all connections share.
/// #[derive(Default)]
/// struct Room {
///     guests: Vec<Token>,
/// }
///
/// /// What each has for itself.
/// struct Guest {
///     said: u64,
/// }
///
/// impl Handler<Room> for Guest {
///     fn on_open(&mut self, ctx: &mut Ctx<Room>) {
///         ctx.app.guests.push(ctx.token);
///     }
///
///     // To everybody, the sender too. Who does not keep up is thrown out: without heeding `High` the hard limit does.
///     fn on_data(&mut self, ctx: &mut Ctx<Room>, input: &mut BytesMut) {
///         self.said += 1;
///         let message = Bytes::copy_from_slice(input);
///         input.clear();
///         for &guest in &ctx.app.guests {
///             if ctx.net.send(guest, &message) == Flow::High {
///                 ctx.net.abort(guest);
///             }
///         }
///     }
///
///     fn on_close(&mut self, ctx: &mut Ctx<Room>, why: CloseReason) {
///         ctx.app.guests.retain(|&guest| guest != ctx.token);
///         println!("{:?} left after {} messages: {why}", ctx.peer_address(ctx.token), self.said);
///     }
/// }
///
/// let mut reactor = Reactor::new(Room::default())?;
/// reactor.net.listen("127.0.0.1:2009", |_, _peer| Some(Guest { said: 0 }))?;
/// reactor.run()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
/// A panic in a callback leaves [`Reactor::turn`](crate::Reactor::turn). The connection whose callback it was is
/// aborted without `on_close` in the next turn; everything else is consistent, and the loop may go on.
pub trait Handler<A: 'static = ()>: Any {
    /// The connection is made: accepted, connected or adopted. No input has been given yet. What was sent to it while it
    /// was being made is still queued.
    fn on_open(&mut self, ctx: &mut Ctx<'_, A>) {
        let _ = ctx;
    }

    /// Input came. Take what you can use from the front; what you leave is offered again, with more behind it,
    /// when new bytes come, after [`Net::resume_reading`], after low water, when [`Net::want`] is lowered, and
    /// for the last time in [`on_eof`](Handler::on_eof). At most [`input_limit`](crate::StreamOptions::input_limit)
    /// bytes may be left.
    ///
    /// `input` is never empty. It holds what one read brought, up to 64 KiB, behind what was left. It is most often the
    /// loop's own buffer: slices of it (`input.split()`) can be sent on without a copy, but one that is *kept* keeps
    /// 64 KiB alive and makes the loop allocate another. Copy what you keep.
    fn on_data(&mut self, ctx: &mut Ctx<'_, A>, input: &mut BytesMut);

    /// The peer has ended its half: no more input will come. `input` is what was left, possibly nothing, and is dropped
    /// when this returns. Unless overridden, our half ends too, once everything queued is sent. Who overrides it and
    /// goes on sending calls [`Ctx::shutdown`] or [`Ctx::close`] when done.
    fn on_eof(&mut self, ctx: &mut Ctx<'_, A>, input: &mut BytesMut) {
        let _ = input;
        ctx.shutdown();
    }

    /// More than the high mark is queued for output: `queued` bytes. A hint, not called if the queue has fallen below
    /// the mark by the time the turn settles: [`Flow::High`] says the same at the `send` itself.
    fn on_high_water(&mut self, ctx: &mut Ctx<'_, A>, queued: usize) {
        let _ = (ctx, queued);
    }

    /// The queue has fallen to the low mark after a [`Flow::High`]. Each `High` is followed by one call of this
    /// or of [`on_close`](Handler::on_close); several in a row by one. Input that was left waiting is offered again
    /// after this.
    fn on_low_water(&mut self, ctx: &mut Ctx<'_, A>) {
        let _ = ctx;
    }

    /// The kernel has taken everything that was queued. It says nothing about the peer. What is sent from here goes out
    /// when the turn settles; if it is settling already, in the next one.
    fn on_write_complete(&mut self, ctx: &mut Ctx<'_, A>) {
        let _ = ctx;
    }

    /// A timer armed by [`Ctx::timer`] is due; `key` says which. It is not armed any more.
    fn on_timer(&mut self, ctx: &mut Ctx<'_, A>, key: u32) {
        let _ = (ctx, key);
    }

    /// The connection is over, for the reason given. Called exactly once, and last.
    ///
    /// The token still answers questions ([`Net::peer_address`]), and goes stale when the turn ends or, after
    /// [`Net::close`], when the peer has ended too. Nothing can be sent.
    /// Dropping the [`Reactor`](crate::Reactor), [`Net::swap`] and a panic in a callback of this connection are the three
    /// ways to end a handler without it.
    fn on_close(&mut self, ctx: &mut Ctx<'_, A>, why: CloseReason) {
        let _ = (ctx, why);
    }
}

impl<A: 'static, F> Handler<A> for F
where
    F: FnMut(&mut Ctx<'_, A>, &mut BytesMut) + 'static,
{
    fn on_data(&mut self, ctx: &mut Ctx<'_, A>, input: &mut BytesMut) {
        self(ctx, input);
    }
}

impl<A: 'static> Handler<A> for Box<dyn Handler<A>> {
    fn on_open(&mut self, ctx: &mut Ctx<'_, A>) {
        (**self).on_open(ctx);
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, A>, input: &mut BytesMut) {
        (**self).on_data(ctx, input);
    }
    fn on_eof(&mut self, ctx: &mut Ctx<'_, A>, input: &mut BytesMut) {
        (**self).on_eof(ctx, input);
    }
    fn on_high_water(&mut self, ctx: &mut Ctx<'_, A>, queued: usize) {
        (**self).on_high_water(ctx, queued);
    }
    fn on_low_water(&mut self, ctx: &mut Ctx<'_, A>) {
        (**self).on_low_water(ctx);
    }
    fn on_write_complete(&mut self, ctx: &mut Ctx<'_, A>) {
        (**self).on_write_complete(ctx);
    }
    fn on_timer(&mut self, ctx: &mut Ctx<'_, A>, key: u32) {
        (**self).on_timer(ctx, key);
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, A>, why: CloseReason) {
        (**self).on_close(ctx, why);
    }
}

/// What the callback of one connection holds.
///
/// It derefs to [`Net`], so every verb can be called on it; the verbs of this connection have short forms. When
/// you borrow from `app`, or name this connection in a verb that has none, write `ctx.net.…`, since the fields borrow
/// apart: `ctx.net.send(other, &ctx.app.greeting)`, `ctx.net.options(ctx.token, |o| …)`.
///
/// The receiver of a datagram socket has one too. There `token` is the socket's: answer with
/// `ctx.net.send_to(ctx.token, …)`; the short forms are about streams and do nothing.
#[derive(Debug)]
pub struct Ctx<'a, A = ()> {
    /// The state that all connections share.
    pub app: &'a mut A,
    /// Every socket, and every verb.
    pub net: &'a mut Net<A>,
    /// This connection.
    pub token: Token,
}

impl<A: 'static> Ctx<'_, A> {
    /// Queues `data` for this connection: see [`Net::send`].
    #[inline]
    pub fn send(&mut self, data: impl Payload) -> Flow {
        self.net.send(self.token, data)
    }

    /// Ends our half of the stream once everything queued is sent: see [`Net::shutdown`].
    pub fn shutdown(&mut self) {
        self.net.shutdown(self.token);
    }

    /// Ends this connection once everything queued is sent: see [`Net::close`].
    pub fn close(&mut self) {
        self.net.close(self.token);
    }

    /// Ends this connection now, and drops what is queued: see [`Net::abort`].
    pub fn abort(&mut self) {
        self.net.abort(self.token);
    }

    /// Stops reading this connection: see [`Net::pause_reading`].
    pub fn pause_reading(&mut self) {
        self.net.pause_reading(self.token);
    }

    /// Reads this connection again: see [`Net::resume_reading`].
    pub fn resume_reading(&mut self) {
        self.net.resume_reading(self.token);
    }

    /// Asks for input only when `bytes` of it are there: see [`Net::want`].
    pub fn want(&mut self, bytes: usize) {
        self.net.want(self.token, bytes);
    }

    /// Output of this connection that waits for the kernel, in bytes.
    pub fn queued(&self) -> usize {
        self.net.queued(self.token)
    }

    /// Calls [`Handler::on_timer`] of this connection with `key` after `after`, once, never early. Arming a key that is
    /// armed moves it. The timer dies with the connection, or with `close`. For the deadlines of a protocol's phases; a
    /// handful of keys is meant, since they are found by search.
    pub fn timer(&mut self, key: u32, after: std::time::Duration) {
        self.net.arm(self.token, key, after);
    }

    /// Takes back a timer of this connection; `false` if none with this key was armed.
    pub fn cancel_timer(&mut self, key: u32) -> bool {
        self.net.disarm(self.token, key)
    }
}

impl<A> Deref for Ctx<'_, A> {
    type Target = Net<A>;
    fn deref(&self) -> &Net<A> {
        self.net
    }
}

impl<A> DerefMut for Ctx<'_, A> {
    fn deref_mut(&mut self) -> &mut Net<A> {
        self.net
    }
}

/// What a callback of no connection holds: timers, mail, signals, deferred closures and results of offloaded work.
#[derive(Debug)]
pub struct Loop<'a, A = ()> {
    /// The state that all connections share.
    pub app: &'a mut A,
    /// Every socket, and every verb.
    pub net: &'a mut Net<A>,
}

impl<A> Deref for Loop<'_, A> {
    type Target = Net<A>;
    fn deref(&self) -> &Net<A> {
        self.net
    }
}

impl<A> DerefMut for Loop<'_, A> {
    fn deref_mut(&mut self) -> &mut Net<A> {
        self.net
    }
}

/// What a `send` met, after any eager flush.
///
/// A handler that only answers what it reads may leave it unread: a connection over its high mark is not read.
/// A producer with a source of its own must heed [`Flow::High`], or the hard limit ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Taken, and there is room for more.
    Open,
    /// Taken, but more than the high mark is queued: stop until `on_low_water` (or `on_close`).
    High,
    /// Not taken: the connection is gone, closed, or its sending half has ended.
    Closed,
}

/// Why a connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both halves ended in order: all that was sent went out, all that came was read.
    Done,
    /// [`Net::close`] was called, and everything queued went out.
    Local,
    /// [`Net::abort`] was called; what was queued is dropped.
    Aborted,
    /// No byte moved in either direction for the idle time-out.
    Idle,
    /// Output waited and none was taken for the stalled time-out; what was queued is dropped.
    Stalled,
    /// More output was queued than the hard limit; it is dropped.
    Overflow,
    /// More input was left unconsumed than the input limit.
    InputLimit,
    /// The loop's memory budget was overrun and this connection held the most.
    Memory,
    /// The connection was closed, or the loop stopped, and the deadline passed before everything queued went
    /// out; the rest is dropped.
    Unsent,
    /// The loop stopped; everything queued went out.
    Stopped,
    /// The other side of a relay ended abnormally, so this one was aborted.
    Relay,
    /// [`Net::detach`] gave the socket away.
    Detached,
    /// The connection could not be made.
    Connect(io::Error),
    /// The connection failed; what was queued is dropped, what had come was read.
    Error(io::Error),
    /// The connection failed while it was not being read; input that had come, if any, and what was queued are
    /// dropped.
    ErrorUnread(io::Error),
}

impl CloseReason {
    /// Whether everything that was taken by `send` was handed to the kernel.
    pub fn is_orderly(&self) -> bool {
        matches!(self, CloseReason::Done | CloseReason::Local | CloseReason::Stopped | CloseReason::Detached)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Done => f.write_str("both halves ended"),
            CloseReason::Local => f.write_str("closed by us"),
            CloseReason::Aborted => f.write_str("aborted by us"),
            CloseReason::Idle => f.write_str("idle for too long"),
            CloseReason::Stalled => f.write_str("output stalled for too long"),
            CloseReason::Overflow => f.write_str("output over the hard limit"),
            CloseReason::InputLimit => f.write_str("unconsumed input over the limit"),
            CloseReason::Memory => f.write_str("the loop's memory budget was overrun"),
            CloseReason::Unsent => f.write_str("the deadline passed with output unsent"),
            CloseReason::Stopped => f.write_str("the loop stopped"),
            CloseReason::Relay => f.write_str("the other side of the relay ended abnormally"),
            CloseReason::Detached => f.write_str("detached"),
            CloseReason::Connect(e) => write!(f, "cannot connect: {e}"),
            CloseReason::Error(e) => write!(f, "failed: {e}"),
            CloseReason::ErrorUnread(e) => write!(f, "failed while not being read: {e}"),
        }
    }
}

impl std::error::Error for CloseReason {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CloseReason::Connect(e) | CloseReason::Error(e) | CloseReason::ErrorUnread(e) => Some(e),
            _ => None,
        }
    }
}

/// What can be sent. Data under 1 KiB is copied into the queue; more is linked if it is owned, and never copied.
///
/// Owned are [`Bytes`], `&Bytes` (a reference more), [`BytesMut`], `Vec<u8>` and `String`; borrowed are slices, `&str`,
/// arrays and references to the rest. What is linked stays allocated as a whole until the last byte of it is sent.
pub trait Payload {
    /// The bytes.
    fn as_bytes(&self) -> &[u8];

    /// Whether [`into_shared`](Payload::into_shared) costs no copy.
    fn is_owned(&self) -> bool;

    /// The bytes as shared memory.
    fn into_shared(self) -> Bytes;
}

macro_rules! borrowed_payload {
    ($([$($generic:tt)*] $kind:ty),*) => {$(
        impl<$($generic)*> Payload for $kind {
            #[inline]
            fn as_bytes(&self) -> &[u8] {
                AsRef::<[u8]>::as_ref(*self)
            }
            #[inline]
            fn is_owned(&self) -> bool {
                false
            }
            fn into_shared(self) -> Bytes {
                Bytes::copy_from_slice(AsRef::<[u8]>::as_ref(self))
            }
        }
    )*};
}

borrowed_payload!([] &[u8], [] &str, [] &Vec<u8>, [] &String, [] &BytesMut, [const N: usize] &[u8; N]);

macro_rules! owned_payload {
    ($($kind:ty),*) => {$(
        impl Payload for $kind {
            #[inline]
            fn as_bytes(&self) -> &[u8] {
                AsRef::<[u8]>::as_ref(self)
            }
            #[inline]
            fn is_owned(&self) -> bool {
                true
            }
            fn into_shared(self) -> Bytes {
                Bytes::from(self)
            }
        }
    )*};
}

owned_payload!(Bytes, BytesMut, Vec<u8>, String);

impl Payload for &Bytes {
    #[inline]
    fn as_bytes(&self) -> &[u8] {
        self
    }
    #[inline]
    fn is_owned(&self) -> bool {
        true
    }
    fn into_shared(self) -> Bytes {
        self.clone()
    }
}
