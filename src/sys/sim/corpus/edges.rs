//! What epoll tells, and when again.

use super::{ALL, QUIET, programs};
use crate::sys::epoll::{EDGE, Event, IN, PRI, RDHUP};
use crate::sys::{clock, event, fd};
use std::time::Duration;

programs! {
    every_arrival_is_an_edge s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.wait();
        s.send("a", b"one");
        s.wait();
        s.wait();
        s.send("a", b"two");
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.wait();
    }

    two_arrivals_before_a_wait_are_one_edge s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.send("a", b"one");
        s.send("a", b"two");
        s.wait();
        s.wait();
        s.recv("b", 100);
    }

    input_and_its_end_come_as_one_edge s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.send("a", b"last");
        s.shutdown("a");
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.recv("b", 100);
        s.wait();
    }

    ones_own_shutdown_is_an_edge s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        s.shutdown("a");
        s.acknowledged("a");
        s.wait();
        s.wait();
        s.shutdown("a");
        s.wait();
    }

    a_level_is_told_until_it_is_over s {
        s.tcp_pair();
        s.watch("b", IN);
        s.wait();
        s.send("a", b"xy");
        s.wait();
        s.recv("b", 1);
        s.wait();
        s.recv("b", 1);
        s.wait();
        s.watch("l", IN);
        s.connect("c", "l");
        s.connect("d", "l");
        s.wait();
        s.accept("l", "e");
        s.wait();
        s.accept("l", "f");
        s.wait();
    }

    an_edge_for_input_tells_of_room_too_if_that_was_asked s {
        s.tcp_pair();
        s.watch("b", QUIET);
        s.wait();
        s.send("a", b"x");
        s.wait();
        s.rewatch("b", ALL);
        s.wait();
        s.rewatch("b", QUIET);
        s.wait();
        s.unwatch("b");
        s.send("a", b"x");
        s.wait();
    }

    a_closed_descriptor_is_told_no_more s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.send("a", b"x");
        s.close("b");
        s.wait();
        s.recv("a", 10);
    }

    a_closed_sender_that_goes_on_sending_is_told_no_more s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        s.fill("a");
        s.close("a");
        s.wait();
        s.recv("b", 30_000);
        s.recv("b", 30_000);
        s.wait();
        s.drain("b");
        s.wait();
    }

    a_bell_is_an_edge_each_time s {
        s.put("bell", event::create().unwrap());
        s.watch("bell", IN | EDGE);
        s.wait();
        event::ring(&s.fds["bell"]).unwrap();
        event::ring(&s.fds["bell"]).unwrap();
        s.wait();
        s.wait();
        event::ring(&s.fds["bell"]).unwrap();
        s.wait();
        s.rewatch("bell", IN);
        s.wait();
        s.wait();
    }

    the_spare_cannot_be_watched s {
        s.put("spare", fd::spare().unwrap());
        s.watch("spare", IN);
    }

    more_after_a_partial_read_is_an_edge s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.send("a", b"abcdef");
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.send("a", b"gh");
        s.wait();
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.wait();
    }

    asking_again_tells_what_is_there s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.send("a", b"x");
        s.rewatch("b", ALL);
        s.wait();
        s.wait();
        s.rewatch("b", ALL);
        s.rewatch("b", ALL);
        s.wait();
        s.wait();
        s.recv("b", 100);
        s.rewatch("b", ALL);
        s.wait();
        s.shutdown("a");
        s.wait();
        s.rewatch("b", ALL);
        s.wait();
    }

    what_was_ready_is_not_told_if_it_is_not_asked_for_any_more s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.send("a", b"x");
        s.rewatch("b", PRI | EDGE);
        s.wait();
        s.send("a", b"y");
        s.wait();
        s.rewatch("b", QUIET);
        s.wait();
        s.recv("b", 10);
    }

    what_was_read_before_it_was_told_is_not_told s {
        s.tcp_pair();
        s.watch("b", QUIET);
        s.send("a", b"x");
        s.recv("b", 10);
        s.wait();
        s.send("a", b"y");
        s.wait();
    }

    an_error_and_a_hang_up_are_told_unasked s {
        s.tcp_pair();
        s.watch("b", 0);
        s.watch("a", EDGE);
        s.wait();
        s.send("a", b"x");
        s.shutdown("a");
        s.wait();
        s.abort("b");
        s.wait();
        s.wait();
    }

    a_level_tells_of_the_end_behind_unread_input s {
        s.tcp_pair();
        s.watch("b", IN | RDHUP);
        s.send("a", b"data");
        s.shutdown("a");
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.recv("b", 2);
        s.wait();
    }

    a_level_tells_of_a_reset_behind_unread_input s {
        s.tcp_pair();
        s.watch("b", IN);
        s.send("a", b"data");
        s.abort("a");
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.recv("b", 2);
    }

    what_does_not_fit_into_one_batch_comes_with_the_next s {
        s.tcp_pair();
        s.connect("c", "l");
        s.accept("l", "d");
        s.connect("e", "l");
        s.accept("l", "f");
        for who in ["b", "d", "f"] {
            s.watch(who, ALL);
        }
        s.wait();
        for who in ["e", "a", "c"] {
            s.send(who, b"x");
            s.settle();
        }
        s.wait_for(1);
        s.send("e", b"y");
        s.wait_for(1);
        s.wait_for(1);
        s.wait_for(1);
        s.wait_for(1);
    }

    those_that_stay_ready_take_turns s {
        s.tcp_pair();
        s.connect("c", "l");
        s.accept("l", "d");
        s.watch("b", IN);
        s.watch("d", IN);
        s.send("a", b"x");
        s.settle();
        s.send("c", b"x");
        for _ in 0..4 {
            s.wait_for(1);
        }
        s.recv("b", 1);
        s.wait_for(1);
        s.wait_for(1);
    }

    one_who_was_closed_within_a_batch_is_told_no_more s {
        s.tcp_pair();
        s.connect("c", "l");
        s.accept("l", "d");
        s.watch("b", ALL);
        s.watch("d", ALL);
        s.wait();
        s.send("a", b"x");
        s.settle();
        s.send("c", b"x");
        s.wait_for(1);
        s.close("d");
        s.wait_for(1);
        s.recv("c", 1);
    }

    a_wait_for_nothing_takes_its_time s {
        s.tcp_pair();
        s.watch("b", QUIET);
        let began = clock::now();
        let told = s.epoll.wait(&mut [Event::EMPTY], Some(Duration::from_millis(10)));
        s.note_size("told", "nobody", told);
        let whole = clock::now().since(began) >= Duration::from_millis(10);
        s.note("whole", "time", whole);
        s.send("a", b"x");
        s.wait_long();
    }
}
