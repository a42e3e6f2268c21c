//! What epoll tells, and when again.

use super::{ALL, QUIET, programs};
use crate::sys::epoll::{EDGE, IN};
use crate::sys::{event, fd};

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
}
