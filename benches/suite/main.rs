//! The suite: Plimsoll, tokio, mio and a bare epoll loop, side by side.

mod result;

fn main() {}
