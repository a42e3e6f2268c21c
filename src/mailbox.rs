//! Mail from other threads: the only door into the loop that is not a descriptor of the network.
//!
//! A thread that wants something done on the loop posts it here. The post must reach a loop that sleeps in
//! epoll_wait, so there is a bell, an eventfd; and it must cost no system call when the loop is awake anyway,
//! which is the common case under load. So the loop raises a flag before it sleeps, and a post rings only if
//! it is the one that takes the flag down.
//!
//! ```text
//!   any thread                                          the loop's thread
//!
//!   Sender::post ──┐     ┌─────────────┐  take       ┌─────────┐  pop
//!   Sender::post ──┼───► │ box (mutex) │ ──────────► │ in hand │ ──────► one callback at a time
//!   Sender::post ──┘     └─────────────┘  one lock   └─────────┘
//!        │                                a turn
//!        └── flag up? take it down, ring ──► bell ──► epoll_wait returns
//! ```
//!
//! The rule that is kept: **the loop never sleeps while mail waits**, and one sleep costs at most one write to
//! the bell, as does an attempt at sleep that is given up. The danger is a post that falls between the loop's
//! last look into the box and its sleep:
//!
//! ```text
//!   poster                                        loop (fall_asleep)
//!     1  waiting += 1                               a  asleep := true
//!     2  asleep?  yes: asleep := false, ring        b  waiting > 0?  yes: asleep := false, do not sleep
//! ```
//!
//! Mail would be lost if the poster saw no sleeper and the loop saw no mail. The first means that 2 came before
//! a, the second that b came before 1. Each side writes before it reads, so 1 comes before 2 and a before b, and
//! the four would have to go round in a circle: 1, 2, a, b, 1. All four are sequentially consistent, which means
//! that every thread agrees on one order of them, and an order has no circles. (With weaker orderings each side
//! may read *before* its own write is seen, even on x86, and both miss.) If both see each other, the loop gives
//! its sleep up and the bell was rung for nothing; the next wait returns early once, which is harmless.
//!
//! The bell is registered edge-triggered and is never read: each write is an edge of its own, whatever the
//! counter says. The one thing that would silence it is a full counter, at which a write fails and makes no
//! edge; at one ring in a nanosecond that is 584 years away, so nothing is spent on draining it.
//!
//! What this file does not do: it does not know what mail is, calls nothing, and promises no order between
//! posters (mail of one thread is handed out in the order in which it was posted).

use crate::sys::{Fd, event};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, mem};

/// Slots of a drained queue that are kept for the next mail; a larger buffer, left over from a burst, is freed.
const KEPT_SLOTS: usize = 256;

/// Makes a mailbox that holds at most `capacity` items, and its two ends.
///
/// It is born asleep: whatever is posted before the loop runs rings the bell, so that the loop's first wait, or
/// whoever watches the loop's epoll descriptor, finds it.
///
/// # Errors
/// Those of eventfd(2): EMFILE, ENFILE, ENOMEM.
pub(crate) fn mailbox<T: Send>(capacity: usize) -> io::Result<(Sender<T>, Inbox<T>)> {
    let shared = Arc::new(Shared {
        post: Mutex::new(Post { queue: VecDeque::new(), gone: false }),
        waiting: AtomicUsize::new(0),
        peak: AtomicUsize::new(0),
        rings: AtomicU64::new(0),
        asleep: AtomicBool::new(true),
        capacity,
        bell: event::create()?,
    });
    Ok((Sender { shared: Arc::clone(&shared) }, Inbox { shared, in_hand: VecDeque::new(), allowance: 0 }))
}

/// The end that posts: any number of them, on any thread.
///
/// The bell's descriptor stays open until the last of them is dropped, since a post may be about to ring it.
pub(crate) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Why a post was refused; the item comes back in either case.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused<T> {
    /// As many items wait as the box may hold. There is room again when the loop has handed some out.
    Full(T),
    /// The loop is gone, and stays so.
    Gone(T),
}

