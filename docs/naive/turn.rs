//! Two loops as one would write them at first, and how they go wrong. The chapter docs/turn.md tells the story.
//!
//! ```text
//! cargo run --example naive-turn
//! ```

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

#[allow(dead_code, reason = "a test runs the two parts without it")]
fn main() -> io::Result<()> {
    print!("{}{}", stranger()?, reentry());
    Ok(())
}

/// A loop that knows sockets by their descriptors, and closes them where it finds out that they are over.
struct Naive {
    epoll: Epoll,
    sockets: HashMap<RawFd, (&'static str, UnixStream)>,
    story: String,
}

impl Naive {
    /// Lets a user in; gives back the user's end, and the descriptor of ours.
    fn let_in(&mut self, name: &'static str) -> io::Result<(UnixStream, RawFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let fd = ours.as_raw_fd();
        self.epoll.add(&ours, EpollEvent::new(EpollFlags::EPOLLIN, fd as u64))?;
        self.sockets.insert(fd, (name, ours));
        Ok((theirs, fd))
    }

    /// The callback: what a user has said is done at once.
    fn on_event(&mut self, fd: RawFd, bob: RawFd) -> io::Result<Option<UnixStream>> {
        let Some((name, socket)) = self.sockets.get_mut(&fd) else { return Ok(None) };
        let name = *name;
        let mut said = [0; 64];
        match socket.read(&mut said) {
            Ok(n) if said[..n] == *b"kick bob" => {
                self.story += &format!("{name} says \"kick bob\": bob is closed, and carol is let in\n");
                self.sockets.remove(&bob);
                let (carols_end, carol) = self.let_in("carol")?;
                if carol == bob {
                    self.story += "carol has the descriptor that bob had\n";
                }
                return Ok(Some(carols_end));
            }
            Ok(n) => self.story += &format!("{name} says {:?}\n", String::from_utf8_lossy(&said[..n])),
            Err(e) => {
                self.story += &format!("an event for {name}, but reading says: {}; {name} is closed\n", e.kind());
                self.sockets.remove(&fd);
            }
        }
        Ok(None)
    }
}

/// The event of a closed socket reaches a stranger.
pub fn stranger() -> io::Result<String> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut naive = Naive { epoll, sockets: HashMap::new(), story: String::new() };
    let (mut alice, _) = naive.let_in("alice")?;
    let (mut bobs_end, bob) = naive.let_in("bob")?;
    alice.write_all(b"kick bob")?;
    bobs_end.write_all(b"hello")?;

    let mut events = [EpollEvent::empty(); 8];
    let n = naive.epoll.wait(&mut events, EpollTimeout::ZERO)?;
    naive.story += &format!("one wait brings {n} events, alice's and bob's\n");
    let mut open = Vec::new();
    for event in &events[..n] {
        open.extend(naive.on_event(event.data() as RawFd, bob)?);
    }
    Ok(naive.story)
}

/// Users of a chat, each of which a callback may want to write to.
type Room = Rc<RefCell<Vec<&'static str>>>;

/// The callback of one connection calls the callback of another one, which wants what the first one holds.
pub fn reentry() -> String {
    let room: Room = Rc::new(RefCell::new(vec!["alice", "bob"]));
    let mut story = String::from("alice's on_data writes to everybody\n");
    let users = room.borrow_mut();
    for user in users.iter() {
        // Writing to bob fails: he is gone. So `write` calls his `on_close`, here and now.
        if *user == "bob" {
            story += &on_close("bob", &room);
        }
    }
    story
}

fn on_close(user: &str, room: &Room) -> String {
    match room.try_borrow_mut() {
        Ok(mut users) => {
            users.retain(|other| *other != user);
            format!("{user}'s on_close strikes him off the list\n")
        }
        Err(_) => format!("{user}'s on_close, called inside of it, cannot strike him off: the list is being walked\n"),
    }
}
