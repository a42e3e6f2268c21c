//! What one thread allocates: a global allocator that counts, for the binaries that measure memory.
//!
//! A binary that uses it says `#[global_allocator] static COUNTING: Counting = Counting;`. The counts belong to a
//! thread, so that neither the harness nor another test is counted; a reactor's thread is all there is to it.
#![expect(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with a count of what passes through.
pub struct Counting;

/// Bytes that this thread has asked for and not given back.
pub fn live_bytes() -> isize {
    BYTES.get()
}

/// How often this thread has asked for memory, or for more of it.
pub fn calls() -> usize {
    CALLS.get()
}

fn count(bytes: isize, calls: usize) {
    BYTES.set(BYTES.get() + bytes);
    CALLS.set(CALLS.get() + calls);
}

// SAFETY: every call is passed to the system's allocator as it came; the counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize, 1);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize), 0);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
