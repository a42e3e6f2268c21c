//! The output queue: bytes accepted from the handler and not yet by the kernel.
//!
//! The problem: handlers send in every size, from a one-byte reply to a shared megabyte, and the kernel takes
//! what it has room for. Small pieces are packed, so that sixteen replies make one write and cost no
//! allocation each; large owned pieces are linked, so that they are never copied.
//!
//! ```text
//!    oldest                                                      newest
//!   ┌──────────┬───────────────────┬────────────┬────────────────────────────┐
//!   │ ▒▒ sealed│  linked (Bytes)   │   sealed   │ tail: packed, still growing│
//!   └──────────┴───────────────────┴────────────┴────────────────────────────┘
//!    ▒▒ taken by the kernel           └── a full tail is sealed and stands in line like a linked piece
//! ```
//!
//! The rule that is kept: bytes leave in the order in which they came, each once. The queue knows no socket
//! and makes no system call: a connection offers [`Output::slices`] to the kernel and reports back what was
//! taken with [`Output::advance`].
//!
//! Connections with nothing to send own no queue. The few that are in use at a time circulate through
//! [`OutputPool`], so that an echo allocates nothing.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

/// From this size on, owned data is linked and not copied: about where a copy costs as much as an entry in
/// the queue does.
pub(crate) const LINK_MIN_BYTES: usize = 1024;

/// A tail that has reached this size is sealed and a new one is begun, so that memory is given back piece by
/// piece while a long queue drains.
const TAIL_BYTES: usize = 32 * 1024;

/// First allocation of a tail that is not from the pool.
const TAIL_FIRST_BYTES: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Before the tail, oldest first. No piece is empty.
    sealed: VecDeque<Bytes>,
    /// The newest bytes. `tail[..tail_taken]` is the kernel's already.
    tail: Vec<u8>,
    tail_taken: usize,
    /// Bytes not yet taken, in `sealed` and `tail` together.
    queued: usize,
    /// How many sealed pieces, counted from the newest, may lie in the loop's read buffer. See [`Output::own`].
    borrowed: usize,
}

impl Output {
    /// Appends a copy of `data`.
    #[inline]
    pub fn push_copy(&mut self, data: &[u8]) {
        if self.tail.len() + data.len() > self.tail.capacity() {
            self.make_room(data.len());
        }
        self.tail.extend_from_slice(data);
        self.queued += data.len();
    }

    /// Appends `data` itself. `borrowed` says that it lies in the read buffer, so that it must be taken by the
    /// kernel, or made our own, before the next read.
    pub fn push_shared(&mut self, data: Bytes, borrowed: bool) {
        if data.is_empty() {
            return;
        }
        self.seal_tail();
        self.queued += data.len();
        self.sealed.push_back(data);
        // Everything behind a borrowed piece counts as borrowed: the count runs from the newest.
        if borrowed || self.borrowed > 0 {
            self.borrowed += 1;
        }
    }

