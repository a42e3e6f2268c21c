//! Mail and offloaded work of a random program: each once, in order, and refused only when there is no room.

use super::app::App;
use crate::net::Net;

/// Letters, by number.
#[derive(Debug, Default)]
pub struct Post {
    limit: usize,
    accepted: u32,
    read: u32,
    /// Work that was taken, and work whose result has come.
    begun: u32,
    done: u32,
    pub wrong: Option<String>,
}

impl Post {
    pub fn new(limit: usize) -> Post {
        Post { limit, ..Post::default() }
    }

    /// The number of the next letter.
    pub fn next(&self) -> u32 {
        self.accepted
    }

    fn unfinished(&self) -> usize {
        (self.begun - self.done) as usize
    }

    /// Whether the box took it. Results of work lie in it too.
    pub fn posted(&mut self, taken: bool) {
        let (waiting, results) = ((self.accepted - self.read) as usize, self.unfinished());
        self.accepted += u32::from(taken);
        if taken && waiting >= self.limit || !taken && waiting + results < self.limit {
            self.wrong = Some(format!("{waiting} letters waited of {}, and one more: taken is {taken}", self.limit));
        }
    }

    /// A letter is read.
    pub fn read(&mut self, number: u32) {
        if number != self.read {
            self.wrong = Some(format!("letter {number} is read, and {} was to be", self.read));
        }
        self.read = number + 1;
    }
}

/// Has something done after a way through a worker.
pub fn offload(app: &mut App, net: &mut Net<App>, done: impl FnOnce(&mut App, &mut Net<App>) + 'static) {
    let (unfinished, number) = (app.post.borrow().unfinished(), app.post.borrow().begun);
    let taken = net.offload(
        move || number,
        move |lp, result| {
            lp.app.post.borrow_mut().done += 1;
            if result.ok() != Some(number) {
                lp.app.wrong(format!("work {number} has brought another's result"));
            }
            done(lp.app, lp.net);
        },
    );
    app.post.borrow_mut().begun += u32::from(taken.is_ok());
    let limit = app.options.workers + app.options.work_limit;
    if taken.is_ok() != (unfinished < limit) {
        app.wrong(format!("{unfinished} pieces of work were not done, of {limit}; one more: {taken:?}"));
    }
}

/// Nothing is left of it.
pub fn at_rest(app: &App) -> Result<(), String> {
    let post = app.post.borrow();
    if post.read != post.accepted {
        return Err(format!("{} of {} letters were read", post.read, post.accepted));
    }
    match post.unfinished() {
        0 => Ok(()),
        left => Err(format!("{left} pieces of work were never done")),
    }
}
