//! Timers: which deadlines have passed, for a constant price per timer however many there are.
//!
//! A server arms a timer for almost everything it does and cancels nearly all of them, so arming, moving and
//! cancelling must not depend on how many others wait. A sorted structure pays `log n` for an order that is
//! mostly thrown away. The hierarchical timing wheel (G. Varghese and T. Lauck, *Hashed and Hierarchical Timing
//! Wheels*, SOSP 1987) sorts only what comes near: far timers lie in coarse buckets, and a bucket is spread over
//! finer ones when its time comes.
//!
//! Time is a count of nanoseconds, read as eleven digits in base 64. The *cursor* is
//! where the wheel stands. A deadline is compared with it from the left: the place of the first digit that
//! differs is the level, the digit itself the bucket.
//!
//! ```text
//!  level           10       5       4       3       2       1       0
//!  bucket width   36 y    1.1 s   17 ms  262 µs  4.1 µs   64 ns   1 ns
//!
//!  cursor          0  …    12      40       7      33       2      19
//!  deadline        0  …    12      43      61       0       5       8
//!                                  └─ level 4, bucket 43
//!
//!  level 4    0 ……… 40 41 42 43 44 ……… 63        one bit per bucket, in one u64
//!                    ▲        │
//!              cursor┘        └─► entry ◄─► entry ◄─► entry        earliest: the least deadline filed here
//!
//!  due        deadlines the cursor has reached ─► entry ◄─► entry
//! ```
//!
//! Every deadline of level 4 shares its upper digits with the cursor and comes before every deadline of level 5,
//! so the soonest bucket is the lowest set bit of the lowest level in use, and empty time is never walked
//! through. When that bucket's `earliest` is due the bucket is *opened*: the cursor leaps to `earliest` and the
//! entries are filed anew, each at a lower level. So an entry moves at most eleven times, and one that is alone
//! moves once. Since a bucket of level 0 is a single nanosecond, no bucket is ever partly due, to be searched
//! again and again. (Without wrap-around, and with the leap, the wheel is also the radix heap of R. Ahuja, K.
//! Mehlhorn, J. Orlin and R. Tarjan, *Faster Algorithms for the Shortest Path Problem*, JACM 1990.)
//!
//! The rule that is kept: an entry lies in a bucket that starts *no later* than its deadline. It may start
//! sooner, and that makes the commonest verb cheap: [`Wheel::reset`] to a later time, which an idle time-out does
//! for every message, stores the new deadline and moves nothing. The entry is filed anew if its old time comes.
//!
//! What it does not do: read a clock (time is an argument), call anything, or bound the work of one `expire`.
//! Opening a bucket touches each of its entries; the bound is on the sum, eleven moves per arming.

use crate::sys::clock::Moment;
use std::mem;

/// The name of one timer of one reactor: it is stale, and reaches nobody, once that timer has ended.
///
/// A timer that fires once ends when it fires; a periodic one when it is cancelled. Ids are plain data: copy
/// them, keep them, drop them. An id that is stale stays stale: it never finds a later timer. An id means nothing
/// to another reactor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId {
    slot: u32,
    generation: u32,
}

/// A timer whose deadline has passed, as [`Wheel::expire`] hands it out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Expired {
    pub id: TimerId,
    /// The deadline it was armed for, to count the next one of a periodic timer from.
    pub deadline: Moment,
}

/// Bits of one digit: 64 buckets, so that a level's occupancy is one `u64`.
const DIGIT_BITS: u32 = 6;
const DIGIT_MASK: u64 = (1 << DIGIT_BITS) - 1;
/// Digits of a `u64` of nanoseconds, the last of which is not full: 584 years.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;
/// The list of entries the cursor has reached; it stands behind the buckets of all levels.
const DUE: u16 = (LEVELS as u16) << DIGIT_BITS;
/// Not in a list, yet still allocated: between `expire` and the `remove` or `reset` that answers it.
const HANDED_OUT: u16 = DUE + 1;
/// Not allocated. `Entry::next` is the next vacant entry.
const VACANT: u16 = DUE + 2;

/// End of a list; also the bound on entries.
const NONE: u32 = u32::MAX;

