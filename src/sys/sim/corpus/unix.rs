//! Unix streams, which have no packets: everything happens within the call.

use super::{ALL, QUIET, programs};
use crate::sys::Address;
use crate::sys::epoll::IN;
use crate::sys::socket::Family;
use std::path::Path;

programs! {
    a_unix_stream_is_connected_at_once s {
        s.unix_pair();
        s.watch("a", ALL);
        s.watch("b", QUIET);
        s.wait();
        s.send("a", b"x");
        s.wait();
        s.recv("b", 10);
        s.wait();
        s.recv("b", 10);
    }

    a_unix_stream_tells_of_room_after_every_read s {
        s.unix_pair();
        s.watch("a", ALL);
        s.wait();
        s.send("a", b"xy");
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.fill("a");
        s.wait();
        s.drain("b");
        s.wait();
    }

    a_unix_stream_tells_of_room_when_what_was_sent_at_once_is_read s {
        s.unix_pair();
        s.watch("a", ALL);
        s.wait();
        s.send("a", b"one");
        s.send("a", b"two");
        s.recv("b", 2);
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.recv("b", 1);
        s.wait();
        s.recv("b", 1);
        s.wait();
    }

    a_unix_stream_that_ends_is_told_with_its_input s {
        s.unix_pair();
        s.watch("a", ALL);
        s.watch("b", QUIET);
        s.wait();
        s.send("a", b"last");
        s.shutdown("a");
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.send("a", b"x");
        s.send("b", b"back");
        s.wait();
        s.shutdown("b");
        s.wait();
        s.recv("a", 100);
        s.recv("a", 100);
        s.shutdown("a");
        s.peer("a");
    }

    a_unix_peer_that_closes_hangs_up s {
        s.unix_pair();
        s.watch("b", QUIET);
        s.wait();
        s.send("a", b"bye");
        s.close("a");
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.send("b", b"x");
        s.take_error("b");
        s.peer("b");
        s.rewatch("b", ALL);
        s.wait();
        s.shutdown("b");
    }

    a_unix_peer_that_closes_with_unread_input_resets s {
        s.unix_pair();
        s.watch("b", QUIET);
        s.wait();
        s.send("b", b"unread");
        s.send("a", b"data");
        s.close("a");
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.recv("b", 100);
        s.send("b", b"x");
    }

    a_unix_socket_that_was_not_connected_is_over s {
        s.socket("a", Family::Unix);
        s.watch("a", ALL);
        s.wait();
        s.recv("a", 10);
        s.send("a", b"x");
        s.peer("a");
        s.shutdown("a");
        s.wait();
    }

    a_unix_backlog_that_is_full_says_again s {
        let name = format!("plimsoll-backlog-{}", std::process::id());
        s.listener("l", Address::Abstract(name.into_bytes().into()), 1);
        s.watch("l", IN);
        s.connect("a", "l");
        s.connect("b", "l");
        s.connect("c", "l");
        s.wait();
        s.accept("l", "d");
        s.connect("c", "l");
        s.close("l");
        s.watch("c", QUIET);
        s.wait();
        s.recv("c", 10);
        s.recv("c", 10);
    }

    a_unix_name_without_a_listener_refuses s {
        s.connect_to("a", &Address::Abstract(b"plimsoll-nobody"[..].into()));
        s.connect_to("b", &Address::Path(Path::new("/nonexistent/plimsoll.sock").into()));
        s.unix_pair();
        s.close("l");
        s.send("a", b"x");
    }

    a_unix_peer_may_have_gone_before_it_is_accepted s {
        s.unix_listener("l");
        s.watch("l", IN);
        s.connect("a", "l");
        s.send("a", b"hello");
        s.close("a");
        s.wait();
        s.accept("l", "b");
        s.watch("b", QUIET);
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.send("b", b"x");
    }

    a_unix_abort_is_a_close s {
        s.unix_pair();
        s.watch("b", QUIET);
        s.wait();
        s.send("a", b"bye");
        s.abort("a");
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.take_error("b");
    }

    a_unix_stream_is_connected_once_and_takes_parts s {
        s.unix_pair();
        s.connect("a", "l");
        s.connect("b", "l");
        s.send_parts("a", &[b"", b"ab", b"", b"c"]);
        s.recv("b", 2);
        s.recv("b", 2);
        s.send("a", b"");
        s.recv("b", 2);
    }

    parts_that_do_not_fit_into_a_unix_stream_are_taken_in_order s {
        s.unix_pair();
        s.watch("a", ALL);
        s.wait();
        s.narrow("a");
        s.flood("a");
        s.wait();
        s.ebb("b");
        s.wait();
    }

    more_after_a_partial_read_of_a_unix_stream_is_an_edge s {
        s.unix_pair();
        s.watch("b", QUIET);
        s.wait();
        s.send("a", b"abcdef");
        s.wait();
        s.recv("b", 2);
        s.wait();
        s.send("a", b"gh");
        s.wait();
        s.rewatch("b", QUIET);
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.wait();
    }

    a_full_unix_sender_hears_of_room_only_if_it_asks s {
        s.unix_pair();
        s.watch("a", QUIET);
        s.wait();
        s.fill("a");
        s.drain("b");
        s.wait();
        s.fill("a");
        s.rewatch("a", ALL);
        s.wait();
        s.drain("b");
        s.wait();
    }

    a_full_unix_sender_hears_that_its_peer_has_gone s {
        s.unix_pair();
        s.watch("a", ALL);
        s.wait();
        s.fill("a");
        s.wait();
        s.close("b");
        s.wait();
        s.recv("a", 10);
        s.recv("a", 10);
        s.send("a", b"x");
    }

    what_a_unix_stream_sent_before_its_end_is_read s {
        s.unix_pair();
        s.fill("a");
        s.shutdown("a");
        s.close("a");
        s.watch("b", QUIET);
        s.wait();
        s.drain("b");
        s.wait();
    }

    a_unix_listener_that_closes_resets_who_waits s {
        s.unix_listener("l");
        s.connect("a", "l");
        s.send("a", b"x");
        s.watch("a", ALL);
        s.wait();
        s.close("l");
        s.wait();
        s.recv("a", 10);
        s.recv("a", 10);
        s.send("a", b"x");
    }
}
