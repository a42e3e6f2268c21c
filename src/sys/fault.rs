//! A plan of faults: what each system call of this thread answers in place of the kernel, and how often each was
//! made.
//!
//! A loop meets most of its errors once a year, on the day that matters. Here every one of them can be had by name:
//! *the third `send` answers ENOBUFS*. The model is SQLite's test harness, in which every allocation and every
//! I/O call fails once, in turn, until a run has no such call any more.
//!
//! ```text
//!   the loop sends ──► the plan ── nothing planned ──► the kernel, real or simulated
//!                         │ counts   Fail(errno) ────► Err, and the kernel is not asked
//!                         │          Cut(part) ──────► the kernel, with fewer bytes
//!                         └────────  Delay(time) ────► the clock jumps, then the kernel
//! ```
//!
//! The rules that are kept: a plan belongs to one thread, so that tests beside each other do not meet; a call that
//! fails has not been made; and in a normal build nothing of this exists. `close` cannot fail: it is counted, may come
//! late, and always closes, since nobody looks at its answer.
//!
//! The clock is part of it. A test that has to wait for a time-out moves this thread's clock forward with
//! [`advance`]; the rest of the process does not notice.
//!
//! # Examples
//!
//! A plan is installed, the loop runs into it, and what comes back tells what was met:
//!
//! ```
//! use plimsoll::Reactor;
//! use plimsoll::fault::{self, Call, Fault, Plan};
//!
//! let mut reactor = Reactor::new(())?;
//! fault::install(Plan::new().with(Call::Bind, 1, Fault::Fail(28))); // ENOSPC
//! let refused = reactor.net.serve("127.0.0.1:0", |_, _| {});
//! let plan = fault::remove().expect("it was installed");
//!
//! assert_eq!(refused.unwrap_err().raw_os_error(), Some(28));
//! assert_eq!((plan.made(Call::Bind), plan.met(), plan.unmet().count()), (1, 1, 0));
//! assert!(reactor.net.serve("127.0.0.1:0", |_, _| {}).is_ok(), "the plan is over");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A test in which a fault was planned and never met has tested nothing: look at [`Plan::unmet`] at its end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// To be found in every program that has the hooks, and in no other: a test looks for it.
static MARK: &str = "plimsoll: system calls of this program may fail by plan";

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident $text:literal),* $(,)?) => {
        /// A kind of system call, as the ground floor makes them. Each is counted for itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Call { $($(#[$doc])* #[doc = concat!("\n\nIn the manual: `", $text, "`.")] $name),* }

        impl Call {
            /// Every kind.
            pub const ALL: &[Call] = &[$(Call::$name),*];

            /// Its name in the manual.
            pub const fn name(self) -> &'static str {
                match self { $(Call::$name => $text),* }
            }
        }
    };
}

calls! {
    /// A stream or datagram socket is made.
    Socket "socket",
    /// A socket gets its address.
    Bind "bind",
    /// A socket becomes a listener.
    Listen "listen",
    /// A connection is begun.
    Connect "connect",
    /// A waiting connection is taken.
    Accept "accept4",
    /// A socket's own address is asked for.
    LocalAddress "getsockname",
    /// The peer's address is asked for.
    PeerAddress "getpeername",
    /// Bytes are read.
    Recv "recv",
    /// Bytes are written from one piece of memory.
    Send "send",
    /// Bytes are written from several.
    SendVectored "sendmsg",
    /// Our half of a stream ends.
    Shutdown "shutdown",
    /// Datagrams are taken.
    ReceiveBatch "recvmmsg",
    /// Datagrams are sent.
    SendBatch "sendmmsg",
    /// An option is set.
    SetOption "setsockopt",
    /// An option is asked for.
    GetOption "getsockopt",
    /// The error that waits on a socket is taken: how a connection attempt ended. What is planned is the error that it
    /// tells; only with EACCES, which is a security module's, the call fails itself.
    PendingError "SO_ERROR",
    /// The flags of a descriptor are asked for or set.
    Fcntl "fcntl",
    /// An epoll instance is made.
    EpollCreate "epoll_create1",
    /// Epoll is to watch one more descriptor.
    EpollAdd "EPOLL_CTL_ADD",
    /// Epoll is to watch it for something else, or to tell again what is ready.
    EpollModify "EPOLL_CTL_MOD",
    /// Epoll is to forget a descriptor.
    EpollRemove "EPOLL_CTL_DEL",
    /// The loop waits.
    EpollWait "epoll_wait",
    /// A bell is made.
    Bell "eventfd",
    /// A bell is rung from this thread.
    Ring "write",
    /// The spare descriptor is opened.
    Spare "open",
    /// A descriptor is closed.
    Close "close",
    /// The file of a Unix socket is removed.
    Unlink "unlink",
    /// A path is looked at.
    Stat "lstat",
    /// A signal's disposition is exchanged.
    SetSignal "sigaction",
    /// A worker thread is started.
    Spawn "clone",
    /// A host's name is looked up.
    Resolve "getaddrinfo",
    /// The machine's interfaces are listed.
    Interfaces "getifaddrs",
    /// A seed is drawn.
    Random "getrandom",
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many bytes a shortened transfer moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// One byte.
    OneByte,
    /// Half of what it would have been, rounded up.
    Half,
}

