//! The liar: an echo that is wrong on purpose, to see that the generator sees it.
//!
//! Every row of a report rests on the generator comparing what comes back. So a smoke run measures this server too, as
//! it measures a guest's: honest, it must pass; with either lie the round must fail, and say why.
//!
//! | lie | what it does |
//! |---|---|
//! | none | sends back what comes |
//! | wrong-byte | one bit of the thousandth byte of each connection is another |
//! | turns-away | every fifth connection is closed at once |
//!
//! It knows nothing of the rivals, and is as simple as can be: a thread for each connection.

use crate::rivals::Role;
use crate::server::{Cores, Side, serve_once, this_program};
use clap::ValueEnum;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// Which byte of a connection is wrong.
const WRONG_PLACE: usize = 1000;

/// Which connections are not served.
const TURNED_AWAY: usize = 5;

/// How long a round may take. It is a matter of milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lie {
    None,
    WrongByte,
    TurnsAway,
}

/// That an honest server passes, and no other.
///
/// # Errors
/// A lie was believed, or the truth was not.
pub fn see_through(cores: &Cores) -> io::Result<()> {
    for lie in Lie::value_variants() {
        let name = lie.to_possible_value().expect("no lie is hidden").get_name().to_owned();
        let command = vec![this_program()?, "lie".to_owned(), name.clone(), "{port}".to_owned()];
        let side = Side::Theirs { name: format!("the liar ({name})"), command };
        // More than a thousand bytes each, and more connections than are served.
        let load = "echo --connections 10 --size 64 --rounds 20".split(' ').map(str::to_owned).collect::<Vec<_>>();
        match (serve_once(&side, Role::Echo, &load, &[], cores, PATIENCE), lie) {
            (Ok(_), Lie::None) => {}
            (Err(e), Lie::WrongByte) if e.to_string().contains("a byte is wrong") => {}
            // Whether it is an end or a reset that comes of it is a matter of timing.
            (Err(e), Lie::TurnsAway) if e.to_string().contains("connection ") => {}
            (Ok(_), _) => return Err(io::Error::other(format!("the load has believed a liar ({name})"))),
            (Err(e), _) => return Err(io::Error::other(format!("not the lie of a liar ({name}) was seen, but: {e}"))),
        }
    }
    Ok(())
}

/// Serves until it is ended.
pub fn serve(lie: Lie, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut accepted = 0;
    loop {
        let (stream, _) = listener.accept()?;
        accepted += 1;
        if lie != Lie::TurnsAway || accepted % TURNED_AWAY != 0 {
            // Who has ended a connection has ended it.
            thread::spawn(move || echo(stream, lie));
        }
    }
}

fn echo(mut stream: TcpStream, lie: Lie) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut position) = ([0; 4096], 0);
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        if lie == Lie::WrongByte && (position..position + n).contains(&WRONG_PLACE) {
            buffer[WRONG_PLACE - position] ^= 1;
        }
        stream.write_all(&buffer[..n])?;
        position += n;
    }
}
