//! Promise: what is offloaded runs beside the loop, and its result, be it a panic, comes back to the loop; too
//! much of it is refused, and a job that hangs delays nobody.

mod support;

use plimsoll::{Reactor, ReactorOptions, WorkRefused};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use support::{DEADLINE, turn_for, turn_until};

#[test]
fn a_result_comes_back_to_the_loop_from_another_thread() {
    let mut reactor = Reactor::new(None).unwrap();
    let here = Rc::new(thread::current().id()); // what is done with the result need not be Send
    reactor
        .net
        .offload(
            || thread::current().id(),
            move |lp, worker| {
                assert_eq!(thread::current().id(), *here);
                *lp.app = Some((*here, worker.unwrap()));
            },
        )
        .unwrap();
    turn_until(&mut reactor, "the result", |reactor| reactor.app.is_some());
    let (here, worker) = reactor.app.unwrap();
    assert_ne!(here, worker);
}

#[test]
fn a_panic_in_the_work_is_a_result_and_the_worker_goes_on() {
    let options = ReactorOptions::new().with(|o| o.workers = 1);
    let mut reactor = Reactor::with_options(Vec::new(), options).unwrap();
    let number = 7;
    reactor
        .net
        .offload(
            || panic!("plainly"),
            |lp, result: Result<(), _>| lp.app.push(result.unwrap_err().message().to_owned()),
        )
        .unwrap();
    reactor
        .net
        .offload(
            move || panic!("number {number}"),
            |lp, result: Result<(), _>| lp.app.push(result.unwrap_err().to_string()),
        )
        .unwrap();
    reactor.net.offload(|| "fine", |lp, result| lp.app.push(result.unwrap().to_owned())).unwrap();
    turn_until(&mut reactor, "three results", |reactor| reactor.app.len() == 3);
    assert_eq!(reactor.app[0], "plainly");
    assert!(reactor.app[1].contains("number 7"), "{}", reactor.app[1]);
    assert_eq!(reactor.app[2], "fine");
}

#[test]
fn work_over_the_limit_is_refused_and_neither_closure_is_called() {
    let options = ReactorOptions::new().with(|o| (o.workers, o.work_limit) = (1, 2));
    let mut reactor = Reactor::with_options(0, options).unwrap();
    let (release, gate) = mpsc::channel::<()>();
    let count = |lp: &mut plimsoll::Loop<'_, usize>, _: Result<(), _>| *lp.app += 1;
    reactor.net.offload(move || _ = gate.recv(), count).unwrap();
    reactor.net.offload(|| (), count).unwrap();
    reactor.net.offload(|| (), count).unwrap();
    let held = Arc::new(());
    let (working, done) = (Arc::clone(&held), Arc::clone(&held));
    let refused = reactor.net.offload(
        move || drop(working),
        move |lp: &mut plimsoll::Loop<'_, usize>, _| {
            drop(done);
            *lp.app += 100;
        },
    );
    assert_eq!(refused, Err(WorkRefused));
    assert_eq!(Arc::strong_count(&held), 1, "both closures are dropped");
    drop(release);
    turn_until(&mut reactor, "the others finish", |reactor| reactor.app >= 3);
    assert_eq!(reactor.app, 3);
    // There is room again.
    turn_until(&mut reactor, "work is taken", |reactor| reactor.net.offload(|| (), count).is_ok());
    turn_until(&mut reactor, "it finishes", |reactor| reactor.app == 4);
}

#[test]
fn stop_and_drop_do_not_wait_for_a_job_that_hangs() {
    let mut reactor = Reactor::new(()).unwrap();
    let (release, gate) = mpsc::channel::<()>();
    let (started, has_started) = mpsc::channel();
    reactor
        .net
        .offload(
            move || {
                started.send(()).unwrap();
                _ = gate.recv();
            },
            |_, _| panic!("the reactor is gone by then"),
        )
        .unwrap();
    has_started.recv_timeout(DEADLINE).unwrap();
    let began = Instant::now();
    reactor.net.stop();
    reactor.run().unwrap();
    drop(reactor);
    assert!(began.elapsed() < Duration::from_secs(4), "waited for {:?}", began.elapsed());
    drop(release); // and its result finds no reactor, which harms nobody
}

#[test]
fn results_arrive_although_the_mailbox_is_full() {
    let options = ReactorOptions::new().with(|o| o.mail_limit = 1);
    let mut reactor = Reactor::with_options(0, options).unwrap();
    let mailbox = reactor.net.mailbox();
    mailbox.post(|_| ()).unwrap();
    let (sender, finished) = mpsc::channel();
    for _ in 0..20 {
        let sender = sender.clone();
        reactor
            .net
            .offload(move || sender.send(()).unwrap(), |lp, result| *lp.app += usize::from(result.is_ok()))
            .unwrap();
    }
    (0..20).for_each(|_| finished.recv_timeout(DEADLINE).unwrap());
    assert!(mailbox.post(|_| ()).is_err(), "the letter was still there");
    turn_until(&mut reactor, "all results", |reactor| reactor.app == 20);
}

#[test]
fn thousands_of_jobs_finish_each_with_its_own_result() {
    const JOBS: usize = 5_000;
    let options = ReactorOptions::new().with(|o| o.work_limit = JOBS);
    let mut reactor = Reactor::with_options(vec![0u8; JOBS], options).unwrap();
    for job in 0..JOBS {
        reactor
            .net
            .offload(
                move || job,
                move |lp, result| {
                    assert_eq!(result, Ok(job));
                    lp.app[job] += 1;
                },
            )
            .unwrap();
    }
    turn_until(&mut reactor, "all jobs", |reactor| reactor.app.iter().all(|done| *done > 0));
    turn_for(&mut reactor, Duration::from_millis(5));
    assert!(reactor.app.iter().all(|done| *done == 1));
}

#[test]
fn a_result_may_offload_again_and_the_loop_sleeps_meanwhile() {
    fn countdown(lp: &mut plimsoll::Loop<'_, u32>) {
        if *lp.app > 0 {
            lp.offload(
                || (),
                |lp, _| {
                    *lp.app -= 1;
                    countdown(lp);
                },
            )
            .unwrap();
        }
    }
    let mut reactor = Reactor::new(50).unwrap();
    reactor.net.defer(countdown);
    let began = Instant::now();
    turn_until(&mut reactor, "the countdown", |reactor| reactor.app == 0);
    // Each turn of the helper lasts for 20 ms if nothing happens.
    let idle = began.elapsed().as_millis() as u64 / 20;
    let turns = reactor.net.stats().turns;
    assert!(turns <= 2 * 50 + 10 + idle, "{turns} turns for 50 results");
}
