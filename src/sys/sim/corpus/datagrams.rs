//! Datagrams, which are whole, or cut, or lost.

use super::programs;
use crate::sys::epoll::{EDGE, IN, OUT};
use crate::sys::socket::{self, Family};
use crate::sys::{Address, datagram};
use std::net::Ipv4Addr;

programs! {
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

    a_batch_ends_at_what_cannot_be_sent s {
        s.udp("u");
        s.udp("v");
        s.post_all("u", "v", &[b"one", b"two", &[0; 65_508], b"three"]);
        s.post_all("u", "v", &[&[0; 65_508], b"three"]);
        s.post_all("u", "v", &[b"three"]);
        s.receive("v", 8, 16);
        s.receive("v", 8, 16);
    }

    a_batch_is_received_as_far_as_there_are_slots s {
        s.udp("u");
        s.udp("v");
        s.watch("v", IN);
        s.post_all("u", "v", &[b"1", b"22", b"333", b"4444", b"55555"]);
        s.receive("v", 2, 3);
        s.wait();
        s.receive("v", 2, 3);
        s.receive("v", 2, 3);
        s.receive("v", 2, 3);
        s.wait();
    }

    one_who_is_not_connected_hears_of_no_refusal s {
        s.udp("u");
        s.udp("v");
        let gone = socket::local_address(&s.fds["v"]).unwrap();
        s.close("v");
        s.watch("u", IN | OUT | EDGE);
        s.wait();
        s.post_to("u", &gone, b"to nobody");
        s.wait();
        s.take_error("u");
        s.receive("u", 1, 10);
        s.post_to("u", &gone, b"to nobody");
        s.wait();
    }

    what_does_not_fit_is_lost_without_a_word s {
        s.udp("u");
        s.udp("v");
        socket::set_receive_buffer(&s.fds["v"], 4_096).unwrap();
        s.watch("v", IN);
        for _ in 0..200 {
            s.post("u", "v", &[b'x'; 100]);
        }
        s.wait();
        let some = (1..200).contains(&s.receive_all("v"));
        s.note("some", "v", some);
        s.wait();
        s.post("u", "v", b"next");
        s.receive("v", 4, 10);
    }

    the_address_it_was_sent_to_is_told_if_that_was_asked s {
        for who in ["v", "w"] {
            s.put(who, socket::datagram(Family::V4).unwrap());
            s.bind(who, &(Ipv4Addr::UNSPECIFIED, 0).into());
        }
        datagram::set_packet_info(&s.fds["v"], Family::V4).unwrap();
        s.udp("u");
        for who in ["v", "w"] {
            let port = socket::local_address(&s.fds[who]).unwrap().port().unwrap();
            s.post_to("u", &(Ipv4Addr::LOCALHOST, port).into(), b"x");
            s.receive_with_address(who);
        }
    }

    a_port_is_shared_if_both_agree s {
        for (first, second, agree) in [("u", "v", true), ("w", "x", false)] {
            s.put(first, socket::datagram(Family::V4).unwrap());
            s.put(second, socket::datagram(Family::V4).unwrap());
            socket::set_reuse_address(&s.fds[first], true).unwrap();
            socket::set_reuse_address(&s.fds[second], agree).unwrap();
            s.bind(first, &(Ipv4Addr::LOCALHOST, 0).into());
            let address = socket::local_address(&s.fds[first]).unwrap();
            s.bind(second, &address);
        }
    }

    a_full_unix_receiver_says_again_and_room_is_told_all_the_time s {
        s.unix_datagrams("u", "v");
        s.watch("u", IN | OUT);
        s.watch("v", IN);
        s.wait();
        s.post_until_full("u", "v");
        s.wait();
        s.wait();
        s.post("u", "v", b"x");
        let some = s.receive_all("v") > 0;
        s.note("some", "v", some);
        s.wait();
        s.post("u", "v", b"x");
        s.receive("v", 4, 10);
    }

    a_unix_datagram_is_whole_or_cut s {
        s.unix_datagrams("u", "v");
        s.watch("v", IN);
        s.post_all("u", "v", &[b"one", b"", b"a long one"]);
        s.wait();
        s.receive("v", 8, 4);
        s.receive("v", 8, 4);
        s.wait();
    }

    a_send_buffer_is_never_full_on_the_loopback s {
        s.udp("u");
        s.udp("v");
        socket::set_send_buffer(&s.fds["u"], 1_000).unwrap();
        s.watch("u", IN | OUT | EDGE);
        s.wait();
        for _ in 0..50 {
            s.post("u", "v", &[b'x'; 1_000]);
        }
        s.wait();
        s.wait();
    }
}