impl Part {
    /// Never zero, which for a read would be the end of the stream; nor more than `whole`.
    pub fn of(self, whole: usize) -> usize {
        match self {
            Part::OneByte => whole.min(1),
            Part::Half => whole.div_ceil(2),
        }
    }
}

/// What a call is to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It answers this errno and is not made. [`Call::Close`] takes no notice: Linux has closed the descriptor before it
    /// can fail, so its answer says nothing; the fault counts as met.
    ///
    /// A send that answers EAGAIN without need is followed by no edge: a loop goes on when it asks again by itself,
    /// a second or two later by its clock.
    Fail(i32),
    /// It moves fewer bytes (or datagrams) than it could, and what is left to move is reported a moment later, as the
    /// kernel does it. What cannot be cut is made whole.
    Cut(Part),
    /// This much time passes before it is made.
    Delay(Duration),
}

/// Which call of a kind meets what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub call: Call,
    /// Counted from one.
    pub nth: u32,
    pub fault: Fault,
}

/// The faults of one run, and the counts of its calls.
#[derive(Clone)]
pub struct Plan {
    entries: Vec<Entry>,
    made: [u32; Call::ALL.len()],
    met: Vec<Entry>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan::new()
    }
}

impl Plan {
    /// Nothing fails; calls are counted.
    pub fn new() -> Plan {
        Plan { entries: Vec::new(), made: [0; Call::ALL.len()], met: Vec::new() }
    }

    /// Has the `nth` call of this kind, counted from one, meet `fault`, and not what was planned for it before.
    ///
    /// # Panics
    /// If `nth` is 0, which no call is.
    #[must_use]
    #[track_caller]
    pub fn with(mut self, call: Call, nth: u32, fault: Fault) -> Plan {
        assert_ne!(nth, 0, "calls are counted from one: no {call} is the 0th");
        self.entries.retain(|entry| (entry.call, entry.nth) != (call, nth));
        self.entries.push(Entry { call, nth, fault });
        self
    }

    /// How many calls of this kind were made, failed ones included.
    pub fn made(&self, call: Call) -> u32 {
        self.made[call as usize]
    }

    /// How many faults were met.
    pub fn met(&self) -> u32 {
        self.met.len() as u32
    }

    /// What was planned for calls that were not made: the call, and which of its kind.
    pub fn unmet(&self) -> impl Iterator<Item = (Call, u32)> {
        self.entries.iter().filter(|entry| entry.nth > self.made(entry.call)).map(|entry| (entry.call, entry.nth))
    }

    /// Counts a call; what it is to meet.
    fn meet(&mut self, call: Call) -> Option<Fault> {
        let made = &mut self.made[call as usize];
        *made += 1;
        let entry = self.entries.iter().find(|entry| entry.call == call && entry.nth == *made)?;
        self.met.push(*entry);
        Some(entry.fault)
    }
}

/// Of the counts, those that are not zero, by name.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = Call::ALL.iter().map(|call| (*call, self.made(*call))).filter(|(_, made)| *made > 0);
        f.debug_struct("Plan")
            .field("planned", &self.entries)
            .field("met", &self.met)
            .field("made", &made.collect::<BTreeMap<_, _>>())
            .finish()
    }
}

/// As it is planned: *Send 3 Fail(105)*.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {:?}", self.call, self.nth, self.fault)
    }
}

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    /// How far this thread's clock is ahead, in nanoseconds.
    static AHEAD_NS: Cell<u64> = const { Cell::new(0) };
    /// What this thread opens and closes is nobody else's.
    #[cfg(test)]
    static OWN_TABLE: Cell<bool> = const { Cell::new(false) };
    /// The plan is not asked: a call that was asked for already is being made.
    static ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// Makes `plan` this thread's, in place of any other.
pub fn install(plan: Plan) {
    PLAN.set(Some(plan));
}

/// Ends this thread's plan and gives it back with its counts. The clock keeps what it was moved by.
pub fn remove() -> Option<Plan> {
    PLAN.take()
}

/// What this thread's plan has met so far, in order.
#[cfg(test)]
pub(crate) fn met_so_far() -> Vec<Entry> {
    PLAN.with_borrow(|plan| plan.as_ref().map(|plan| plan.met.clone()).unwrap_or_default())
}

/// How many calls of this kind were made so far under this thread's plan.
#[cfg(test)]
pub(crate) fn made_so_far(call: Call) -> u32 {
    PLAN.with_borrow(|plan| plan.as_ref().map_or(0, |plan| plan.made(call)))
}