    /// Forgets the oldest `n` bytes: the kernel has them.
    ///
    /// # Panics
    /// When `n` is more than is queued.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.queued, "the kernel takes no more than was offered");
        self.queued -= n;
        if self.sealed.is_empty() {
            self.tail_taken += n;
        } else {
            self.advance_sealed(n);
        }
        if self.queued == 0 {
            self.tail.clear();
            self.tail_taken = 0;
        }
    }

    /// Copies every piece that lies within `borrowed` (addresses of the read buffer) into memory of its own.
    ///
    /// Without it a one-kilobyte reply could keep a read buffer of 64 KiB alive, and the limits, which count
    /// bytes, would be wrong by that factor.
    pub fn own(&mut self, borrowed: &Range<usize>) {
        let count = std::mem::take(&mut self.borrowed).min(self.sealed.len());
        let first = self.sealed.len() - count;
        for piece in self.sealed.range_mut(first..) {
            if borrowed.contains(&(piece.as_ptr() as usize)) {
                *piece = Bytes::copy_from_slice(piece);
            }
        }
    }

    /// Trims what waits to about its size, for a queue that will be kept for a while.
    pub fn settle(&mut self) {
        let waiting = self.tail.len() - self.tail_taken;
        if self.tail.capacity() > 2 * waiting.max(TAIL_FIRST_BYTES) {
            self.tail = self.tail[self.tail_taken..].to_vec();
            self.tail_taken = 0;
        }
    }

    /// Takes everything that waits, oldest first.
    pub fn take_pieces(&mut self) -> Vec<Bytes> {
        self.seal_tail();
        self.queued = 0;
        self.borrowed = 0;
        self.sealed.drain(..).collect()
    }

    #[inline]
    pub fn queued(&self) -> usize {
        self.queued
    }

    #[inline]
    pub fn is_borrowing(&self) -> bool {
        self.borrowed > 0
    }

    /// All that waits if it stands in one piece, which is the common case and needs no scatter list.
    #[inline]
    pub fn single(&self) -> Option<&[u8]> {
        if self.sealed.is_empty() {
            return Some(&self.tail[self.tail_taken..]);
        }
        if self.sealed.len() == 1 && self.tail.is_empty() { self.sealed.front().map(|piece| &piece[..]) } else { None }
    }

    /// Fills `slices` with what waits, oldest first; returns how many slices were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(&self.tail[self.tail_taken..]).filter(|tail| !tail.is_empty());
        let pieces = self.sealed.iter().map(|piece| &piece[..]).chain(tail);
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// Bytes of memory, whatever lies in it.
    #[inline]
    fn footprint(&self) -> usize {
        size_of::<Output>() + self.tail.capacity() + self.sealed.capacity() * size_of::<Bytes>()
    }

    fn advance_sealed(&mut self, mut n: usize) {
        while let Some(piece) = self.sealed.front_mut() {
            if n < piece.len() {
                piece.advance(n);
                return;
            }
            n -= piece.len();
            self.sealed.pop_front();
        }
        self.borrowed = 0;
        self.tail_taken += n;
    }

    /// The tail is at its capacity: let it grow up to [`TAIL_BYTES`], then seal it and begin another.
    #[cold]
    fn make_room(&mut self, more: usize) {
        if self.tail.len() + more > TAIL_BYTES && self.tail.len() > self.tail_taken {
            self.seal_tail();
        }
        self.tail.reserve(more.max(TAIL_FIRST_BYTES));
    }

    fn seal_tail(&mut self) {
        let taken = std::mem::take(&mut self.tail_taken);
        if self.tail.len() == taken {
            self.tail.clear();
            return;
        }
        let mut piece = Bytes::from(std::mem::take(&mut self.tail));
        piece.advance(taken);
        self.sealed.push_back(piece);
        if self.borrowed > 0 {
            self.borrowed += 1;
        }
    }
}

/// Drained queues, kept for the next connection that has something to send.
#[derive(Debug, Default)]
pub(crate) struct OutputPool {
    // Boxed, so that a queue changes hands by its pointer and an idle connection holds eight bytes.
    #[expect(clippy::vec_box)]
    spare: Vec<Box<Output>>,
    /// What the spare ones hold, at most [`POOL_BYTES`].
    bytes: usize,
}

/// What an idle loop holds in drained queues. In one dispatch one queue is in use, but a message to many subscribers
/// uses one each until the turn settles, and none of ten thousand should cost an allocation each time.
const POOL_BYTES: usize = 4 * 1024 * 1024;

/// A queue with more memory than this is not kept: one burst would leave no room for the others.
const POOL_TAIL_BYTES: usize = 64 * 1024;

/// Entries of a kept queue's list, likewise.
const POOL_SEALED_LEN: usize = 64;

impl OutputPool {
    #[inline]
    pub fn take(&mut self) -> Box<Output> {
        let Some(output) = self.spare.pop() else { return Box::default() };
        self.bytes -= output.footprint();
        output
    }

    #[inline]
    pub fn put(&mut self, output: Box<Output>) {
        debug_assert_eq!(output.queued, 0, "only a drained queue changes hands");
        let fits = output.tail.capacity() <= POOL_TAIL_BYTES && output.sealed.capacity() <= POOL_SEALED_LEN;
        let bytes = self.bytes + output.footprint();
        if fits && bytes <= POOL_BYTES {
            self.bytes = bytes;
            self.spare.push(output);
        }
    }
}

