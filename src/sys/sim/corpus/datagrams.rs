//! Datagrams, which are whole, or cut, or lost.

use super::programs;
use crate::sys::Address;
use crate::sys::epoll::{EDGE, IN, OUT};
use crate::sys::socket::{self, Family};

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
}