/// Payloads by [`TimerId`], handed back once their deadline has passed.
///
/// Deadlines before the wheel's start count as the start.
pub(crate) struct Wheel<T> {
    /// The latest time `expire` was given. Never less than `cursor`.
    now: u64,
    /// Where the wheel stands: it only grows, and every occupied bucket of a level starts after it. Bucket
    /// numbers are relative to it.
    cursor: u64,
    /// Bit `b` of word `l` is set while bucket `b` of level `l` has entries.
    occupied: [u64; LEVELS],
    /// Level after level, then the due list. Boxed: a reactor that is moved should not copy 11 KiB.
    buckets: Box<[Bucket]>,
    entries: Vec<Entry<T>>,
    first_vacant: u32,
    len: usize,
    /// How often an entry was filed anew by an opened bucket: the work the tests hold bounds against.
    #[cfg(test)]
    moves: usize,
}

/// A list of entries, oldest arming first.
#[derive(Clone, Copy)]
struct Bucket {
    /// Not later than any deadline in the list, and inside the bucket's span. It is exact until an entry is
    /// removed or reset.
    earliest: u64,
    head: u32,
    tail: u32,
}

const EMPTY: Bucket = Bucket { earliest: u64::MAX, head: NONE, tail: NONE };

struct Entry<T> {
    /// Not earlier than the start of `bucket`; in the due list not later than the cursor.
    deadline: u64,
    /// Of the occupant, or of the next one when vacant.
    generation: u32,
    prev: u32,
    next: u32,
    /// The list it is in, or `HANDED_OUT` or `VACANT`.
    bucket: u16,
    /// `None` exactly while vacant.
    payload: Option<T>,
}

impl<T> Wheel<T> {
    /// An empty wheel whose time begins at `start`.
    pub fn new(start: Moment) -> Self {
        Wheel {
            now: start.nanos(),
            cursor: start.nanos(),
            occupied: [0; LEVELS],
            buckets: vec![EMPTY; usize::from(DUE) + 1].into_boxed_slice(),
            entries: Vec::new(),
            first_vacant: NONE,
            len: 0,
            #[cfg(test)]
            moves: 0,
        }
    }

    /// Arms a timer. One whose deadline has passed is handed out by the next [`Wheel::expire`].
    ///
    /// # Panics
    /// When 2³² − 1 timers are in use, which is past any limit on memory.
    pub fn insert(&mut self, deadline: Moment, payload: T) -> TimerId {
        let deadline = deadline.nanos();
        let slot = if self.first_vacant == NONE { self.grow() } else { self.first_vacant };
        let entry = &mut self.entries[slot as usize];
        debug_assert!(entry.bucket == VACANT, "an entry on the vacant list is vacant");
        self.first_vacant = entry.next;
        self.len += 1;
        entry.deadline = deadline;
        entry.payload = Some(payload);
        let generation = entry.generation;
        self.link(slot);
        TimerId { slot, generation }
    }

    /// Gives a timer another deadline; `false` if the id is stale. A timer that `expire` has handed out is armed again.
    ///
    /// To a later time this is one store, and the wheel may ask for one needless wake at the old deadline.
    ///
    /// A periodic timer has to move on: one that is reset again and again to the deadline it was handed out for
    /// is handed out before all others each time.
    #[inline]
    pub fn reset(&mut self, id: TimerId, deadline: Moment) -> bool {
        let deadline = deadline.nanos();
        let Some(entry) = self.live(id) else { return false };
        let bucket = entry.bucket;
        entry.deadline = deadline;
        if bucket < DUE && deadline >= start_of(bucket, self.cursor) {
            // It starts no later than the new deadline: it may stay where it is.
            let earliest = &mut self.buckets[usize::from(bucket)].earliest;
            *earliest = deadline.min(*earliest);
            return true;
        }
        self.unlink(id.slot);
        self.link(id.slot);
        true
    }

    /// Ends a timer, armed or handed out, so that `id` is stale from now on. `None` if it was stale already.
    #[inline]
    pub fn remove(&mut self, id: TimerId) -> Option<T> {
        let payload = self.live(id)?.payload.take();
        self.unlink(id.slot);
        self.len -= 1;
        let entry = &mut self.entries[id.slot as usize];
        entry.bucket = VACANT;
        // A wrapped generation would bring the first occupant's ids back to life: retire the entry instead. Its
        // generation stays at the last one, whose id finds it vacant.
        if let Some(next) = entry.generation.checked_add(1) {
            entry.generation = next;
            entry.next = self.first_vacant;
            self.first_vacant = id.slot;
        }
        payload
    }

