//! epoll, and the bell that ends its sleep.

use super::super::chance;
use super::super::kernel::{FIRST, Waited, What};
use super::super::poll::Ready;
use super::super::with;
use super::{call, on, own, unit};
use crate::sys::Fd;
use crate::sys::clock::Moment;
use crate::sys::epoll::{Epoll, Event};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

pub fn epoll_create() -> Option<io::Result<Epoll>> {
    let made = call(19, |kernel| {
        kernel.enter();
        let id = kernel.make(What::Epoll(Ready::default()));
        kernel.install(id).map(own)
    });
    made.map(|fd| fd.map(Epoll::from_fd))
}

pub fn epoll_control(epoll: &Fd, operation: libc::c_int, fd: &Fd, flags: u32, data: u64) -> Option<io::Result<()>> {
    on(20, epoll, unit, |kernel, id| {
        if operation == libc::EPOLL_CTL_ADD && kernel.chance.once_in(kernel.weather.shortages) {
            return Err(libc::ENOSPC);
        }
        kernel.control(id, operation, fd.raw(), flags, data)
    })
}

pub fn epoll_wait(epoll: &Epoll, events: &mut [Event], timeout: Option<Duration>) -> Option<io::Result<usize>> {
    let fd = epoll.as_fd().as_raw_fd();
    if fd < FIRST {
        return None;
    }
    let deadline = with(|kernel| {
        kernel.enter();
        kernel.count_wait();
        timeout.map(|timeout| (Moment::from_nanos(kernel.now) + timeout).nanos())
    })?;
    loop {
        let waited = with(|kernel| {
            let epoll = kernel.find(fd)?;
            let mut told = 0u64;
            let waited = kernel.wait(epoll, events.len(), deadline, |n, flags, data| {
                events[n] = Event::new(flags, data);
                told = chance::mixed(told ^ u64::from(flags) ^ data << 8);
            });
            if !matches!(waited, Ok(Waited::Errand(_))) {
                kernel.leave(21, told);
            }
            waited
        })?;
        match waited {
            Ok(Waited::Events(n)) => return Some(Ok(n)),
            Ok(Waited::Errand(errand)) => errand(),
            Err(errno) => return Some(Err(io::Error::from_raw_os_error(errno))),
        }
    }
}

pub fn bell() -> Option<io::Result<Fd>> {
    call(22, |kernel| {
        kernel.enter();
        let id = kernel.make(What::Bell(0));
        kernel.install(id).map(own)
    })
}

pub fn ring(bell: &Fd) -> Option<io::Result<()>> {
    on(23, bell, unit, |kernel, id| kernel.ring(id))
}
