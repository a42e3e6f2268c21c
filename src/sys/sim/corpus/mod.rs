//! The simulated kernel says what the real one says.
//!
//! The goal: nothing that the simulator finds is the simulator's own. The method: each program below runs on the
//! real kernel and on the simulated one in calm weather, and writes down everything that it can see: what a call
//! answered, and which flags epoll told of which socket. The two records must be equal. Where they are not, the
//! simulator is wrong.
//!
//! What the real kernel does a moment later on its own (it is a machine with several processors) is waited for,
//! briefly, before a program looks. Sizes of buffers are not compared, only that they have an end.

mod stage;

use super::super::epoll::{EDGE, IN, OUT, PRI, RDHUP};
use super::super::socket::{self, Family};
use super::super::{Address, event, fd};
use super::chance::Weather;
use stage::Stage;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// What a loop asks of a TCP connection.
const ALL: u32 = IN | OUT | PRI | RDHUP | EDGE;
/// What a loop asks of a Unix stream that has nothing to send.
const QUIET: u32 = IN | RDHUP | EDGE;

/// Runs a program on both kernels.
#[track_caller]
fn same(program: impl Fn(&mut Stage)) {
    let mut real = Stage::new(false);
    program(&mut real);
    let real = real.record;
    super::install(1, Weather::calm());
    let mut simulated = Stage::new(true);
    program(&mut simulated);
    let record = std::mem::take(&mut simulated.record);
    drop(simulated);
    let open = super::with(|kernel| kernel.open_descriptors());
    super::remove();
    assert!(real == record, "the real kernel:\n{real}\nthe simulated one:\n{record}");
    assert_eq!(open, Some(0), "descriptors are left in the simulated table");
}

macro_rules! programs {
    ($($name:ident $stage:ident $body:block)*) => {
        $(#[test] fn $name() { same(|$stage: &mut Stage| $body); })*

        /// How many there are.
        const PROGRAMS: usize = [$(stringify!($name)),*].len();
    };
}

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

    ones_own_shutdown_is_an_edge s {
        s.tcp_pair();
        s.watch("a", ALL);
        s.wait();
        s.shutdown("a");
        s.pause();
        s.wait();
        s.wait();
        s.shutdown("a");
        s.wait();
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

    a_datagram_is_whole_or_cut s {
        s.udp("u");
        s.udp("v");
        s.watch("v", IN);
        s.wait();
        s.post("u", "v", b"one");
        s.post("u", "v", b"");
        s.post("u", "v", b"a long one");
        s.wait();
        s.receive("v", 2, 4);
        s.wait();
        s.receive("v", 8, 4);
        s.receive("v", 8, 4);
        s.wait();
    }

    every_datagram_sent_is_an_edge_for_room s {
        s.udp("u");
        s.udp("v");
        s.watch("u", IN | OUT | EDGE);
        s.wait();
        s.post("u", "v", b"one");
        s.wait();
        s.wait();
        s.post("u", "u", b"to myself");
        s.wait();
        s.receive("u", 1, 100);
        s.wait();
    }

    datagrams_have_their_errors s {
        s.udp("u");
        s.udp("v");
        s.post("u", "v", &[0; 65_507]);
        s.receive("v", 1, 10);
        s.post("u", "v", &[0; 65_508]);
        let gone = socket::local_address(&s.fds["v"]).unwrap();
        s.close("v");
        s.post_to("u", &gone, b"to nobody");
        s.post_to("u", &Address::Unnamed, b"to nobody");
        s.receive("u", 1, 10);
    }

    an_unbound_sender_gets_a_port s {
        s.udp("v");
        s.put("u", socket::datagram(Family::V4).unwrap());
        s.post("u", "v", b"x");
        let port = socket::local_address(&s.fds["u"]).unwrap().port();
        s.note("bound", "u", port.is_some_and(|port| port != 0));
        s.receive("v", 1, 10);
    }

    a_unix_datagram_needs_its_receiver s {
        s.put("u", socket::datagram(Family::Unix).unwrap());
        s.put("v", socket::datagram(Family::Unix).unwrap());
        let name = Address::Abstract(format!("plimsoll-datagram-{}", std::process::id()).into_bytes().into());
        socket::bind(&s.fds["v"], &name).unwrap();
        s.post_to("u", &name, b"x");
        s.receive("v", 4, 10);
        s.close("v");
        s.post_to("u", &name, b"x");
        s.post_to("u", &Address::Unnamed, b"x");
    }

    a_unix_name_without_a_listener_refuses s {
        s.connect_to("a", &Address::Abstract(b"plimsoll-nobody"[..].into()));
        s.connect_to("b", &Address::Path(Path::new("/nonexistent/plimsoll.sock").into()));
        s.unix_pair();
        s.close("l");
        s.send("a", b"x");
    }
}

#[test]
fn the_corpus_is_large_enough() {
    const { assert!(PROGRAMS >= 50) };
}