    /// Hands out a timer whose deadline is not later than `now`, or `None` when there is none left.
    ///
    /// The timer stays allocated and is handed out no second time until it is answered: with [`Wheel::remove`] if
    /// it fires once, with [`Wheel::reset`] if it is periodic. Other timers may be inserted, reset and removed
    /// between two calls.
    ///
    /// Timers come in the order of their deadlines, so that a run that is cut short and taken up again serves the
    /// longest overdue first; those of one deadline in the order in which they were inserted, unless they were
    /// reset. A deadline from before the last one handed out has missed that order: it comes next, behind others
    /// like it.
    ///
    /// A `now` that is earlier than one given before counts as that one. A deadline of `now` is due, so whoever
    /// arms for `now` again what was just handed out needs a budget of calls.
    pub fn expire(&mut self, now: Moment) -> Option<Expired> {
        self.now = self.now.max(now.nanos());
        // Each pass moves at least one entry to a lower level or to the due list.
        loop {
            let slot = self.buckets[usize::from(DUE)].head;
            if slot != NONE {
                self.unlink(slot);
                let entry = &mut self.entries[slot as usize];
                entry.bucket = HANDED_OUT;
                let (generation, deadline) = (entry.generation, entry.deadline);
                return Some(Expired { id: TimerId { slot, generation }, deadline: Moment::from_nanos(deadline) });
            }
            let first = self.first_occupied()?;
            if self.buckets[usize::from(first)].earliest > self.now {
                return None;
            }
            self.open(first);
        }
    }

    /// The payload of a timer, armed or handed out.
    #[inline]
    pub fn get(&self, id: TimerId) -> Option<&T> {
        self.entries.get(id.slot as usize).filter(|entry| entry.generation == id.generation)?.payload.as_ref()
    }

    /// How long to sleep: a time not later than the earliest deadline that is armed. `None` when none is.
    ///
    /// It is that deadline itself, unless the timer that had it was removed or reset to a later time: then the
    /// wheel wakes for nothing, at most once for each deadline it was ever given. It is not later than the last `now`
    /// given to [`Wheel::expire`] only if a timer is due.
    #[inline]
    pub fn next_deadline(&self) -> Option<Moment> {
        if self.len == 0 { None } else { self.soonest_deadline() }
    }

    fn soonest_deadline(&self) -> Option<Moment> {
        let due = &self.buckets[usize::from(DUE)];
        if due.head != NONE {
            return Some(Moment::from_nanos(due.earliest));
        }
        let earliest = self.buckets[usize::from(self.first_occupied()?)].earliest;
        Some(Moment::from_nanos(if earliest > self.now { earliest } else { self.searched_deadline() }))
    }

    /// Timers that are armed or handed out.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The entry, armed or handed out, unless `id` is stale.
    #[inline]
    fn live(&mut self, id: TimerId) -> Option<&mut Entry<T>> {
        let entry = self.entries.get_mut(id.slot as usize);
        entry.filter(|entry| entry.generation == id.generation && entry.bucket != VACANT)
    }

    /// Adds a vacant entry, which is the last of its list.
    #[cold]
    fn grow(&mut self) -> u32 {
        let slot = u32::try_from(self.entries.len()).expect("fewer than 2^32 timers");
        assert!(slot != NONE, "fewer than 2^32 - 1 timers");
        self.entries.push(Entry { deadline: 0, generation: 0, prev: NONE, next: NONE, bucket: VACANT, payload: None });
        slot
    }

    /// Files an entry that is in no list.
    fn link(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        let number = bucket_of(entry.deadline, self.cursor);
        let bucket = &mut self.buckets[usize::from(number)];
        let tail = mem::replace(&mut bucket.tail, slot);
        bucket.earliest = bucket.earliest.min(entry.deadline);
        entry.bucket = number;
        entry.prev = tail;
        entry.next = NONE;
        if tail != NONE {
            self.entries[tail as usize].next = slot;
            return;
        }
        bucket.head = slot;
        if number < DUE {
            self.occupied[usize::from(number >> DIGIT_BITS)] |= 1 << (u64::from(number) & DIGIT_MASK);
        }
    }

    /// Takes an entry out of its list, if it is in one; `Entry::bucket` is left to the caller.
    fn unlink(&mut self, slot: u32) {
        let Entry { prev, next, bucket: number, .. } = self.entries[slot as usize];
        // `HANDED_OUT` numbers no bucket.
        let Some(bucket) = self.buckets.get_mut(usize::from(number)) else { return };
        match prev {
            NONE => bucket.head = next,
            _ => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => bucket.tail = prev,
            _ => self.entries[next as usize].prev = prev,
        }
        if bucket.head == NONE {
            self.clear(number);
        }
    }