/// The loop's end.
pub(crate) struct Inbox<T> {
    shared: Arc<Shared<T>>,
    /// Out of the box and not yet handed out; all of it is older than what is still in the box.
    in_hand: VecDeque<T>,
    /// What `pop` may still hand out this turn, never more than `in_hand` holds.
    allowance: usize,
}

struct Shared<T> {
    post: Mutex<Post<T>>,
    /// Items posted and not handed out: those in the box and those in the loop's hand. Goes up only under the
    /// lock, together with the queue; goes down only on the loop's thread, without it.
    waiting: AtomicUsize,
    /// The highest `waiting` ever; written only under the lock.
    peak: AtomicUsize,
    /// Writes to the bell, for the statistics.
    rings: AtomicU64,
    /// The loop sleeps, or is about to, and nobody has rung yet.
    asleep: AtomicBool,
    capacity: usize,
    bell: Fd,
}

struct Post<T> {
    queue: VecDeque<T>,
    /// The inbox was dropped: the queue is empty and stays so.
    gone: bool,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send> Sender<T> {
    /// Posts `item`, to be handed out in the loop's next turn or, if its budget is spent, in a later one.
    ///
    /// # Errors
    /// [`Refused`], with the item.
    pub fn post(&self, item: T) -> Result<(), Refused<T>> {
        self.shared.put(item, self.shared.capacity)
    }

    /// Posts `item` even into a full box: for mail whose number is bounded elsewhere, such as the results of
    /// offloaded work, and which could not be refused without losing it.
    ///
    /// # Errors
    /// The item, when the loop is gone.
    pub fn post_reserved(&self, item: T) -> Result<(), T> {
        self.shared.put(item, usize::MAX).map_err(|refused| match refused {
            Refused::Full(item) | Refused::Gone(item) => item,
        })
    }
}

impl<T> Inbox<T> {
    /// Allows this turn to hand out at most `budget` items, and returns how many there are to [`pop`](Inbox::pop).
    ///
    /// It locks the box at most once, and not at all when that would bring nothing. What a callback posts
    /// while it is handed its mail is not part of this turn's share.
    pub fn take(&mut self, budget: usize) -> usize {
        let held = self.in_hand.len();
        if held < budget && self.shared.waiting.load(Ordering::Acquire) > held {
            let mut post = self.shared.lock();
            if held == 0 {
                // The common case moves no item: the posters get our empty buffer and we their full one.
                mem::swap(&mut self.in_hand, &mut post.queue);
            } else {
                let more = post.queue.len().min(budget - held);
                self.in_hand.extend(post.queue.drain(..more));
            }
        }
        self.allowance = budget.min(self.in_hand.len());
        self.allowance
    }

    /// The next item of this turn's share, the oldest first.
    ///
    /// The item is the caller's alone: if its callback panics, the others are still here for the next turn.
    pub fn pop(&mut self) -> Option<T> {
        self.allowance = self.allowance.checked_sub(1)?;
        let item = self.in_hand.pop_front();
        debug_assert!(item.is_some(), "the allowance is never more than what is in hand");
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.in_hand.is_empty() && self.in_hand.capacity() > KEPT_SLOTS {
            self.in_hand = VecDeque::new();
        }
        item
    }

    /// Says that the loop is about to sleep. True: it may, and the next post rings the bell. False: mail
    /// waits, here or in the box, and the loop must only poll.
    ///
    /// Whoever hands the loop's epoll descriptor to another loop calls this before it leaves its own turn, too:
    /// between turns nobody looks into the box, and that is as good as sleep.
    pub fn fall_asleep(&self) -> bool {
        // Mail that is known of needs no attempt, which a post might ring for. What decides comes after it.
        if self.len() > 0 {
            return false;
        }
        // First write, then read: that order is the whole protocol, see the head of the file.
        self.shared.asleep.store(true, Ordering::SeqCst);
        #[cfg(test)]
        tests::interrupt();
        let empty = self.shared.waiting.load(Ordering::SeqCst) == 0;
        if !empty {
            self.wake();
        }
        empty
    }

