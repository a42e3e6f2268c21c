//! Shrinking: from a program that goes wrong to the few operations that are needed for it.
//!
//! Pieces are left out, large ones first, for as long as what is left still goes wrong (delta debugging). Then sizes
//! and times are made small. With every operation that is left out, chance falls otherwise, so each attempt is made
//! under several lucks. A shrunk program may go wrong in another way than the first one did; that is a finding as well.

use super::acts::{Act, Op, Program};
use super::run::Ran;

/// How a program is run.
pub type Run = dyn Fn(&Program) -> Result<Ran, String>;

/// Runs, at most: a program that needs many turns need not be shrunk to the last.
const RUNS: u32 = 4_000;

/// Lucks that are tried for each attempt.
const LUCKS: u64 = 8;

/// What to print for a program that went wrong.
pub fn report(program: &Program, wrong: &str, run: &Run) -> String {
    let (small, last) = shrink(program, wrong, run);
    let ops: String = small.ops.iter().map(|op| format!("    {:>6} µs  {:?}  {:?}\n", op.at, op.via, op.act)).collect();
    format!(
        "seed {} ({:?}): {wrong}\nshrunk from {} operations to {}, which say: {last}\n{ops}\
         all again: SIM_SEED={} SIM_WEATHER={} cargo test --lib sim::programs::one_seed\n\
         those alone: SIM_PROGRAM='{small}' cargo test --lib sim::programs::one_seed\n",
        program.seed,
        program.sky,
        program.ops.len(),
        small.ops.len(),
        program.seed,
        format!("{:?}", program.sky).to_lowercase(),
    )
}

fn shrink(program: &Program, wrong: &str, run: &Run) -> (Program, String) {
    let mut best = (program.clone(), wrong.to_owned());
    let mut runs = 0;
    let mut attempt = |best: &mut (Program, String), ops: Vec<Op>| {
        for luck in 0..LUCKS {
            runs += 1;
            let candidate = Program { ops: ops.clone(), luck, ..best.0.clone() };
            if runs > RUNS {
                return false;
            }
            if let Err(wrong) = run(&candidate) {
                *best = (candidate, wrong);
                return true;
            }
        }
        false
    };
    let mut piece = best.0.ops.len().div_ceil(2);
    while piece > 0 {
        let mut start = 0;
        let mut progress = false;
        while start < best.0.ops.len() {
            let mut ops = best.0.ops.clone();
            ops.drain(start..(start + piece).min(ops.len()));
            if attempt(&mut best, ops) {
                progress = true;
            } else {
                start += piece;
            }
        }
        if !progress || piece > 1 {
            piece /= 2;
        }
    }
    for index in 0..best.0.ops.len() {
        for smaller in smaller(best.0.ops[index]) {
            let mut ops = best.0.ops.clone();
            ops[index] = smaller;
            attempt(&mut best, ops);
        }
    }
    best
}

/// The same with a smaller size, or at once.
fn smaller(op: Op) -> Vec<Op> {
    let sizes = |make: fn(u8, u16) -> Act, which, size: u16| {
        [1, 100, 2_000]
            .into_iter()
            .filter(|small| *small < size)
            .map(|small| Op { act: make(which, small), ..op })
            .collect()
    };
    match op.act {
        Act::Send(which, size) => sizes(Act::Send, which, size),
        Act::Write(which, size) => sizes(Act::Write, which, size),
        Act::Read(which, size) => sizes(Act::Read, which, size),
        Act::Datagram(which, size) => sizes(Act::Datagram, which, size),
        Act::DatagramIn(which, size) => sizes(Act::DatagramIn, which, size),
        _ => vec![Op { at: 0, ..op }],
    }
}

#[cfg(test)]
mod tests {
    use super::super::acts::Sky;
    use super::super::run::run_as;
    use super::*;

    /// As the test of a reader would.
    fn replayed(report: &str) -> Program {
        let (_, rest) = report.split_once("SIM_PROGRAM='").expect("the report has the short list");
        let (text, _) = rest.split_once('\'').expect("quoted");
        text.parse().expect("a program")
    }

    #[test]
    fn what_a_report_has_shrunk_goes_wrong_again_in_the_same_way() {
        let careless = |program: &Program| run_as(program, true);
        let mut found = 0;
        for seed in 0..400 {
            let program = Program::from_seed(seed, Sky::Stormy);
            let Err(wrong) = careless(&program) else { continue };
            let report = report(&program, &wrong, &careless);
            let short = replayed(&report);
            let again = careless(&short).expect_err("it goes wrong again");
            assert!(report.contains(&format!("which say: {again}\n")), "{again}, and the report:\n{report}");
            assert!(short.ops.len() < program.ops.len(), "{report}");
            found += 1;
            if found == 3 {
                return;
            }
        }
        panic!("a handler that counts wrong was found {found} times");
    }

    #[test]
    fn a_program_is_read_as_it_is_printed() {
        for seed in 0..200 {
            let program = Program { luck: seed % 8, ..Program::from_seed(seed, Sky::Windy) };
            assert_eq!(program.to_string().parse(), Ok(program));
        }
        assert!("Windy seed 1 luck 0; 0 Timer Sing(1)".parse::<Program>().is_err());
        assert!("Windy seed 1 luck 0; 0 Timer Send(1)".parse::<Program>().is_err());
    }
}