    /// Leaps to the earliest deadline of the soonest bucket and files its entries anew from there.
    ///
    /// No other bucket starts before this one ends, so the leap passes none, and all the others keep their numbers.
    fn open(&mut self, number: u16) {
        let Bucket { earliest, head, .. } = self.buckets[usize::from(number)];
        debug_assert!(self.cursor < earliest && earliest <= self.now, "the cursor only moves forward, up to now");
        self.clear(number);
        self.cursor = earliest;
        let mut slot = head;
        while slot != NONE {
            let next = self.entries[slot as usize].next;
            self.link(slot);
            slot = next;
            #[cfg(test)]
            {
                self.moves += 1;
            }
        }
    }

    /// Forgets a bucket's list, so that its `earliest` does not outlive its entries.
    fn clear(&mut self, number: u16) {
        self.buckets[usize::from(number)] = EMPTY;
        if number < DUE {
            self.occupied[usize::from(number >> DIGIT_BITS)] &= !(1 << (u64::from(number) & DIGIT_MASK));
        }
    }

    #[inline]
    fn first_occupied(&self) -> Option<u16> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        Some((level << DIGIT_BITS) as u16 | self.occupied[level].trailing_zeros() as u16)
    }

    /// `next_deadline` when the soonest `earliest` is past. Either it is due, or it is that of a timer that was
    /// removed or reset, for which the loop must not stay awake. That takes a search, but only of buckets that the
    /// next `expire` opens: it doubles work that is bounded.
    #[cold]
    fn searched_deadline(&self) -> u64 {
        let mut soonest = u64::MAX;
        for bucket in self.buckets.iter().filter(|bucket| bucket.head != NONE) {
            if bucket.earliest > self.now {
                return soonest.min(bucket.earliest);
            }
            let mut slot = bucket.head;
            while slot != NONE {
                let entry = &self.entries[slot as usize];
                if entry.deadline <= self.now {
                    return bucket.earliest;
                }
                soonest = soonest.min(entry.deadline);
                slot = entry.next;
            }
        }
        soonest
    }
}

/// Where a deadline is filed while the wheel stands at `cursor`.
#[inline]
fn bucket_of(deadline: u64, cursor: u64) -> u16 {
    if deadline <= cursor {
        return DUE;
    }
    let level = (deadline ^ cursor).ilog2() / DIGIT_BITS;
    let digit = (deadline >> (level * DIGIT_BITS)) & DIGIT_MASK;
    (level << DIGIT_BITS) as u16 | digit as u16
}

/// The earliest time that is filed under this number while the wheel stands at `cursor`.
#[inline]
fn start_of(bucket: u16, cursor: u64) -> u64 {
    let shift = u32::from(bucket >> DIGIT_BITS) * DIGIT_BITS;
    ((cursor >> shift) & !DIGIT_MASK | (u64::from(bucket) & DIGIT_MASK)) << shift
}

