//! A few threads for the work that would hold up the loop: name look-ups, disks, long sums.
//!
//! The loop has one thread, and a call that blocks it blocks every connection. Such calls go to this pool: a
//! bounded number of threads, started only when there is more work than threads, behind a bounded queue.
//!
//! ```text
//!   loop ── submit ──► queue ──► worker ──► worker ──► …        no more than `threads`
//!     ▲       │                    │
//!     │       └ too much: the job comes back
//!     └────────── mailbox ◄────────┘  a job posts its own result; the pool knows nothing of it
//! ```
//!
//! The rule that is kept: **nothing here waits for a job.** A look-up can hang for minutes in a resolver that
//! does not answer, and no thread can be made to stop from outside. So threads are detached: dropping the pool
//! drops what has not started, sends idle threads home and leaves the rest to end by themselves. When `main`
//! returns, the process takes them along.
//!
//! Signals are blocked in workers, so that the kernel hands them to the threads that expect them, and no job
//! meets an EINTR that is not its own. The spawning thread blocks them around the start, because a mask is
//! inherited: were it the new thread's first act, a signal could come before it. The mask is also inherited by
//! programs that a job starts: a job that does so should do it elsewhere or clear the mask in the child.

use crate::sys;
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{error, fmt, mem};

/// How long a thread without work stays for the next job. Starting one takes some 50 µs, so this is generous;
/// what it bounds is the stack of a burst's threads.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// What every worker is called in the debugger and in /proc: 15 bytes, the most that the kernel keeps.
const THREAD_NAME: &str = "plimsoll-worker";

/// One piece of blocking work, which also delivers its own result.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The pool. Dropping it never waits; see the head of the file.
pub(crate) struct Workers {
    pool: Arc<Pool>,
}

struct Pool {
    state: Mutex<State>,
    /// Notified once per job, and for all when the pool stops.
    work: Condvar,
    max_threads: usize,
    queue_limit: usize,
    idle_limit: Duration,
}

/// Invariant: while there are queued jobs there is at least one thread, and it looks at the queue before it
/// waits or leaves.
struct State {
    queue: VecDeque<Job>,
    /// Jobs that a thread has taken and not finished; at most `threads`.
    running: usize,
    /// Started and not ended; at most `max_threads`.
    threads: usize,
    stopping: bool,
}

impl Workers {
    /// A pool of at most `threads` threads (at least one), none of which is started yet. Beside one job for
    /// each of them, `queue_limit` jobs may wait.
    pub fn new(threads: usize, queue_limit: usize) -> Workers {
        Workers::with_idle_limit(threads, queue_limit, IDLE_LIMIT)
    }

    /// Queues `job`, and starts a thread for it if all are busy and another is allowed.
    ///
    /// The bound is on jobs not finished, queued or running, so that the answer depends on the work alone and
    /// not on whether a thread has already reached for it. A job that panics is over, and its thread goes on.
    ///
    /// # Errors
    /// The job itself, untouched: when the queue is full, or when a thread was needed, could not be started and
    /// there is no other. If there is another, the job waits for that one.
    pub fn submit(&self, job: Job) -> Result<(), Job> {
        // A simulated run has one thread.
        #[cfg(any(test, feature = "sim"))]
        let Some(job) = sys::sim::run_later(job) else { return Ok(()) };
        let mut state = self.pool.lock();
        let unfinished = state.queue.len() + state.running;
        if unfinished >= self.pool.max_threads.saturating_add(self.pool.queue_limit) {
            return Err(job);
        }
        if unfinished >= state.threads && state.threads < self.pool.max_threads {
            // Under the lock, so that nobody counts on a thread whose start then fails.
            match Pool::start_thread(&self.pool) {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    log::debug!("no worker could be started: {error}");
                    return Err(job);
                }
                Err(error) => log::debug!("no further worker could be started, {} go on: {error}", state.threads),
            }
        }
        state.queue.push_back(job);
        drop(state);
        self.pool.work.notify_one();
        Ok(())
    }

    fn with_idle_limit(threads: usize, queue_limit: usize, idle_limit: Duration) -> Workers {
        let state = State { queue: VecDeque::new(), running: 0, threads: 0, stopping: false };
        let pool = Pool {
            state: Mutex::new(state),
            work: Condvar::new(),
            max_threads: threads.max(1),
            queue_limit,
            idle_limit,
        };
        Workers { pool: Arc::new(pool) }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let not_started = {
            let mut state = self.pool.lock();
            state.stopping = true;
            mem::take(&mut state.queue)
        };
        self.pool.work.notify_all();
        // After the lock is free: what a job holds may do anything when it is dropped.
        drop(not_started);
    }
}

impl Pool {
    fn start_thread(pool: &Arc<Pool>) -> std::io::Result<()> {
        let pool = Arc::clone(pool);
        sys::thread::spawn(THREAD_NAME, move || pool.run())
    }

