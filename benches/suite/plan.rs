//! The plan: which cells a run has, and how long they take.

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scale {
    /// That everything works: seconds.
    Smoke,
    /// A first look: under three minutes.
    Quick,
    /// What a report is made from: under half an hour.
    Full,
}