/// What holds of any wheel, for the tests and for a fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod property {
    use super::*;
    use std::collections::HashMap;

    /// What is done (0 to 10), to which timer, when, and how far from now: the shift is 17 to 62 bits.
    pub type Step = (i32, usize, i64, u32);

    /// Against a map that is searched whole: every timer exactly once, never early, never late, in order; a sleep
    /// until `next_deadline` is never too long, and there is at most one for each arming.
    pub fn the_wheel_agrees_with_a_map_searched_whole(steps: impl IntoIterator<Item = Step>) {
        let (mut wheel, at) = (Wheel::new(Moment::from_nanos(0)), Moment::from_nanos);
        let mut model: HashMap<TimerId, Option<u64>> = HashMap::new(); // the deadline while it is armed
        let soonest = |model: &HashMap<_, _>| model.values().copied().flatten().min();
        let (mut ids, mut now, mut armed, mut wakes) = (Vec::new(), 0_u64, 0, 0);
        let sleeps = std::iter::repeat((-1, 0, 0, 0));
        for (kind, pick, random, shift) in steps.into_iter().chain(sleeps) {
            // All magnitudes from a nanosecond to twenty hours; half of them past.
            let (deadline, mut budget) = (now.saturating_add_signed(random >> shift), 0);
            match (kind, ids.get(pick % ids.len().max(1)).copied()) {
                (0..4, _) | (_, None) => {
                    let id = wheel.insert(at(deadline), ids.len());
                    assert!(model.insert(id, Some(deadline)).is_none(), "an id was given twice");
                    ids.push(id);
                    armed += 1;
                }
                (4..7, Some(id)) => {
                    let known = model.get_mut(&id).map(|known| *known = Some(deadline)).is_some();
                    assert_eq!(wheel.reset(id, at(deadline)), known);
                    armed += usize::from(known);
                }
                (7, Some(id)) => assert_eq!(wheel.remove(id).is_some(), model.remove(&id).is_some()),
                (8 | 9, _) => {
                    now += (random >> shift).unsigned_abs();
                    budget = if pick % 2 == 0 { usize::MAX } else { 1 + pick % 4 };
                }
                (-1, _) if wheel.next_deadline().is_none() => break,
                _ => {
                    if let Some(wake) = wheel.next_deadline() {
                        now = now.max(wake.nanos());
                        (wakes, budget) = (wakes + 1, usize::MAX);
                    }
                }
            }
            let (floor, mut last) = (wheel.cursor, 0);
            for _ in 0..budget {
                let Some(Expired { id, deadline }) = wheel.expire(at(now)) else {
                    assert!(soonest(&model).is_none_or(|deadline| deadline > now), "late");
                    break;
                };
                let known = model.get_mut(&id).expect("not stale").take().expect("not handed out twice");
                assert!(deadline == at(known) && known <= now, "early");
                assert!(known.max(floor) >= last, "out of order");
                last = known.max(floor);
                // A third ends, a third is periodic, a third is answered by a later step or never.
                let (part, next) = (wheel.get(id).expect("allocated") % 3, now + 1 + pick as u64 % 50_000);
                if part == 0 {
                    assert!(model.remove(&id).is_some() && wheel.remove(id).is_some());
                } else if part == 1 && kind >= 0 {
                    model.insert(id, Some(next));
                    assert!(wheel.reset(id, at(next)));
                    armed += 1;
                }
            }
            let (sleep, due) = (wheel.next_deadline(), soonest(&model).map(at));
            assert!(sleep.is_some() == due.is_some() && sleep <= due, "slept too long");
            assert!(sleep.is_none() || sleep > Some(at(now)) || due <= Some(at(now)), "woken for nobody");
            assert_eq!(wheel.len(), model.len());
        }
        assert!(soonest(&model).is_none() && wakes <= armed, "{} wakes, {} armings", wakes, armed);
    }
}

#[cfg(test)]
mod tests {
    use super::property::the_wheel_agrees_with_a_map_searched_whole;
    use super::*;
    use proptest::prelude::*;

    /// A wheel, and times in nanoseconds from its start.
    fn wheel<T>() -> (Wheel<T>, impl Fn(u64) -> Moment) {
        (Wheel::new(Moment::from_nanos(0)), Moment::from_nanos)
    }

    /// Expires and ends everything that is due.
    fn run<T>(wheel: &mut Wheel<T>, now: Moment) -> Vec<T> {
        std::iter::from_fn(|| wheel.expire(now).and_then(|expired| wheel.remove(expired.id))).collect()
    }

    #[test]
    fn a_timer_is_due_at_its_very_nanosecond_and_not_before() {
        for after in (0..62).map(|bit| 1 << bit).flat_map(|power| [power, power + 1, 2 * power - 1]) {
            let (mut wheel, at) = wheel();
            wheel.insert(at(after), ());
            assert_eq!(wheel.next_deadline(), Some(at(after)));
            assert_eq!(wheel.expire(at(after - 1)), None);
            assert_eq!(wheel.expire(at(after)).map(|expired| expired.deadline), Some(at(after)));
            assert_eq!(wheel.moves, 1, "a timer that is alone moves once");
        }
    }

    #[test]
    fn timers_come_in_the_order_of_deadlines_then_of_insertion() {
        let (mut wheel, at) = wheel();
        for (name, after) in [("c", 900_000), ("a", 5), ("d", 900_000), ("b", 70_000), ("e", 1_000_000)] {
            wheel.insert(at(after), name);
        }
        assert_eq!(run(&mut wheel, at(900_000)), ["a", "b", "c", "d"]);
        wheel.insert(at(80), "missed");
        wheel.insert(at(7), "missed too");
        assert_eq!(wheel.next_deadline(), Some(at(7)));
        assert_eq!(run(&mut wheel, at(1_000_000)), ["missed", "missed too", "e"]);
    }

