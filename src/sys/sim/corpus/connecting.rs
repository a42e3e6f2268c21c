//! How a connection begins, or does not.

use super::{ALL, programs};
use crate::sys::Address;
use crate::sys::epoll::IN;
use crate::sys::event;
use crate::sys::socket::{self, Family};
use std::net::{Ipv4Addr, Ipv6Addr};

programs! {
    a_connection_is_there_when_connect_has_said_in_progress s {
        s.tcp_listener("l");
        s.watch("l", IN);
        s.connect("a", "l");
        s.watch("a", ALL);
        s.wait();
        s.take_error("a");
        s.peer("a");
        s.accept("l", "b");
        s.wait();
        s.accept("l", "c");
        s.watch("b", ALL);
        s.wait();
    }

    a_socket_that_was_not_connected_is_over_and_writable s {
        s.socket("a", Family::V4);
        s.watch("a", ALL);
        s.wait();
        s.recv("a", 10);
        s.send("a", b"x");
        s.shutdown("a");
        s.peer("a");
        s.wait();
    }

    a_refused_connection_says_so_once s {
        s.tcp_listener("l");
        let address = socket::local_address(&s.fds["l"]).unwrap();
        s.close("l");
        s.connect_to("a", &address);
        s.watch("a", ALL);
        s.wait();
        s.take_error("a");
        s.take_error("a");
        s.recv("a", 10);
        s.send("a", b"x");
        s.rewatch("a", ALL);
        s.wait();
    }

    a_refusal_is_told_by_the_first_read s {
        s.tcp_listener("l");
        let address = socket::local_address(&s.fds["l"]).unwrap();
        s.close("l");
        s.connect_to("a", &address);
        s.recv("a", 10);
        s.recv("a", 10);
        s.send("a", b"x");
    }

    a_refusal_is_told_by_the_first_write s {
        s.tcp_listener("l");
        let address = socket::local_address(&s.fds["l"]).unwrap();
        s.close("l");
        s.connect_to("a", &address);
        s.settle();
        s.send("a", b"x");
        s.send("a", b"x");
        s.recv("a", 10);
        s.take_error("a");
    }

    a_peer_may_have_gone_before_it_is_accepted s {
        s.tcp_listener("l");
        s.watch("l", IN);
        s.connect("a", "l");
        s.settle();
        s.send("a", b"hello");
        s.close("a");
        s.wait();
        s.accept("l", "b");
        s.watch("b", ALL);
        s.wait();
        s.recv("b", 100);
        s.recv("b", 100);
    }

    a_peer_may_have_aborted_before_it_is_accepted s {
        s.tcp_listener("l");
        s.connect("a", "l");
        s.settle();
        s.send("a", b"hello");
        s.abort("a");
        s.accept("l", "b");
        s.watch("b", ALL);
        s.wait();
        s.peer("b");
        s.recv("b", 100);
        s.recv("b", 100);
        s.recv("b", 100);
    }

    a_listener_that_closes_resets_who_waits s {
        s.tcp_listener("l");
        s.connect("a", "l");
        s.watch("a", ALL);
        s.wait();
        s.close("l");
        s.wait();
        s.recv("a", 100);
        s.recv("a", 100);
    }

    asking_wrongly_has_its_errors s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.watch("a", ALL);
        s.rewatch("b", ALL);
        s.unwatch("b");
        s.connect("a", "l");
        s.accept("a", "x");
        let answer = socket::listen(&s.fds["a"], 4);
        s.note_unit("listen", "a", answer);
        let address = socket::local_address(&s.fds["l"]).unwrap();
        s.socket("z", Family::V4);
        let answer = socket::bind(&s.fds["z"], &address);
        s.note_unit("bind", "z", answer);
        s.recv("l", 10);
        s.send("l", b"x");
    }

    a_dual_stack_listener_takes_both s {
        s.listener("l", (Ipv6Addr::UNSPECIFIED, 0), 8);
        let port = socket::local_address(&s.fds["l"]).unwrap().port().unwrap();
        s.connect_to("a", &Address::from((Ipv4Addr::LOCALHOST, port)));
        s.connect_to("c", &Address::from((Ipv6Addr::LOCALHOST, port)));
        s.settle();
        for _ in 0..2 {
            let (_, peer) = socket::accept(&s.fds["l"]).unwrap();
            s.note("accept", "l", peer.ip().unwrap().ip());
        }
    }

    a_full_backlog_takes_nobody_more s {
        s.listener("l", (Ipv4Addr::LOCALHOST, 0), 1);
        s.connect("a", "l");
        s.connect("b", "l");
        s.settle();
        s.connect("c", "l");
        s.watch("c", ALL);
        s.wait();
        s.connect("c", "l");
        s.recv("c", 10);
        s.send("c", b"x");
        s.take_error("c");
        s.peer("c");
    }

    a_refusal_wakes_who_watched_before s {
        s.tcp_listener("l");
        let address = socket::local_address(&s.fds["l"]).unwrap();
        s.close("l");
        s.socket("a", Family::V4);
        s.watch("a", ALL);
        s.wait();
        s.connect_to("a", &address);
        s.wait();
        s.take_error("a");
        s.take_error("a");
        s.wait();
        s.rewatch("a", ALL);
        s.wait();
    }

    a_refusal_is_told_by_a_second_connect s {
        s.tcp_listener("l");
        let address = socket::local_address(&s.fds["l"]).unwrap();
        s.close("l");
        s.connect_to("a", &address);
        s.settle();
        s.connect_to("a", &address);
        s.take_error("a");
    }

    a_connection_wakes_who_watched_before s {
        s.tcp_listener("l");
        s.socket("a", Family::V4);
        s.watch("a", ALL);
        s.wait();
        s.connect("a", "l");
        s.wait();
        s.take_error("a");
        s.wait();
    }

    nobody_waits_at_an_empty_listener s {
        s.tcp_listener("l");
        s.watch("l", IN);
        s.wait();
        s.accept("l", "a");
        s.connect("c", "l");
        s.wait();
        s.accept("l", "d");
        s.accept("l", "e");
        s.wait();
    }

    what_cannot_listen_says_why s {
        s.socket("t", Family::V4);
        s.accept("t", "x");
        s.listen("t");
        s.listen("t");
        s.accept("t", "x");
        s.bind("t", &(Ipv4Addr::LOCALHOST, 0).into());
        s.socket("u", Family::Unix);
        s.listen("u");
        s.udp("v");
        s.listen("v");
        s.accept("v", "x");
        s.bind("v", &(Ipv4Addr::LOCALHOST, 0).into());
        s.put("bell", event::create().unwrap());
        s.listen("bell");
        s.accept("bell", "x");
        s.recv("bell", 10);
    }

    listeners_share_a_port_if_both_agree s {
        for (first, second, agree) in [("l", "m", true), ("n", "o", false)] {
            s.socket(first, Family::V4);
            s.socket(second, Family::V4);
            socket::set_reuse_port(&s.fds[first], true).unwrap();
            socket::set_reuse_port(&s.fds[second], agree).unwrap();
            s.bind(first, &(Ipv4Addr::LOCALHOST, 0).into());
            s.listen(first);
            let address = socket::local_address(&s.fds[first]).unwrap();
            s.bind(second, &address);
        }
        s.listen("m");
    }

    a_port_is_kept_from_a_second_listener_even_if_both_reuse_addresses s {
        s.socket("l", Family::V4);
        s.socket("m", Family::V4);
        socket::set_reuse_address(&s.fds["l"], true).unwrap();
        socket::set_reuse_address(&s.fds["m"], true).unwrap();
        s.bind("l", &(Ipv4Addr::LOCALHOST, 0).into());
        s.listen("l");
        let address = socket::local_address(&s.fds["l"]).unwrap();
        s.bind("m", &address);
        s.close("l");
        s.bind("m", &address);
    }

    one_whom_a_full_backlog_ignored_is_heard_when_it_asks_again s {
        s.listener("l", (Ipv4Addr::LOCALHOST, 0), 1);
        s.connect("a", "l");
        s.connect("b", "l");
        s.settle();
        s.connect("c", "l");
        s.watch("c", ALL);
        s.wait();
        s.accept("l", "d");
        s.accept("l", "e");
        s.accept("l", "f");
        s.wait_long();
        s.take_error("c");
        s.accept("l", "f");
    }
}
