//! Bytes on their way: a buffer that is full, a byte that is urgent, a write of many parts.

use super::{ALL, QUIET, programs};

programs! {
    room_is_an_edge_after_a_full_buffer s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        s.fill("a");
        s.wait();
        s.drain("b");
        s.wait();
        s.wait();
        s.send("a", b"x");
        s.wait();
    }

    room_is_no_edge_when_nobody_met_a_full_buffer s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        s.send("a", &[0; 10_000]);
        s.wait();
        s.drain("b");
        s.wait();
    }

    a_full_sender_can_end_and_the_end_comes_last s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.fill("a");
        s.shutdown("a");
        s.wait();
        s.drain("b");
        s.wait();
    }

    a_full_sender_that_closes_loses_nothing s {
        s.tcp_pair();
        s.fill("a");
        s.close("a");
        s.drain("b");
        s.watch("b", ALL);
        s.wait();
    }

    a_reset_of_a_full_sender_ends_its_wait s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        s.fill("a");
        s.wait();
        s.abort("b");
        s.wait();
        s.send("a", b"x");
        s.send("a", b"x");
    }

    the_urgent_byte_cuts_a_read_and_is_left_out s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.send("a", b"ab");
        s.urgent("a", b"c!");
        s.send("a", b"de");
        s.wait();
        s.recv("b", 100);
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
        s.rewatch("b", ALL);
        s.wait();
    }

    an_urgent_byte_alone_is_no_input s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.urgent("a", b"!");
        s.wait();
        s.recv("b", 100);
        s.send("a", b"x");
        s.wait();
        s.recv("b", 100);
    }

    a_new_urgent_byte_replaces_the_last s {
        s.tcp_pair();
        s.urgent("a", b"a!");
        s.settle();
        s.urgent("a", b"b?");
        s.settle();
        s.recv("b", 100);
        s.recv("b", 100);
        s.recv("b", 100);
    }

    an_urgent_byte_that_was_next_is_lost_to_a_newer_one s {
        s.tcp_pair();
        s.urgent("a", b"a!");
        s.send("a", b"b");
        s.recv("b", 1);
        s.urgent("a", b"c?");
        s.recv("b", 100);
        s.recv("b", 100);
    }

    the_end_stands_behind_an_urgent_byte s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.wait();
        s.send("a", b"ab");
        s.urgent("a", b"!");
        s.shutdown("a");
        s.wait();
        s.recv("b", 100);
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
    }

    a_small_read_stops_at_the_urgent_byte s {
        s.tcp_pair();
        s.watch("b", ALL);
        s.urgent("a", b"abc!");
        s.send("a", b"def");
        s.wait();
        s.recv("b", 2);
        s.recv("b", 2);
        s.recv("b", 2);
        s.rewatch("b", ALL);
        s.wait();
        s.recv("b", 2);
        s.recv("b", 2);
    }

    a_write_takes_no_more_than_its_limit_of_parts s {
        s.tcp_pair();
        let parts: Vec<&[u8]> = (0..70).map(|n| &b"0123456789"[n % 10..][..1]).collect();
        s.send_parts("a", &parts);
        s.recv("b", 100);
        s.send_parts("a", &parts[64..]);
        s.recv("b", 100);
        s.recv("b", 100);
    }

    empty_parts_are_nothing s {
        s.tcp_pair();
        s.watch("b", QUIET);
        s.send_parts("a", &[b"", b"ab", b"", b"", b"c", b""]);
        s.wait();
        s.recv("b", 100);
        s.send_parts("a", &[b"", b""]);
        s.send_parts("a", &[]);
        s.send("a", b"");
        s.wait();
        s.recv("b", 100);
    }

    parts_that_do_not_fit_are_taken_in_order s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        s.narrow("a");
        s.flood("a");
        s.wait();
        s.ebb("b");
        s.wait();
    }

    parts_of_one_who_has_ended_go_nowhere s {
        s.tcp_pair();
        s.shutdown("a");
        s.send_parts("a", &[b"x", b"y"]);
        s.abort("b");
        s.settle();
        s.send_parts("a", &[b"x", b"y"]);
    }

    room_is_told_again_after_each_full_buffer s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        for _ in 0..3 {
            s.fill("a");
            s.wait();
            s.drain("b");
            s.wait();
        }
    }

    room_that_was_made_before_a_look_is_told_when_asked s {
        s.tcp_pair();
        s.watch("a", QUIET);
        s.wait();
        s.fill("a");
        s.rewatch("a", ALL);
        s.wait();
        s.drain("b");
        s.wait();
        s.rewatch("a", QUIET);
        s.wait();
    }
}