    #[test]
    fn an_old_id_finds_no_later_timer_and_a_slot_without_new_ids_is_retired() {
        let (mut wheel, at) = wheel();
        let old = wheel.insert(at(1), "old");
        assert_eq!(wheel.remove(old), Some("old"));
        assert!(!wheel.reset(old, at(2)), "a vacant slot");
        let new = wheel.insert(at(1), "new");
        assert_eq!((wheel.remove(old), wheel.reset(old, at(2)), wheel.get(old)), (None, false, None));
        assert_eq!((wheel.get(new), new.slot), (Some(&"new"), old.slot));
        wheel.entries[new.slot as usize].generation = u32::MAX;
        let last = TimerId { slot: new.slot, generation: u32::MAX };
        assert_eq!(wheel.remove(last), Some("new"));
        assert_eq!((wheel.remove(last), wheel.reset(last, at(1)), wheel.get(last)), (None, false, None));
        assert_ne!(wheel.insert(at(1), "next").slot, last.slot);
        assert_eq!(size_of::<Entry<Box<dyn FnOnce()>>>(), 40);
    }

    #[test]
    fn a_clock_that_goes_backwards_changes_nothing() {
        let (mut wheel, at) = wheel();
        wheel.insert(at(50), "a");
        wheel.insert(at(200), "b");
        assert_eq!(run(&mut wheel, at(100)), ["a"]);
        wheel.insert(at(99), "c");
        assert_eq!(run(&mut wheel, at(1)), ["c"]);
        assert_eq!(run(&mut wheel, at(200)), ["b"]);
    }

    #[test]
    fn deadlines_outside_the_wheels_span_count_as_its_ends() {
        let at = Moment::from_nanos;
        let mut wheel = Wheel::new(at(1000));
        wheel.insert(at(7), "past");
        wheel.insert(at(u64::MAX), "far");
        assert!(wheel.next_deadline() <= Some(at(1000)));
        assert_eq!(run(&mut wheel, at(1000)), ["past"]);
        assert_eq!(wheel.next_deadline(), Some(at(u64::MAX)));
        assert_eq!(run(&mut wheel, at(u64::MAX - 1)), [""; 0]);
        assert_eq!(run(&mut wheel, at(u64::MAX)), ["far"]);
    }

    #[test]
    fn a_crowd_in_sixteen_microseconds_is_not_searched_at_every_look() {
        let (mut wheel, at) = wheel();
        let (crowd, hour) = (20_000, 3_600_000_000_000);
        for n in 0..crowd {
            wheel.insert(at(hour + n * 7919 % 16_384), n);
        }
        let fired: usize = (0..16_384).map(|now| run(&mut wheel, at(hour + now)).len()).sum();
        assert_eq!(fired, crowd as usize);
        // The first opening finds them 16,384 ns apart, which is three digits: three levels more to go down.
        assert!(wheel.moves <= 4 * fired, "{} moves", wheel.moves);
    }

    #[test]
    fn a_time_out_pushed_back_a_million_times_moves_once_and_wakes_once_for_nothing() {
        let (mut wheel, at) = wheel();
        let minute = 60_000_000_000;
        let id = wheel.insert(at(minute), ());
        assert!((1..=1_000_000).all(|message| wheel.reset(id, at(minute + message))));
        assert_eq!((wheel.next_deadline(), wheel.moves), (Some(at(minute)), 0));
        assert_eq!(wheel.expire(at(minute)), None);
        assert_eq!((wheel.next_deadline(), wheel.moves), (Some(at(minute + 1_000_000)), 1));
    }

    #[test]
    fn a_cancelled_timer_that_was_due_does_not_keep_the_loop_awake() {
        let (mut wheel, at) = wheel();
        assert_eq!(wheel.expire(at(1_000_000)), None);
        let due = wheel.insert(at(999_000), "due");
        wheel.insert(at(1_000_900), "neighbour in its bucket");
        wheel.insert(at(9_000_000), "another");
        assert_eq!(wheel.next_deadline(), Some(at(999_000)));
        wheel.remove(due);
        assert_eq!(wheel.next_deadline(), Some(at(1_000_900)));
    }

    proptest! {
        #[test]
        fn any_steps_agree(steps in prop::collection::vec((0..11, any::<usize>(), any::<i64>(), 17..63_u32), 1..300)) {
            the_wheel_agrees_with_a_map_searched_whole(steps);
        }
    }
}