    /// Says that the loop is awake and will look into the box before it sleeps: posts need not ring.
    pub fn wake(&self) {
        // Relaxed is enough: a poster that still sees the flag up rings once for nothing, and one that sees it
        // down has counted its mail before the next `fall_asleep` looks.
        self.shared.asleep.store(false, Ordering::Relaxed);
    }

    /// What epoll watches: for input, edge-triggered, registered once and never read.
    pub fn bell(&self) -> &Fd {
        &self.shared.bell
    }

    /// Items posted and not yet handed out.
    pub fn len(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// The most items that ever waited at once.
    pub fn peak_len(&self) -> usize {
        self.shared.peak.load(Ordering::Relaxed)
    }

    /// How often a post has rung the bell: at most once for each sleep.
    pub fn rings(&self) -> u64 {
        self.shared.rings.load(Ordering::Relaxed)
    }
}

impl<T> Drop for Inbox<T> {
    /// From here on every post is refused. The mail nobody will read is dropped after the lock is free, since
    /// its own drop may post. (It may also hold senders of this very box: emptying it here breaks that circle.)
    fn drop(&mut self) {
        let unread = {
            let mut post = self.shared.lock();
            post.gone = true;
            mem::take(&mut post.queue)
        };
        drop(unread);
    }
}

impl<T> Shared<T> {
    fn put(&self, item: T, capacity: usize) -> Result<(), Refused<T>> {
        let mut post = self.lock();
        if post.gone {
            return Err(Refused::Gone(item));
        }
        if self.waiting.load(Ordering::Relaxed) >= capacity {
            return Err(Refused::Full(item));
        }
        post.queue.push_back(item);
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        if waiting > self.peak.load(Ordering::Relaxed) {
            self.peak.store(waiting, Ordering::Relaxed);
        }
        drop(post);
        #[cfg(test)]
        tests::interrupt();
        self.ring_if_asleep();
        Ok(())
    }

    /// Of all posts during one sleep exactly one takes the flag down, and that one rings. The first look spares
    /// the posts to a waking loop the fight for the flag's cache line.
    fn ring_if_asleep(&self) {
        if !self.asleep.load(Ordering::SeqCst) || !self.asleep.swap(false, Ordering::SeqCst) {
            return;
        }
        // Counted first, so that whoever is woken finds it counted.
        self.rings.fetch_add(1, Ordering::Relaxed);
        while let Err(error) = event::ring(&self.bell) {
            if error.kind() != io::ErrorKind::Interrupted {
                // No errno of an eventfd's write leads here. Should it happen, the next post tries again.
                log::debug!("the mailbox's bell could not be rung: {error}");
                self.asleep.store(true, Ordering::SeqCst);
                return;
            }
        }
    }

    /// A poisoned lock is taken as it is: the queue and its count change together in code that does not panic,
    /// and a thread's mishap must not take the loop down.
    fn lock(&self) -> MutexGuard<'_, Post<T>> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::epoll::{EDGE, Epoll, Event, IN};
    use std::cell::Cell;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;
    use std::thread;
    use std::time::Duration;

