//! Promise: mail of any thread runs on the loop, in order for each thread, and wakes it with at most one system
//! call for each of its sleeps.
//!
//! Posters race the loop into and out of its sleep; a lost wake-up would show as a wait for the whole deadline.

mod support;

use plimsoll::{PostError, Reactor, ReactorOptions};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::{DEADLINE, turn_until};

#[test]
fn mail_of_many_threads_runs_whole_and_in_the_order_of_each() {
    const THREADS: usize = 8;
    const LETTERS: usize = 5_000;
    // A small box, so that posters meet it full, too.
    let options = ReactorOptions::new().with(|o| o.mail_limit = 64);
    let mut reactor = Reactor::with_options(vec![0; THREADS], options).unwrap();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let mailbox = reactor.net.mailbox();
            scope.spawn(move || {
                for expected in 0..LETTERS {
                    let mut refused = mailbox.post(move |lp| {
                        assert_eq!(lp.app[number], expected, "thread {number} is out of order");
                        lp.app[number] += 1;
                    });
                    while let Err(PostError::Full(letter)) = refused {
                        thread::yield_now();
                        refused = mailbox.post(letter);
                    }
                    assert!(refused.is_ok());
                }
            });
        }
        turn_until(&mut reactor, "all mail runs", |reactor| reactor.app.iter().all(|run| *run == LETTERS));
    });
    let stats = *reactor.net.stats();
    assert_eq!(stats.mail, (THREADS * LETTERS) as u64);
    assert!(stats.peak_mail <= 64, "{} waited at once", stats.peak_mail);
    assert!(stats.mail_wakes <= stats.turns, "{} wakes in {} turns", stats.mail_wakes, stats.turns);
}

#[test]
fn a_post_always_wakes_a_sleeping_loop() {
    const ROUNDS: usize = 3_000;
    let mut reactor = Reactor::new(()).unwrap();
    let mailbox = reactor.net.mailbox();
    let run = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let posting = Arc::clone(&run);
    let poster = thread::spawn(move || {
        for round in 0..ROUNDS {
            // At another distance from the loop's falling asleep each time.
            (0..round % 97 * 10).for_each(|_| std::hint::spin_loop());
            let running = Arc::clone(&posting);
            mailbox.post(move |_| _ = running.fetch_add(1, Ordering::SeqCst)).unwrap();
            while posting.load(Ordering::SeqCst) == round {
                std::hint::spin_loop();
                if began.elapsed() > DEADLINE {
                    return;
                }
            }
        }
    });
    while run.load(Ordering::SeqCst) < ROUNDS {
        reactor.turn(Some(DEADLINE)).unwrap();
        assert!(began.elapsed() < DEADLINE, "slept through a post: {} of {ROUNDS}", run.load(Ordering::SeqCst));
    }
    poster.join().unwrap();
}

#[test]
fn one_sleep_costs_its_posters_one_system_call_in_all() {
    let mut reactor = Reactor::new(0).unwrap();
    let mailbox = reactor.net.mailbox();
    for sleeps in 1..=3 {
        // Between turns the loop counts as asleep.
        (0..100).for_each(|_| mailbox.post(|lp| *lp.app += 1).unwrap());
        reactor.turn(Some(DEADLINE)).unwrap();
        assert_eq!((reactor.app, reactor.net.stats().mail_wakes), (100 * sleeps, sleeps));
    }
}

#[test]
fn posts_to_a_loop_that_is_awake_cost_no_system_call() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let mailbox = reactor.net.mailbox();
    let inner = mailbox.clone();
    mailbox
        .post(move |_| {
            // From the loop itself, and from another thread while the loop is busy with this.
            let other = inner.clone();
            (0..100).for_each(|n| inner.post(move |lp| lp.app.push(n)).unwrap());
            thread::spawn(move || (100..200).for_each(|n| other.post(move |lp| lp.app.push(n)).unwrap()))
                .join()
                .unwrap();
        })
        .unwrap();
    reactor.turn(Some(DEADLINE)).unwrap();
    assert!(reactor.app.is_empty(), "what is posted by mail waits for the next turn");
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    let began = Instant::now();
    reactor.turn(Some(DEADLINE)).unwrap();
    assert!(began.elapsed() < DEADLINE / 2, "the loop slept on its mail");
    assert_eq!(reactor.app, (0..200).collect::<Vec<_>>());
    assert_eq!(reactor.net.stats().mail_wakes, 1);
}

#[test]
fn mail_posted_before_the_first_turn_and_between_turns_ends_the_wait() {
    let mut reactor = Reactor::new(0).unwrap();
    let mailbox = reactor.net.mailbox();
    for turn in 1..=3 {
        mailbox.post(|lp| *lp.app += 1).unwrap();
        let began = Instant::now();
        reactor.turn(None).unwrap();
        assert_eq!(reactor.app, turn);
        assert!(began.elapsed() < DEADLINE);
    }
}

#[test]
fn mail_may_stop_the_loop_and_carry_what_only_threads_can_send() {
    let mut reactor = Reactor::new(String::new()).unwrap();
    let mailbox = reactor.net.mailbox();
    let text = Arc::new(Mutex::new("from far".to_owned()));
    let poster = thread::spawn(move || {
        mailbox
            .post(move |lp| {
                lp.app.push_str(&text.lock().unwrap());
                lp.stop();
            })
            .unwrap();
    });
    reactor.run().unwrap();
    poster.join().unwrap();
    assert_eq!(reactor.into_app(), "from far");
}
