//! What comes from within: timers and mail.

use super::super::peer::Act;
use super::super::stage::{Entered, Ledger, Stage, Trouble, wrong};
use super::tcp_peer;
use crate::handler::{Ctx, Handler};
use bytes::BytesMut;
use std::time::Duration;

/// One connection with timers of its own, timers of the loop, mail from this thread and from another.
pub fn timers(stage: &mut Stage) -> Result<(), Trouble> {
    struct Ticker {
        heard: usize,
    }
    impl Handler<Ledger> for Ticker {
        fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
            ctx.timer(1, Duration::from_millis(20));
        }
        fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
            self.heard += input.len();
            input.clear();
            if self.heard == 5 {
                ctx.send("heard");
            }
        }
        fn on_timer(&mut self, ctx: &mut Ctx<'_, Ledger>, key: u32) {
            ctx.send("tick ");
            if key < 3 {
                ctx.timer(key + 1, Duration::from_millis(20));
            } else {
                ctx.app.counts[0] += 1;
            }
        }
    }
    stage.open_bystander()?;
    let listener = stage.net().listen("127.0.0.1:0", |ctx, _| Some(Entered::new(ctx.app, Ticker { heard: 0 })))?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::Expect(15), Act::Send(5), Act::Expect(20), Act::Shutdown]));
    stage.net().after(Duration::from_millis(30), |lp| lp.app.counts[1] += 1);
    let every = stage.net().every(Duration::from_millis(15), |lp| lp.app.counts[2] += 1);
    let mailbox = stage.net().mailbox();
    // Between two turns the loop counts as asleep, so the first post of each rings.
    for _ in 0..3 {
        let sent = mailbox.post(|lp| lp.app.counts[3] += 1);
        sent.map_err(|_| wrong("mail is refused"))?;
        stage.until("mail arrives", |stage| stage.reactor.app.counts[3] % 2 == 1)?;
        let mailbox = mailbox.clone();
        let other = std::thread::spawn(move || mailbox.post(|lp| lp.app.counts[3] += 1).is_ok());
        let posted = other.join().expect("posting does not panic");
        stage.until("mail of another thread arrives", |stage| stage.reactor.app.counts[3] % 2 == 0)?;
        if !posted {
            return Err(wrong("mail is refused"));
        }
    }
    stage.until("every timer runs", |stage| {
        let [ticks, once, many, _] = stage.reactor.app.counts;
        once == 1 && many >= 4 && (ticks == 1 || !stage.unharmed())
    })?;
    stage.net().cancel(every);
    stage.until("the peer has its ticks", Stage::peers_ended)?;
    stage.see_off_bystander()?;
    if stage.unharmed() && stage.peers[0].received != b"tick tick tick heard" {
        return Err(wrong(String::from_utf8_lossy(&stage.peers[0].received)));
    }
    Ok(())
}
