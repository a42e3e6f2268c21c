//! The sides: placeholder until their files are here.

use std::{io, net::SocketAddr};

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    Echo,
    Frames,
    Relay,
    FanOut,
}

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Where a relay connects to.
    #[arg(long)]
    pub upstream: Option<SocketAddr>,
    /// Bytes of a connection's buffer, where a side has one.
    #[arg(long)]
    pub buffer: Option<usize>,
}

pub fn serve(side: &str, role: Role, options: Options) -> io::Result<()> {
    Err(io::Error::other(format!("no {side} for {role:?} with {options:?}")))
}

pub fn sides(_role: Role) -> &'static [&'static str] {
    &[]
}
