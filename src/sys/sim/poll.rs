//! epoll, as it really behaves.
//!
//! ```text
//!   something happens to a node ── wake(key) ──► its watches ── the key is asked for? ──► ready list
//!   wait ──► ready list ──► poll: what is true of the node *now* ──► reported, if anything asked for is
//!                              └─ level-triggered: back into the list     edge-triggered: out of it
//! ```
//!
//! Two things follow that surprise. An edge reports everything that is true by then, not only what woke it: input
//! and the peer's end come as one. And a wake for something that was not asked for is none, but a change of state
//! (key 0) wakes everybody. See `ep_poll_callback` and `ep_send_events` in the kernel's fs/eventpoll.c.

use super::kernel::{Errno, Id, Kernel, What};
use crate::sys::epoll::{EDGE, ERR, HUP, IN};
use std::collections::VecDeque;
use std::os::fd::RawFd;

/// Watches that are to be looked at, in the order in which they were woken.
pub type Ready = VecDeque<u32>;

/// What one epoll instance was asked about one node.
#[derive(Debug)]
pub struct Watch {
    epoll: Id,
    fd: RawFd,
    node: Id,
    flags: u32,
    data: u64,
    /// In the ready list.
    queued: bool,
}

impl Kernel {
    /// epoll_ctl(2).
    ///
    /// # Errors
    /// EEXIST, ENOENT, EPERM, EBADF.
    pub fn control(&mut self, epoll: Id, op: i32, fd: RawFd, flags: u32, data: u64) -> Result<(), Errno> {
        let node = self.find(fd)?;
        let known = self.watch_of(epoll, node, fd);
        let index = match (op, known) {
            (libc::EPOLL_CTL_ADD, Some(_)) => return Err(libc::EEXIST),
            (libc::EPOLL_CTL_ADD, None) => {
                if matches!(self.node(node).map(|node| &node.what), Some(What::Spare)) {
                    return Err(libc::EPERM);
                }
                let index =
                    self.watches.insert(Watch { epoll, fd, node, flags: flags | ERR | HUP, data, queued: false })
                        as u32;
                self.node_mut(node).ok_or(libc::EBADF)?.watchers.push(index);
                index
            }
            (_, None) => return Err(libc::ENOENT),
            (libc::EPOLL_CTL_DEL, Some(index)) => {
                self.forget(index);
                return Ok(());
            }
            (_, Some(index)) => {
                let watch = &mut self.watches[index as usize];
                (watch.flags, watch.data) = (flags | ERR | HUP, data);
                index
            }
        };
        if self.poll(node) & self.watches[index as usize].flags != 0 {
            self.enqueue(index);
        }
        Ok(())
    }

    fn watch_of(&self, epoll: Id, node: Id, fd: RawFd) -> Option<u32> {
        let of = |index: &&u32| {
            let watch = &self.watches[**index as usize];
            watch.epoll == epoll && watch.fd == fd
        };
        self.node(node)?.watchers.iter().find(of).copied()
    }

    fn enqueue(&mut self, index: u32) {
        let watch = &mut self.watches[index as usize];
        if !std::mem::replace(&mut watch.queued, true) {
            let epoll = watch.epoll;
            if let Some(What::Epoll(ready)) = self.node_mut(epoll).map(|node| &mut node.what) {
                ready.push_back(index);
            }
        }
    }

    /// Something has happened to a node: `key` says what, 0 that its state has changed.
    pub fn wake(&mut self, id: Id, key: u32) {
        let mut nth = 0;
        while let Some(index) = self.node(id).and_then(|node| node.watchers.get(nth).copied()) {
            nth += 1;
            if key == 0 || self.watches[index as usize].flags & key != 0 {
                self.enqueue(index);
            }
        }
    }

    /// Reports what is ready, at most `max`; the answer is how many.
    pub fn collect(&mut self, epoll: Id, max: usize, report: &mut impl FnMut(usize, u32, u64)) -> usize {
        let mut waiting = self.ready(epoll).map_or(0, |ready| ready.len());
        let max = if self.weather.unordered && waiting > 1 {
            // What happens to others may also have happened a moment after this call.
            max.min(1 + self.chance.below(2 * waiting as u64) as usize)
        } else {
            max
        };
        let mut found = 0;
        // What is told as a state stands in line again, but no call tells it twice.
        let mut again = Vec::new();
        while found < max && waiting > 0 {
            waiting -= 1;
            let Some(index) = self.next_ready(epoll) else { break };
            let (node, flags, data) = {
                let watch = &mut self.watches[index as usize];
                watch.queued = false;
                (watch.node, watch.flags, watch.data)
            };
            let told = self.poll(node) & flags;
            if told == 0 {
                continue;
            }
            report(found, told, data);
            found += 1;
            if flags & EDGE == 0 {
                again.push(index);
            }
        }
        again.into_iter().for_each(|index| self.enqueue(index));
        found
    }

    fn next_ready(&mut self, epoll: Id) -> Option<u32> {
        if self.weather.unordered {
            let len = self.ready(epoll)?.len() as u64;
            let nth = self.chance.below(len) as usize;
            self.ready(epoll)?.swap(0, nth);
        }
        self.ready(epoll)?.pop_front()
    }

    fn ready(&mut self, epoll: Id) -> Option<&mut Ready> {
        match self.node_mut(epoll).map(|node| &mut node.what) {
            Some(What::Epoll(ready)) => Some(ready),
            _ => None,
        }
    }

    /// What is true of a node now.
    pub fn poll(&mut self, id: Id) -> u32 {
        match self.node_mut(id).map(|node| &mut node.what) {
            Some(What::Stream(_)) => self.poll_stream(id),
            Some(What::Datagram(datagram)) => datagram.poll(),
            Some(What::Bell(0)) => crate::sys::epoll::OUT,
            Some(What::Bell(_)) => IN | crate::sys::epoll::OUT,
            Some(What::Epoll(ready)) if !ready.is_empty() => IN,
            Some(What::Epoll(_) | What::Spare) | None => 0,
        }
    }

    fn forget(&mut self, index: u32) {
        let watch = self.watches.remove(index as usize);
        if let Some(node) = self.node_mut(watch.node) {
            node.watchers.retain(|other| *other != index);
        }
        if watch.queued
            && let Some(ready) = self.ready(watch.epoll)
        {
            ready.retain(|other| *other != index);
        }
    }

    /// Nobody waits for a node any more: its last descriptor is closed.
    pub fn unwatch(&mut self, id: Id) {
        while let Some(index) = self.node(id).and_then(|node| node.watchers.last().copied()) {
            self.forget(index);
        }
    }

    pub fn close_epoll(&mut self, id: Id) {
        let own: Vec<u32> =
            self.watches.iter().filter(|(_, watch)| watch.epoll == id).map(|(index, _)| index as u32).collect();
        own.into_iter().for_each(|index| self.forget(index));
        self.free(id);
    }
}