/// Moves this thread's clock forward: a loop on this thread finds that so much more time has passed.
pub fn advance(time: Duration) {
    #[cfg(any(test, feature = "sim"))]
    if super::sim::advance(time) {
        return;
    }
    AHEAD_NS.set(AHEAD_NS.get().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
}

/// How far this thread's clock was moved. Nought in a simulated world, whose own clock is moved.
pub fn ahead() -> Duration {
    Duration::from_nanos(AHEAD_NS.get())
}

/// Gives this thread a table of descriptors of its own, empty but for the first three: what it opens and closes can
/// then be counted, whatever other threads do. Threads that it starts share it.
///
/// A sandbox may not allow it. Then this says so, descriptors are not counted, and [`has_own_table`] is false.
///
/// # Panics
/// Where it is not allowed and the environment has `CI=true`: there everything is to be looked at.
#[cfg(test)]
pub fn own_table() {
    // SAFETY: takes a number. Nobody else owns a descriptor of the copy that the kernel makes for this thread.
    if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
        let e = std::io::Error::last_os_error();
        assert!(std::env::var("CI").as_deref() != Ok("true"), "unshare: {e}");
        eprintln!("SKIPPED the count of descriptors: unshare: {e}");
        return;
    }
    OWN_TABLE.set(true);
    // At once, since the copies keep the sockets of other threads open.
    // SAFETY: takes three numbers. The thread has no descriptor yet that anything of its own stands for.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    assert_eq!(closed, 0, "close_range: {}", std::io::Error::last_os_error());
}

/// Whether [`own_table`] has given this thread one.
#[cfg(test)]
pub fn has_own_table() -> bool {
    OWN_TABLE.get()
}

/// Counts a call of this kind; what it is to meet, if anything. A delay has passed by then.
pub(super) fn ask(call: Call) -> Option<Fault> {
    std::hint::black_box(MARK);
    if ASIDE.get() {
        return None;
    }
    // A descriptor may be closed while the thread ends, when its plan is gone already.
    match PLAN.try_with(|plan| plan.try_borrow_mut().ok()?.as_mut()?.meet(call)).ok().flatten() {
        Some(Fault::Delay(time)) => {
            advance(time);
            None
        }
        fault => fault,
    }
}

/// Makes a call that the plan was asked about already.
pub(super) fn aside<T>(call: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ASIDE.set(self.0);
        }
    }
    let _restore = Restore(ASIDE.replace(true));
    call()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn only_the_nth_call_of_the_kind_meets_the_fault() {
        install(Plan::new().with(Call::Send, 2, Fault::Fail(libc::ENOBUFS)));
        let met: Vec<_> = [Call::Send, Call::Recv, Call::Send, Call::Send].into_iter().map(ask).collect();
        let plan = remove().expect("it was installed");
        assert_eq!(met, [None, None, Some(Fault::Fail(libc::ENOBUFS)), None]);
        assert_eq!((plan.made(Call::Send), plan.made(Call::Recv), plan.met()), (3, 1, 1));
    }

    #[test]
    fn what_was_planned_and_not_met_is_told() {
        let planned = Plan::new().with(Call::Send, 2, Fault::Fail(28)).with(Call::Recv, 1, Fault::Cut(Part::Half));
        install(planned);
        ask(Call::Send);
        assert_eq!(ask(Call::Recv), Some(Fault::Cut(Part::Half)));
        let plan = remove().expect("it was installed");
        assert_eq!(plan.unmet().collect::<Vec<_>>(), [(Call::Send, 2)]);
        let told =
            "Plan { planned: [Send 2 Fail(28), Recv 1 Cut(Half)], met: [Recv 1 Cut(Half)], made: {Recv: 1, Send: 1} }";
        assert_eq!(format!("{plan:?}"), told);
    }

    #[test]
    #[should_panic(expected = "calls are counted from one: no accept4 is the 0th")]
    fn no_call_is_the_0th() {
        let _ = Plan::new().with(Call::Accept, 0, Fault::Fail(24));
    }

    #[test]
    fn a_delay_is_time_that_has_passed_when_the_call_is_made() {
        install(Plan::new().with(Call::Recv, 1, Fault::Delay(Duration::from_secs(3_600))));
        let before = super::super::clock::now();
        assert_eq!(ask(Call::Recv), None);
        remove();
        assert!(super::super::clock::now().since(before) >= Duration::from_secs(3_600));
    }

    #[test]
    fn a_call_that_is_made_aside_is_not_counted() {
        install(Plan::new());
        aside(|| ask(Call::Bind));
        ask(Call::Bind);
        assert_eq!(remove().expect("it was installed").made(Call::Bind), 1);
    }

    /// The other half of a test in tests/, which finds that other programs do not have it.
    #[test]
    fn this_program_has_the_mark() {
        let program = std::fs::read("/proc/self/exe").expect("a Linux with /proc");
        // In other letters, or this test would find its own words.
        let mark = black_box("PLIMSOLL: SYSTEM CALLS OF THIS PROGRAM MAY FAIL BY PLAN").to_lowercase();
        assert!(String::from_utf8_lossy(&program).contains(&mark));
    }

    #[test]
    fn a_part_is_at_least_one_byte_and_never_more_than_the_whole() {
        assert_eq!([Part::OneByte.of(0), Part::OneByte.of(1), Part::OneByte.of(9)], [0, 1, 1]);
        assert_eq!([Part::Half.of(0), Part::Half.of(1), Part::Half.of(9)], [0, 1, 5]);
    }
}
