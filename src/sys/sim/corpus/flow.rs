//! Bytes on their way: a buffer that is full, a byte that is urgent, a write of many parts.

use super::{ALL, programs};

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
}
