//! How a TCP connection ends, and who hears of it.

use super::{ALL, programs};
use crate::sys::socket;

programs! {
    a_half_closed_stream_carries_the_other_half s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.watch("b", ALL);
        s.wait();
        s.shutdown("a");
        s.wait();
        s.send("a", b"x");
        s.recv("b", 10);
        s.send("b", b"answer");
        s.wait();
        s.recv("a", 10);
        s.shutdown("b");
        s.wait();
        s.recv("a", 10);
        s.recv("b", 10);
        s.shutdown("a");
        s.shutdown("b");
        s.peer("a");
        s.peer("b");
        s.send("b", b"x");
        s.take_error("a");
    }

    closing_with_nothing_unread_ends_the_peers_input s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.send("a", b"bye");
        s.close("a");
        s.wait();
        s.recv("b", 10);
        s.recv("b", 10);
        s.send("b", b"too late");
        s.wait();
        s.send("b", b"again");
        s.recv("b", 10);
        s.take_error("b");
        s.peer("b");
    }

    closing_with_unread_input_resets s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        s.send("a", b"unread");
        s.settle();
        s.send("b", b"answer");
        s.settle();
        s.close("b");
        s.wait();
        s.recv("a", 10);
        s.recv("a", 10);
        s.recv("a", 10);
        s.take_error("a");
        s.wait();
    }

    an_abort_leaves_what_had_arrived s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.send("a", b"data");
        s.abort("a");
        s.wait();
        s.recv("b", 2);
        s.recv("b", 10);
        s.recv("b", 10);
        s.recv("b", 10);
        s.wait();
    }

    an_error_that_was_taken_is_not_told_again s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.abort("a");
        s.wait();
        s.take_error("b");
        s.recv("b", 10);
        s.send("b", b"x");
        s.rewatch("b", ALL);
        s.wait();
        s.shutdown("b");
        s.peer("b");
    }

    writing_after_an_abort_tells_why_and_then_that_it_is_over s {
        s.tcp_pair();
        s.abort("a");
        s.settle();
        s.send("b", b"x");
        s.send("b", b"x");
        s.recv("b", 10);
    }

    a_reset_after_the_end_is_a_broken_pipe s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.shutdown("a");
        s.wait();
        s.abort("a");
        s.wait();
        s.recv("b", 10);
        s.take_error("b");
        s.send("b", b"x");
    }

    a_reset_after_both_ends_is_not_heard s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.shutdown("a");
        s.shutdown("b");
        s.wait();
        s.abort("a");
        s.wait();
        s.recv("b", 10);
        s.take_error("b");
    }

    a_reset_of_one_who_has_ended_is_a_reset s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.shutdown("b");
        s.wait();
        s.abort("a");
        s.wait();
        s.recv("b", 10);
        s.recv("b", 10);
        s.send("b", b"x");
    }

    a_reset_of_one_who_has_ended_leaves_what_had_arrived s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.shutdown("b");
        s.acknowledged("b");
        s.wait();
        s.send("a", b"data");
        s.abort("a");
        s.wait();
        s.recv("b", 2);
        s.recv("b", 10);
        s.recv("b", 10);
        s.recv("b", 10);
        s.shutdown("b");
    }

    who_has_ended_and_closes_with_unread_input_breaks_the_pipe s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.shutdown("a");
        s.wait();
        s.send("b", b"unread");
        s.settle();
        s.close("a");
        s.wait();
        s.recv("b", 10);
        s.take_error("b");
        s.send("b", b"x");
    }

    a_close_after_the_peers_end_is_the_end s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.shutdown("b");
        s.acknowledged("b");
        s.wait();
        s.close("a");
        s.wait();
        s.recv("b", 10);
        s.take_error("b");
        s.send("b", b"x");
        s.peer("b");
    }

    an_abort_that_was_taken_back_is_a_close s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        socket::set_linger_zero(&s.fds["a"]).unwrap();
        socket::clear_linger(&s.fds["a"]).unwrap();
        s.send("a", b"bye");
        s.close("a");
        s.wait();
        s.recv("b", 10);
        s.recv("b", 10);
    }

    an_abort_loses_what_had_not_arrived s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.fill("a");
        s.abort("a");
        s.wait();
        s.drain_until_told("b");
        s.wait();
    }

    what_is_sent_to_one_who_aborted_a_moment_ago_is_lost s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.shutdown("a");
        s.wait();
        s.send("b", b"x");
        s.abort("a");
        s.send("b", b"y");
        s.wait();
        s.recv("b", 10);
    }
}
