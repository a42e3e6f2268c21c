//! Datagrams, which nobody is owed.

use super::super::stage::{Stage, Trouble, wrong};
use super::tcp_address;
use bytes::Bytes;
use std::net::UdpSocket;

/// Datagrams go back to where they came from; one socket asks, through the loop as well.
pub fn udp(stage: &mut Stage) -> Result<(), Trouble> {
    const DATAGRAMS: u32 = 12;
    let server = stage.net().udp("127.0.0.1:0", |ctx, datagram| {
        ctx.app.counts[0] += 1;
        let (from, data) = (datagram.from.clone(), Bytes::copy_from_slice(datagram.data));
        ctx.net.send_from(ctx.token, from, data, datagram.interface, datagram.local);
    })?;
    let asker = stage.net().udp("127.0.0.1:0", |ctx, datagram| {
        // In order, each once; one that the kernel would not have is left out.
        let number = u32::from_be_bytes(datagram.data.try_into().unwrap_or([0xff; 4]));
        ctx.app.counts[2] += u32::from(number < ctx.app.counts[3]);
        ctx.app.counts[3] = number + 1;
        ctx.app.counts[1] += 1;
    })?;
    let to = stage.address(server)?;
    let (first, second) = (0..DATAGRAMS / 2, DATAGRAMS / 2..DATAGRAMS);
    for batch in [first, second] {
        for number in batch.clone() {
            stage.net().send_to(asker, &to, &number.to_be_bytes()[..]);
        }
        let end = batch.end;
        stage.until("all datagrams are back, or dropped", |stage| {
            let dropped = stage.reactor.net.stats().datagrams_dropped;
            u64::from(stage.reactor.app.counts[1]) + dropped >= u64::from(end)
        })?;
    }
    let outside = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    outside.set_nonblocking(true).expect("a socket of ours");
    outside.send_to(b"abcd", tcp_address(&to)).expect("loopback takes it");
    let dropped = stage.reactor.net.stats().datagrams_dropped;
    let answer = std::cell::Cell::new(None);
    stage.until("a stranger is answered", |stage| {
        let mut buffer = [0; 16];
        if let Ok((n, _)) = outside.recv_from(&mut buffer) {
            answer.set(Some(buffer[..n].to_vec()));
        }
        answer.take().inspect(|bytes| assert_eq!(bytes, b"abcd")).is_some()
            || stage.reactor.net.stats().datagrams_dropped > dropped
    })?;
    let [asked, back, disorder, _] = stage.reactor.app.counts;
    // A fault drops one datagram, on its way there or back.
    let lost = stage.may_harm() as u32;
    let all = (DATAGRAMS - lost..=DATAGRAMS).contains(&back) && (DATAGRAMS + 1 - lost..=DATAGRAMS + 1).contains(&asked);
    if disorder > 0 || !all {
        return Err(wrong(format!("{asked} datagrams came, {back} came back, {disorder} out of order")));
    }
    Ok(())
}