/// What holds of any queue, for the tests and for a fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod property {
    use super::*;

    #[derive(Debug, Clone)]
    pub enum Step {
        Copy(usize),
        Link(usize),
        /// From where in the read buffer, of [`READ_BUFFER_BYTES`], and how much of it.
        Borrow(usize, usize),
        Advance(usize),
        Own,
        Settle,
    }

    pub const READ_BUFFER_BYTES: usize = 8192;

    /// So many steps make no more pieces than [`contents`] sees.
    pub const STEPS_MAX: usize = 30;

    pub fn contents(output: &Output) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = output.slices(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    /// Against the simplest model there is: one vector of bytes.
    pub fn the_queue_agrees_with_a_plain_vector(steps: impl IntoIterator<Item = Step>) {
        let mut output = Output::default();
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut next = 0u8;
        let mut fresh = |n: usize| -> Vec<u8> {
            let step = |_| {
                next = next.wrapping_mul(5).wrapping_add(1);
                next
            };
            (0..n).map(step).collect()
        };
        let read_buffer = Bytes::from(fresh(READ_BUFFER_BYTES));
        let start = read_buffer.as_ptr() as usize;
        let range = start..start + read_buffer.len();
        for step in steps.into_iter().take(STEPS_MAX) {
            match step {
                Step::Copy(n) => {
                    let data = fresh(n);
                    output.push_copy(&data);
                    model.extend(data);
                }
                Step::Link(n) => {
                    let data = fresh(n);
                    model.extend(&data);
                    output.push_shared(data.into(), false);
                }
                Step::Borrow(from, len) => {
                    let data = read_buffer.slice(from..from + len);
                    model.extend(&data[..]);
                    output.push_shared(data, true);
                }
                Step::Advance(n) => {
                    let n = n.min(output.queued());
                    output.advance(n);
                    model.drain(..n);
                }
                Step::Own => {
                    output.own(&range);
                    assert!(read_buffer.is_unique());
                }
                Step::Settle => output.settle(),
            }
            assert_eq!(output.queued(), model.len());
            assert!(model.make_contiguous() == contents(&output));
        }
        let rest: Vec<u8> = output.take_pieces().concat();
        assert!(model.iter().eq(rest.iter()));
        assert_eq!(output.queued(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::property::{Step, contents, the_queue_agrees_with_a_plain_vector};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sixteen_small_sends_stand_in_one_piece() {
        let mut output = Output::default();
        for _ in 0..16 {
            output.push_copy(&[7; 64]);
        }
        assert_eq!(output.single().map(<[u8]>::len), Some(1024));
    }

    #[test]
    fn a_linked_piece_is_not_copied() {
        let mut output = Output::default();
        let data = Bytes::from(vec![1; 4096]);
        let address = data.as_ptr();
        output.push_shared(data, false);
        assert_eq!(output.single().map(<[u8]>::as_ptr), Some(address));
    }

    #[test]
    fn a_piece_of_the_read_buffer_is_made_our_own_and_others_are_left() {
        let mut output = Output::default();
        let elsewhere = Bytes::from(vec![1; 2000]);
        let read_buffer = Bytes::from(vec![2; 2000]);
        let range = read_buffer.as_ptr() as usize..read_buffer.as_ptr() as usize + read_buffer.len();
        let kept = elsewhere.as_ptr();
        output.push_shared(elsewhere, false);
        output.push_shared(read_buffer.slice(100..1900), true);
        output.push_copy(b"tail");
        assert!(output.is_borrowing());
        output.own(&range);
        assert!(!output.is_borrowing());
        assert!(read_buffer.is_unique(), "nothing holds the read buffer any more");
        assert_eq!(output.sealed[0].as_ptr(), kept);
        assert_eq!(output.queued(), 2000 + 1800 + 4);
    }

    #[test]
    fn a_settled_queue_holds_about_what_waits() {
        let mut output = Output::default();
        output.push_copy(&[0; 30_000]);
        output.advance(29_900);
        output.settle();
        assert!(output.tail.capacity() <= 2 * TAIL_FIRST_BYTES);
        assert_eq!(contents(&output).len(), 100);
    }

    #[test]
    fn the_pool_keeps_neither_much_memory_nor_large_queues() {
        let with_tail = |bytes: usize| {
            let mut output = Box::new(Output::default());
            output.push_copy(&vec![0; bytes]);
            output.advance(bytes);
            output
        };
        let mut pool = OutputPool::default();
        for _ in 0..2 * POOL_BYTES / POOL_TAIL_BYTES {
            pool.put(with_tail(POOL_TAIL_BYTES));
        }
        assert!(pool.bytes <= POOL_BYTES && pool.bytes > POOL_BYTES - 2 * POOL_TAIL_BYTES);
        while !pool.spare.is_empty() {
            pool.take();
        }
        assert_eq!(pool.bytes, 0);
        pool.put(with_tail(2 * POOL_TAIL_BYTES));
        assert!(pool.spare.is_empty());
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..3000usize).prop_map(Step::Copy),
            (0..40_000usize).prop_map(Step::Copy),
            (0..5000usize).prop_map(Step::Link),
            (0..4096usize, 0..4096usize).prop_map(|(from, len)| Step::Borrow(from, len)),
            (0..50_000usize).prop_map(Step::Advance),
            Just(Step::Own),
            Just(Step::Settle),
        ];
        prop::collection::vec(step, 0..30)
    }

    proptest! {
        #[test]
        fn any_steps_agree(steps in steps()) {
            the_queue_agrees_with_a_plain_vector(steps);
        }
    }
}
