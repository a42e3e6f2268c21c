//! The load: placeholder until its files are here.

use crate::result::Sample;
use std::io;

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Kind {
    Echo,
}

pub fn run(_kind: Kind) -> io::Result<Sample> {
    Err(io::Error::other("no load"))
}