    /// The life of one thread: until the pool stops, or no work has come for as long as `idle_limit`.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            let nothing_to_do = |state: &mut State| state.queue.is_empty() && !state.stopping;
            let wait = self.work.wait_timeout_while(state, self.idle_limit, nothing_to_do);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
            let Some(job) = state.queue.pop_front() else { break };
            state.running += 1;
            drop(state);
            // Whoever submitted the job has caught its panic already if it wants to know. The pool catches
            // again, because a thread that unwound would stay in the counts for ever.
            let _ = run_caught(job);
            state = self.lock();
            state.running -= 1;
        }
        state.threads -= 1;
    }

    /// A poisoned lock is taken as it is: no job runs and nothing is dropped under it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` and turns a panic into an error. The panic hook has run by then, so the usual message with its
/// place in the source is on stderr.
///
/// # Errors
/// [`WorkPanicked`].
pub(crate) fn run_caught<T>(work: impl FnOnce() -> T) -> Result<T, WorkPanicked> {
    // Unwind safety: the closure is consumed, so nobody can look at what the panic left half done but through
    // shared state, which has its own locks and their poison.
    catch_unwind(AssertUnwindSafe(work)).map_err(WorkPanicked::from_payload)
}

/// Work that was offloaded to another thread panicked there instead of returning a result.
///
/// The thread survives and takes the next job. What the work had half done to state that it shares is not
/// undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkPanicked {
    message: Box<str>,
}

impl WorkPanicked {
    /// What the panic said: the text given to `panic!`, or a note that its payload was not text.
    pub fn message(&self) -> &str {
        &self.message
    }

    fn from_payload(payload: Box<dyn Any + Send>) -> WorkPanicked {
        let text = match payload.downcast_ref::<&'static str>() {
            Some(text) => Some(*text),
            None => payload.downcast_ref::<String>().map(String::as_str),
        };
        let message = text.unwrap_or("a payload that is not text").into();
        // A payload of the user's own type may panic in its turn when it is dropped. What that leaves is
        // forgotten: somewhere this has to end.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(second);
        }
        WorkPanicked { message }
    }
}

impl fmt::Display for WorkPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offloaded work panicked: {}", self.message)
    }
}

impl error::Error for WorkPanicked {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;
    use std::{fs, panic, thread};

    /// Longer than any machine should take; only a failing test waits for it.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A pool whose idle threads stay, so that none finds by its time-out the work it should be told of.
    fn patient(threads: usize, queue_limit: usize) -> Workers {
        Workers::with_idle_limit(threads, queue_limit, Duration::from_secs(3_600))
    }

    fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
            thread::yield_now();
        }
    }

    fn eventually_idle(workers: &Workers) {
        eventually("all jobs are done", || {
            let state = workers.pool.lock();
            state.queue.is_empty() && state.running == 0
        });
    }

    fn threads(workers: &Workers) -> usize {
        workers.pool.lock().threads
    }

    /// A job that hangs until the returned sender is dropped, and says so on `hangs` when it has started.
    fn hanging_job(hangs: &Sender<()>) -> (Sender<()>, Job) {
        let (release, released): (Sender<()>, Receiver<()>) = channel();
        let hangs = hangs.clone();
        let job = Box::new(move || {
            hangs.send(()).expect("the test listens");
            let _ = released.recv();
        });
        (release, job)
    }

    #[test]
    fn a_thousand_jobs_all_run() {
        let workers = patient(4, 1_000);
        let (done, results) = channel();
        for number in 0..1_000 {
            let done = done.clone();
            assert!(workers.submit(Box::new(move || done.send(number).expect("the test listens"))).is_ok());
        }
        let mut seen: Vec<_> = (0..1_000).map(|_| results.recv_timeout(DEADLINE).expect("every job runs")).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
        assert!(threads(&workers) <= 4);
    }

    #[test]
    fn threads_are_started_only_when_all_are_busy() {
        let workers = patient(3, 10);
        assert_eq!(threads(&workers), 0);
        for _ in 0..5 {
            assert!(workers.submit(Box::new(|| ())).is_ok());
            eventually_idle(&workers);
            assert_eq!(threads(&workers), 1);
        }
        let (hangs, hanging) = channel();
        let releases: Vec<_> = (1..=5)
            .map(|submitted| {
                let (release, job) = hanging_job(&hangs);
                assert!(workers.submit(job).is_ok());
                assert_eq!(threads(&workers), submitted.min(3));
                release
            })
            .collect();
        (0..3).for_each(|_| hanging.recv_timeout(DEADLINE).expect("three at once"));
        drop(releases);
        eventually_idle(&workers);
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let workers = patient(1, 2);
        let (hangs, _hanging) = channel();
        let (release, job) = hanging_job(&hangs);
        let ran = Arc::new(AtomicUsize::new(0));
        let count = |ran: &Arc<AtomicUsize>| -> Job {
            let ran = Arc::clone(ran);
            Box::new(move || {
                ran.fetch_add(1, Ordering::Relaxed);
            })
        };
        assert!(workers.submit(job).is_ok());
        assert!(workers.submit(count(&ran)).is_ok());
        assert!(workers.submit(count(&ran)).is_ok());
        let back = workers.submit(count(&ran)).expect_err("one runs, two wait, and that is all");
        drop(release);
        eventually_idle(&workers);
        assert_eq!(ran.load(Ordering::Relaxed), 2);
        assert!(workers.submit(back).is_ok(), "there is room again");
        eventually_idle(&workers);
        assert_eq!(ran.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_panic_is_a_result() {
        assert_eq!(run_caught(|| 7), Ok(7));
        let said = |work: fn()| run_caught(work).expect_err("it panics").message().to_owned();
        assert_eq!(said(|| panic!("plain")), "plain");
        assert_eq!(said(|| panic!("with {}", 1)), "with 1");
        assert_eq!(said(|| panic::panic_any(7)), "a payload that is not text");
        let error = run_caught::<()>(|| panic!("as the test wants it")).expect_err("it panics");
        assert_eq!(error.to_string(), "offloaded work panicked: as the test wants it");
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_a_result_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic::panic_any("as the test wants it");
            }
        }
        assert!(run_caught(|| panic::panic_any(Bomb)).is_err());
    }

    #[test]
    fn a_job_that_panics_does_not_cost_a_thread() {
        let workers = patient(1, 10);
        for _ in 0..5 {
            assert!(workers.submit(Box::new(|| panic!("as the test wants it"))).is_ok());
        }
        eventually_idle(&workers);
        assert_eq!(threads(&workers), 1);
        let (done, result) = channel();
        assert!(workers.submit(Box::new(move || done.send(7).expect("the test listens"))).is_ok());
        assert_eq!(result.recv_timeout(DEADLINE), Ok(7));
    }

    #[test]
    fn dropping_the_pool_waits_for_no_job_and_drops_what_has_not_started() {
        let workers = patient(1, 10);
        let (hangs, hanging) = channel();
        let (release, job) = hanging_job(&hangs);
        assert!(workers.submit(job).is_ok());
        hanging.recv_timeout(DEADLINE).expect("it has started");
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        assert!(workers.submit(Box::new(move || drop(holds))).is_ok());
        let pool = Arc::downgrade(&workers.pool);
        drop(workers); // would never return if it waited: only this thread can release the job
        assert_eq!(Arc::strong_count(&held), 1, "the queued job is dropped");
        drop(release);
        eventually("the released thread ends", || pool.strong_count() == 0);
    }

    #[test]
    fn idle_threads_go_home_when_the_pool_is_dropped() {
        for _ in 0..10 {
            let workers = patient(2, 10);
            assert!(workers.submit(Box::new(|| ())).is_ok());
            eventually_idle(&workers);
            let pool = Arc::downgrade(&workers.pool);
            drop(workers);
            eventually("the idle thread ends", || pool.strong_count() == 0);
        }
    }

    #[test]
    fn idle_threads_go_home_after_a_while_and_come_back_for_work() {
        let workers = Workers::with_idle_limit(2, 10, Duration::from_millis(1));
        for _ in 0..3 {
            assert!(workers.submit(Box::new(|| ())).is_ok());
            eventually("the idle thread ends", || threads(&workers) == 0);
            assert!(workers.pool.lock().queue.is_empty(), "no job is left behind");
        }
    }

    #[test]
    fn workers_have_a_name_and_take_no_signals() {
        fn blocked_signals() -> u64 {
            let status = fs::read_to_string("/proc/thread-self/status").expect("a Linux with /proc");
            let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask in the status");
            u64::from_str_radix(line.trim(), 16).expect("a mask in hexadecimal")
        }
        let before = blocked_signals();
        let workers = patient(1, 1);
        let (done, result) = channel();
        let look = move || done.send((thread::current().name().map(str::to_owned), blocked_signals()));
        assert!(workers.submit(Box::new(move || look().expect("the test listens"))).is_ok());
        let (name, blocked) = result.recv_timeout(DEADLINE).expect("the job runs");
        assert_eq!(name.as_deref(), Some(THREAD_NAME));
        for signum in [1, 2, 10, 12, 13, 15, 17, 28, 40, 64] {
            assert_ne!(blocked >> (signum - 1) & 1, 0, "signal {signum} is not blocked");
        }
        assert_eq!(blocked_signals(), before, "the submitting thread has its own mask back");
    }
}
