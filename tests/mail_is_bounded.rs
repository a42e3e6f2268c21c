//! Promise: the mailbox holds no more than its limit, a refused closure comes back unharmed, and mail takes no
//! more of a turn than its budget.

mod support;

use plimsoll::{PostError, Reactor, ReactorOptions};
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use support::{DEADLINE, address_of, beside, join, peer, turn_and_panic, turn_until};

#[test]
fn a_post_to_a_full_box_gives_the_closure_back_and_it_can_be_posted_again() {
    let options = ReactorOptions::new().with(|o| o.mail_limit = 2);
    let mut reactor = Reactor::with_options(Vec::new(), options).unwrap();
    let mailbox = reactor.net.mailbox();
    mailbox.post(|lp| lp.app.push(1)).unwrap();
    mailbox.post(|lp| lp.app.push(2)).unwrap();
    let Err(PostError::Full(third)) = mailbox.post(|lp| lp.app.push(3)) else { panic!("the box was full") };
    reactor.turn(Some(DEADLINE)).unwrap();
    assert_eq!(reactor.app, [1, 2]);
    mailbox.post(third).unwrap();
    reactor.turn(Some(DEADLINE)).unwrap();
    assert_eq!(reactor.app, [1, 2, 3]);
    assert_eq!(reactor.net.stats().peak_mail, 2);
}

#[test]
fn a_post_to_a_reactor_that_is_gone_gives_the_closure_back() {
    let reactor = Reactor::new(()).unwrap();
    let mailbox = reactor.net.mailbox();
    let parcel = Arc::new(());
    let (unread, refused) = (Arc::clone(&parcel), Arc::clone(&parcel));
    mailbox.post(move |_| drop(unread)).unwrap();
    drop(reactor);
    assert_eq!(Arc::strong_count(&parcel), 2, "unread mail is dropped with the reactor");
    let Err(PostError::Gone(letter)) = mailbox.post(move |_| drop(refused)) else { panic!("there is no reactor") };
    assert_eq!(Arc::strong_count(&parcel), 2);
    drop(letter);
    assert_eq!(Arc::strong_count(&parcel), 1);
}

#[test]
fn who_does_not_want_the_closure_back_has_an_error_like_any_other() {
    let options = ReactorOptions::new().with(|o| o.mail_limit = 0);
    let reactor = Reactor::with_options((), options).unwrap();
    let mailbox = reactor.net.mailbox();
    let parcel = Arc::new(());
    let post = |kept: Arc<()>| mailbox.post(move |_| drop(kept)).map_err(io::Error::from);
    let full = post(Arc::clone(&parcel)).unwrap_err();
    assert_eq!((full.kind(), full.to_string()), (io::ErrorKind::WouldBlock, "the mailbox is full".to_owned()));
    drop(reactor);
    let gone = post(Arc::clone(&parcel)).unwrap_err();
    assert_eq!((gone.kind(), gone.to_string()), (io::ErrorKind::BrokenPipe, "the reactor is gone".to_owned()));
    assert_eq!(Arc::strong_count(&parcel), 1, "the error has not kept it");
}

#[test]
fn a_turn_runs_no_more_mail_than_its_budget_and_does_not_sleep_on_the_rest() {
    let options = ReactorOptions::new().with(|o| o.closure_budget = 10);
    let mut reactor = Reactor::with_options(0, options).unwrap();
    let mailbox = reactor.net.mailbox();
    (0..35).for_each(|_| mailbox.post(|lp| *lp.app += 1).unwrap());
    for expected in [10, 20, 30, 35] {
        assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
        reactor.turn(None).unwrap();
        assert_eq!(reactor.app, expected);
    }
    assert_eq!(reactor.next_turn_in(), None);
}

/// A letter that posts itself again, for ever.
fn again(lp: &mut plimsoll::Loop<'_, u64>) {
    *lp.app += 1;
    lp.mailbox().post(again).unwrap();
}

#[test]
fn letters_that_post_themselves_for_ever_starve_neither_timers_nor_connections() {
    let mut reactor = Reactor::new(0).unwrap();
    let echo = reactor
        .net
        .serve("127.0.0.1:0", |ctx, input| {
            ctx.send(&input[..]);
            input.clear();
        })
        .unwrap();
    let address = address_of(&reactor, echo);
    let mailbox = reactor.net.mailbox();
    (0..5_000).for_each(|_| mailbox.post(again).unwrap());
    let rung = Rc::new(());
    let ringing = Rc::clone(&rung);
    reactor.net.after(Duration::from_millis(1), move |_| drop(ringing));
    let peer = beside(move || {
        let mut stream = peer(address);
        for round in 0..20u8 {
            stream.write_all(&[round; 64]).unwrap();
            let mut answer = [0; 64];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [round; 64]);
        }
    });
    join(&mut reactor, peer);
    turn_until(&mut reactor, "the timer runs", |_| Rc::strong_count(&rung) == 1);
    let stats = reactor.net.stats();
    assert!(stats.mail <= stats.turns * 1024, "{} letters in {} turns", stats.mail, stats.turns);
    assert!(reactor.app > 1024);
}

#[test]
fn a_letter_that_panics_costs_no_other_letter() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let mailbox = reactor.net.mailbox();
    mailbox.post(|lp| lp.app.push(1)).unwrap();
    mailbox.post(|_| panic!("on purpose")).unwrap();
    mailbox.post(|lp| lp.app.push(2)).unwrap();
    turn_and_panic(&mut reactor);
    assert_eq!(reactor.app, [1]);
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor.turn(None).unwrap();
    assert_eq!(reactor.app, [1, 2]);
}
