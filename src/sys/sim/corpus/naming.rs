//! What a socket knows of itself: its name and its peer's, what it is, and its file.

use super::programs;
use super::stage::Stage;
use crate::sys::epoll::IN;
use crate::sys::socket::{self, Family};
use crate::sys::{Address, KeepAlive, datagram, event};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A name for a file that nobody else uses.
fn path(name: &str) -> Address {
    let thread = std::thread::current().id();
    let name = format!("plimsoll-corpus-{name}-{}-{thread:?}.sock", std::process::id());
    Address::Path(std::env::temp_dir().join(name).into())
}

/// Notes what is to be seen of a file.
fn look(s: &mut Stage, file: &Address) {
    let Address::Path(path) = file else { unreachable!("a path") };
    let answer = socket::is_socket_file(path);
    s.note("socket file", "l", answer);
}

fn unlink(s: &mut Stage, file: &Address) {
    let Address::Path(path) = file else { unreachable!("a path") };
    let answer = socket::unlink(path);
    s.note_unit("unlink", "l", answer);
}

programs! {
    both_ends_know_each_other s {
        for (at, listener, client, server) in [
            (Address::from((Ipv4Addr::LOCALHOST, 0)), "l", "a", "b"),
            (Address::from((Ipv6Addr::LOCALHOST, 0)), "m", "c", "d"),
        ] {
            s.listener(listener, at, 8);
            s.connect(client, listener);
            s.accept(listener, server);
            s.compare_names(client, server);
            s.compare_names(server, client);
            s.note_addresses(client);
            s.note_addresses(server);
            s.note_addresses(listener);
        }
    }

    a_dual_stack_listener_names_its_ipv4_peers_in_mapped_form s {
        s.listener("l", (Ipv6Addr::UNSPECIFIED, 0), 8);
        let port = socket::local_address(&s.fds["l"]).unwrap().port().unwrap();
        s.connect_to("a", &Address::from((Ipv4Addr::LOCALHOST, port)));
        s.accept("l", "b");
        s.note_addresses("a");
        s.note_addresses("b");
        s.note_addresses("l");
    }

    a_listener_for_ipv6_alone_is_nobody_to_ipv4 s {
        s.socket("l", Family::V6);
        socket::set_only_v6(&s.fds["l"], true).unwrap();
        s.bind("l", &(Ipv6Addr::UNSPECIFIED, 0).into());
        s.listen("l");
        let port = socket::local_address(&s.fds["l"]).unwrap().port().unwrap();
        s.connect_to("a", &Address::from((Ipv4Addr::LOCALHOST, port)));
        s.take_error("a");
        s.connect_to("c", &Address::from((Ipv6Addr::LOCALHOST, port)));
        s.take_error("c");
    }

    unix_clients_have_no_name s {
        s.unix_pair();
        s.note_addresses("a");
        s.compare_names("b", "a");
        s.compare_names("a", "b");
    }

    one_who_is_not_connected_has_no_peer s {
        s.socket("t", Family::V4);
        s.socket("u", Family::Unix);
        s.udp("v");
        s.socket("w", Family::V6);
        s.put("x", socket::datagram(Family::V6).unwrap());
        for who in ["t", "u", "v", "w", "x"] {
            s.note_addresses(who);
        }
        s.tcp_listener("l");
        s.note_addresses("l");
        s.bind("u", &Address::Unnamed);
        let name = socket::local_address(&s.fds["u"]).unwrap();
        s.note("named", "u", matches!(name, Address::Abstract(name) if name.len() == 5));
    }

    a_socket_knows_what_it_is s {
        s.tcp_pair();
        s.socket("u", Family::Unix);
        s.udp("v");
        s.put("bell", event::create().unwrap());
        for who in ["l", "a", "b", "u", "v", "bell"] {
            s.note_kind(who);
        }
    }

    options_are_refused_where_they_mean_nothing s {
        s.tcp_listener("t");
        s.socket("u", Family::Unix);
        s.udp("v");
        s.put("bell", event::create().unwrap());
        let second = Duration::from_secs(1);
        let times = Some(KeepAlive { idle: second, interval: second, probes: 3 });
        s.socket("w", Family::V6);
        for who in ["t", "u", "v", "w", "bell"] {
            let fd = &s.fds[who];
            let answers = [
                ("nodelay", socket::set_nodelay(fd, true)),
                ("keep alive", socket::set_keep_alive(fd, times)),
                ("no keep alive", socket::set_keep_alive(fd, None)),
                ("only v6", socket::set_only_v6(fd, true)),
                ("reuse address", socket::set_reuse_address(fd, true)),
                ("linger", socket::set_linger_zero(fd)),
                ("send buffer", socket::set_send_buffer(fd, 100_000)),
                ("receive buffer", socket::set_receive_buffer(fd, 100_000)),
                ("nonblocking", socket::set_nonblocking(fd)),
                ("packet info", datagram::set_packet_info(fd, Family::V4)),
                ("figures", socket::tcp_info(fd).map(drop)),
            ];
            for (option, answer) in answers {
                s.note_unit(option, who, answer);
            }
        }
    }

    a_unix_socket_outlives_itself_as_a_file s {
        let file = path("outlives");
        look(s, &file);
        s.socket("l", Family::Unix);
        s.bind("l", &file);
        look(s, &file);
        s.connect_to("a", &file);
        s.listen("l");
        s.connect_to("a", &file);
        s.note_addresses("a");
        s.socket("m", Family::Unix);
        s.bind("m", &file);
        s.close("l");
        look(s, &file);
        s.bind("m", &file);
        s.connect_to("c", &file);
        unlink(s, &file);
        look(s, &file);
        unlink(s, &file);
        s.connect_to("c", &file);
        s.bind("m", &file);
        s.listen("m");
        s.connect_to("c", &file);
        unlink(s, &file);
    }

    a_listener_whose_file_is_gone_serves_those_it_has s {
        let file = path("gone");
        s.listener("l", file.clone(), 8);
        s.watch("l", IN);
        s.connect_to("a", &file);
        unlink(s, &file);
        s.connect_to("c", &file);
        s.wait();
        s.accept("l", "b");
        s.send("a", b"x");
        s.recv("b", 10);
        s.listener("m", file.clone(), 8);
        s.close("l");
        look(s, &file);
        s.connect_to("c", &file);
        unlink(s, &file);
    }

    a_connection_knows_its_state s {
        s.socket("z", Family::V4);
        s.note_state("z");
        s.tcp_pair();
        for who in ["l", "a", "b"] {
            s.note_state(who);
        }
        s.send("a", b"hello");
        s.acknowledged("a");
        s.note_state("b");
        s.shutdown("a");
        s.acknowledged("a");
        s.note_state("a");
        s.note_state("b");
        s.shutdown("b");
        s.note_state("a");
        s.note_state("b");
    }

    a_connection_that_was_cut_is_closed s {
        s.tcp_pair();
        s.abort("a");
        s.note_state("b");
        s.take_error("b");
        s.note_state("b");
    }
}