    /// The writes since the last call: an eventfd's counter adds them up and a read sets it back.
    fn rings<T>(inbox: &Inbox<T>) -> u64 {
        let mut counter = [0; 8];
        let mut bell = File::from(inbox.bell().as_fd().try_clone_to_owned().expect("a descriptor to spare"));
        match bell.read(&mut counter) {
            Ok(n) => assert_eq!(n, counter.len()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        u64::from_ne_bytes(counter)
    }

    thread_local! {
        static INTERRUPTION: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
    }

    /// Where the protocol of `fall_asleep` and `put` has written and not yet read: runs what a test has left for
    /// this moment, as though another thread had been quicker.
    pub fn interrupt() {
        if let Some(quicker) = INTERRUPTION.take() {
            quicker();
        }
    }

    fn drain<T>(inbox: &mut Inbox<T>, budget: usize) -> Vec<T> {
        inbox.take(budget);
        std::iter::from_fn(|| inbox.pop()).collect()
    }

    #[test]
    fn many_posts_to_a_sleeping_loop_ring_once() {
        let (sender, mut inbox) = mailbox(100).unwrap();
        inbox.wake();
        for _ in 0..3 {
            assert!(inbox.fall_asleep());
            (0..50).for_each(|mail| sender.post(mail).unwrap());
            assert_eq!(rings(&inbox), 1);
            inbox.wake();
            assert_eq!(drain(&mut inbox, 100).len(), 50);
        }
    }

    #[test]
    fn posts_to_a_waking_loop_do_not_ring() {
        let (sender, mut inbox) = mailbox(100).unwrap();
        inbox.wake();
        (0..50).for_each(|mail| sender.post(mail).unwrap());
        assert_eq!(rings(&inbox), 0);
        assert_eq!(drain(&mut inbox, 100), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn mail_posted_before_the_loop_runs_rings() {
        let (sender, inbox) = mailbox(1).unwrap();
        sender.post(()).unwrap();
        assert_eq!(rings(&inbox), 1);
    }

    #[test]
    fn a_loop_with_mail_in_the_box_or_in_hand_must_not_sleep() {
        let (sender, mut inbox) = mailbox(10).unwrap();
        inbox.wake();
        sender.post(1).unwrap();
        sender.post(2).unwrap();
        assert!(!inbox.fall_asleep(), "two in the box");
        assert_eq!(drain(&mut inbox, 1), [1]);
        assert!(!inbox.fall_asleep(), "one in hand");
        sender.post(3).unwrap();
        assert_eq!(rings(&inbox), 0, "a refused sleep leaves the loop awake");
        assert_eq!(drain(&mut inbox, 10), [2, 3]);
        assert!(inbox.fall_asleep());
    }

    #[test]
    fn a_post_between_the_two_steps_of_falling_asleep_is_noticed() {
        let (sender, inbox) = mailbox(10).unwrap();
        inbox.wake();
        INTERRUPTION.set(Some(Box::new(move || sender.post(()).unwrap())));
        let asleep = inbox.fall_asleep();
        assert_eq!(inbox.len(), 1, "the test has met the moment");
        assert!(!asleep || rings(&inbox) == 1, "mail waits, the loop sleeps and nobody rang");
    }

    #[test]
    fn a_loop_that_falls_asleep_between_the_two_steps_of_a_post_is_woken() {
        let (sender, inbox) = mailbox(10).unwrap();
        inbox.wake();
        let inbox = Rc::new(inbox);
        let asleep = Rc::new(Cell::new(None));
        let (sleeper, answer) = (Rc::clone(&inbox), Rc::clone(&asleep));
        INTERRUPTION.set(Some(Box::new(move || answer.set(Some(sleeper.fall_asleep())))));
        sender.post(()).unwrap();
        let asleep = asleep.get().expect("the test has met the moment");
        assert!(!asleep || rings(&inbox) == 1, "mail waits, the loop sleeps and nobody rang");
    }

    #[test]
    fn a_budget_bounds_the_turn_and_order_is_kept_across_turns() {
        let (sender, mut inbox) = mailbox(100).unwrap();
        let mut seen = Vec::new();
        let mut next = 0..;
        for _ in 0..10 {
            (&mut next).take(5).for_each(|mail| sender.post(mail).unwrap());
            let share = drain(&mut inbox, 3);
            assert_eq!(share.len(), 3);
            seen.extend(share);
        }
        assert_eq!((inbox.len(), inbox.take(0), inbox.pop()), (20, 0, None));
        seen.extend(drain(&mut inbox, 100));
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        assert_eq!((inbox.len(), inbox.pop()), (0, None));
    }

    #[test]
    fn mail_posted_while_mail_is_handed_out_waits_for_the_next_turn() {
        let (sender, mut inbox) = mailbox(10).unwrap();
        sender.post(0).unwrap();
        inbox.take(10);
        while let Some(mail) = inbox.pop() {
            assert_eq!(mail, 0, "a post of this turn was handed out in it");
            sender.post(mail + 1).unwrap();
        }
        assert_eq!(drain(&mut inbox, 10), [1]);
    }

    #[test]
    fn a_full_box_gives_the_mail_back_and_counts_what_is_in_hand() {
        let (sender, mut inbox) = mailbox(2).unwrap();
        sender.post(1).unwrap();
        sender.post(2).unwrap();
        assert_eq!(sender.post(3), Err(Refused::Full(3)));
        inbox.take(10);
        assert_eq!(sender.post(3), Err(Refused::Full(3)), "taken is not handed out");
        assert_eq!(inbox.pop(), Some(1));
        sender.post(3).unwrap();
        assert_eq!(sender.post(4), Err(Refused::Full(4)));
        sender.post_reserved(4).unwrap();
        assert_eq!((inbox.len(), inbox.peak_len()), (3, 3));
        assert_eq!(drain(&mut inbox, 10), [2, 3, 4]);
        assert_eq!((inbox.len(), inbox.peak_len()), (0, 3));
    }

    #[test]
    fn a_callback_that_panics_loses_only_its_own_mail() {
        let (sender, mut inbox) = mailbox(10).unwrap();
        (0..4).for_each(|mail| sender.post(mail).unwrap());
        let turn = catch_unwind(AssertUnwindSafe(|| {
            inbox.take(10);
            while let Some(mail) = inbox.pop() {
                assert_ne!(mail, 1, "as the test wants it");
            }
        }));
        assert!(turn.is_err());
        assert!(!inbox.fall_asleep());
        assert_eq!(drain(&mut inbox, 10), [2, 3]);
    }

    /// Posts to its own box when it is dropped, as a closure's captured state may.
    struct Echo(Sender<Echo>, Arc<AtomicUsize>);

    impl Drop for Echo {
        fn drop(&mut self) {
            assert!(self.0.shared.post.try_lock().is_ok(), "dropped under the lock, where a post would hang");
            if let Err(Refused::Gone(again)) = self.0.post(Echo(self.0.clone(), Arc::clone(&self.1))) {
                self.1.fetch_add(1, Ordering::Relaxed);
                mem::forget(again);
            }
        }
    }

    #[test]
    fn unread_mail_may_post_while_the_box_is_dropped() {
        let refused = Arc::new(AtomicUsize::new(0));
        let (sender, mut inbox) = mailbox(10).unwrap();
        for _ in 0..4 {
            assert!(sender.post(Echo(sender.clone(), Arc::clone(&refused))).is_ok());
            inbox.take(1); // the first of them in hand, the others in the box
        }
        drop(inbox);
        assert_eq!(refused.load(Ordering::Relaxed), 4);
        let last = Echo(sender.clone(), Arc::clone(&refused));
        assert!(sender.post_reserved(last).is_err());
    }

    #[test]
    fn a_poisoned_lock_does_not_stop_the_mail() {
        let (sender, mut inbox) = mailbox(10).unwrap();
        let poison = catch_unwind(AssertUnwindSafe(|| {
            let _lock = sender.shared.lock();
            panic!("as the test wants it");
        }));
        assert!(poison.is_err() && sender.shared.post.is_poisoned());
        sender.post(1).unwrap();
        assert_eq!(drain(&mut inbox, 10), [1]);
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let (sender, mut inbox) = mailbox(usize::MAX).unwrap();
        for _ in 0..2 {
            (0..100_000_u64).for_each(|mail| sender.post(mail).unwrap());
            assert_eq!(drain(&mut inbox, usize::MAX).len(), 100_000);
        }
        assert!(inbox.in_hand.capacity() <= KEPT_SLOTS);
        assert!(sender.shared.lock().queue.capacity() <= KEPT_SLOTS);
    }

    #[test]
    fn senders_may_be_shared_between_threads_even_if_the_mail_may_not() {
        fn shareable<S: Clone + Send + Sync>(_: &S) {}
        let (sender, _inbox) = mailbox::<std::cell::Cell<u8>>(1).unwrap();
        shareable(&sender);
    }

    /// Sleeps if the inbox lets it. A post slept through shows as a wait that runs into its time-out, which no
    /// other outcome of the tests below does.
    fn sleep<T>(inbox: &Inbox<T>, epoll: &Epoll) {
        if inbox.fall_asleep() {
            let woken = loop {
                match epoll.wait(&mut [Event::EMPTY; 4], Some(Duration::from_secs(10))) {
                    // Other tests of this process raise signals.
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    woken => break woken.expect("a wait"),
                }
            };
            assert_eq!(woken, 1, "slept through a post; {} wait", inbox.len());
        }
        inbox.wake();
    }

    fn watch<T>(inbox: &Inbox<T>) -> Epoll {
        let epoll = Epoll::create().unwrap();
        epoll.add(inbox.bell(), IN | EDGE, 0).unwrap();
        epoll
    }

    /// The poster waits until its last mail was handed out, and so meets the loop on its way to sleep; nobody
    /// posts after it who would wake the loop in its stead. Delays on both sides move the moment about.
    #[test]
    fn a_post_between_the_last_look_and_the_sleep_is_not_slept_through() {
        const ROUNDS: usize = 20_000;
        let (sender, mut inbox) = mailbox(1).unwrap();
        let epoll = watch(&inbox);
        let handed_out = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&handed_out);
        let pause = |rounds: usize| (0..rounds).for_each(|_| std::hint::spin_loop());
        let poster = thread::spawn(move || {
            for round in 0..ROUNDS {
                while seen.load(Ordering::Acquire) < round {
                    if Arc::strong_count(&seen) == 1 {
                        return; // the loop has failed, and says so itself
                    }
                    thread::yield_now();
                }
                pause(round % 13);
                sender.post(round).expect("a box with room");
            }
        });
        for round in 0..ROUNDS {
            while inbox.take(1) == 0 {
                sleep(&inbox, &epoll);
            }
            assert_eq!(inbox.pop(), Some(round));
            handed_out.store(round + 1, Ordering::Release);
            pause(round % 7);
        }
        poster.join().expect("the poster ends well");
    }

    #[test]
    fn the_mail_of_many_threads_arrives_whole_and_in_order() {
        const POSTERS: usize = 4;
        const EACH: usize = 20_000;
        let (sender, mut inbox) = mailbox(64).unwrap();
        let epoll = watch(&inbox);
        let posters: Vec<_> = (0..POSTERS)
            .map(|poster| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for number in 0..EACH {
                        while sender.post((poster, number)).is_err() {
                            thread::yield_now();
                        }
                        if number % 3 == poster % 3 {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();

        let mut next = [0; POSTERS];
        let mut sleeps = 1; // the box is born asleep
        while next.iter().sum::<usize>() < POSTERS * EACH {
            sleeps += 1;
            sleep(&inbox, &epoll);
            for (poster, number) in drain(&mut inbox, 16) {
                assert_eq!(number, next[poster], "the mail of poster {poster} is out of order");
                next[poster] += 1;
            }
        }
        posters.into_iter().for_each(|poster| poster.join().expect("a poster ends well"));
        assert_eq!(inbox.len(), 0);
        assert!(inbox.peak_len() <= 64);
        let rung = rings(&inbox);
        assert!(rung <= sleeps, "{rung} rings in {sleeps} sleeps");
    }
}
