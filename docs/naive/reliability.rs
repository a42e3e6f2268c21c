//! A loop that was tested with every error that could be had, and how it goes wrong by those that could not. The
//! chapter docs/reliability.md tells the story.
//!
//! ```text
//! cargo run --example naive-reliability
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

#[allow(dead_code, reason = "a test runs the two parts without it")]
fn main() -> io::Result<()> {
    print!("{}{}", what_can_be_had()?, every_call_in_turn());
    Ok(())
}

const SAID: &[u8] = b"how much load may she take";

/// Carries a stream from one place to another, in pieces of ten bytes: until its end, or until it is broken.
fn carry(from: &mut impl Read, to: &mut impl Write) -> Result<(), ErrorKind> {
    let mut piece = [0; 10];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => drop(to.write(&piece[..n]).map_err(|e| e.kind())?),
            Err(e) => return Err(e.kind()),
        }
    }
}

/// The tests that one writes: real sockets, and the errors that they can be brought to.
pub fn what_can_be_had() -> io::Result<String> {
    let mut story = String::new();
    let mut arrived = Vec::new();
    let (mut ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(SAID)?;
    drop(theirs);
    let end = carry(&mut ours, &mut arrived);
    story += &format!("a stream and its end: {end:?}, {} of {} bytes\n", arrived.len(), SAID.len());

    let (mut ours, theirs) = UnixStream::pair()?;
    ours.write_all(b"never read")?;
    drop(theirs);
    story += &format!("the source is reset: {:?}\n", carry(&mut ours, &mut Vec::new()));

    let (mut ours, theirs) = UnixStream::pair()?;
    drop(theirs);
    story += &format!("the target is gone: {:?}\n", carry(&mut &SAID[..], &mut ours));
    Ok(story)
}

/// Fails one call of a kind, or cuts it to one byte; the others go through.
struct Seam<T> {
    inner: T,
    calls: usize,
    nth: usize,
    /// `None` is a cut.
    answer: Option<ErrorKind>,
}

impl<T> Seam<T> {
    fn new(inner: T, nth: usize, answer: Option<ErrorKind>) -> Seam<T> {
        Seam { inner, calls: 0, nth, answer }
    }

    /// How many of `n` bytes this call may move.
    fn limit(&mut self, n: usize) -> io::Result<usize> {
        self.calls += 1;
        match self.answer {
            Some(kind) if self.calls == self.nth => Err(kind.into()),
            None if self.calls == self.nth => Ok(1),
            _ => Ok(n),
        }
    }
}

impl<T: Read> Read for Seam<T> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let limit = self.limit(piece.len())?;
        self.inner.read(&mut piece[..limit])
    }
}

impl<T: Write> Write for Seam<T> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let limit = self.limit(piece.len())?;
        self.inner.write(&piece[..limit])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The first, second, … call is interrupted by a signal or cut short, until a play has no such call.
pub fn every_call_in_turn() -> String {
    let mut story = String::new();
    for (name, answer) in [("interrupted", Some(ErrorKind::Interrupted)), ("one byte", None)] {
        for (call, nth) in (1..=8).flat_map(|nth| [("read", nth), ("write", nth)]) {
            let never = usize::MAX;
            let mut from = Seam::new(SAID, if call == "read" { nth } else { never }, answer);
            let mut to = Seam::new(Vec::new(), if call == "write" { nth } else { never }, answer);
            let end = carry(&mut from, &mut to);
            if to.inner != SAID {
                story += &format!("{call} #{nth}, {name}: {end:?}, {} of {} bytes\n", to.inner.len(), SAID.len());
            }
        }
    }
    story
}
