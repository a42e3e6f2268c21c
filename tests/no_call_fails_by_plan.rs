//! Programs that use the library carry nothing of the plans by which its own tests let system calls fail.
//!
//! The goal: what is measured and what serves is the library alone. The method: a mark stands beside the hooks, and
//! the bytes of programs are searched for it: of the examples, and of this test, which is linked as any user's program.
//! That the mark is in the library's own tests is asserted there (`src/sys/fault.rs`), and here when the feature asks
//! for the hooks, so that a mark which nobody has cannot go unnoticed. Neither may this package depend on itself,
//! which would turn features of the library on in its examples and benchmarks.
//!
//! `cargo test` builds the examples; for this file alone, `cargo build --examples` comes first.

#[path = "support/source.rs"]
mod source;

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In other letters, or this test would find its own words.
fn has_mark(program: &Path) -> bool {
    let mark = black_box("PLIMSOLL: SYSTEM CALLS OF THIS PROGRAM MAY FAIL BY PLAN").to_lowercase();
    let bytes = fs::read(program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    assert!(bytes.len() > 100_000, "{} is a program", program.display());
    String::from_utf8_lossy(&bytes).contains(&mark)
}

fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("this test has a file");
    // From target/PROFILE/deps/TEST to target/PROFILE/examples.
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    path
}

#[test]
fn programs_have_the_hooks_only_if_they_ask_for_them() {
    // Uses the library, or it would not be linked.
    plimsoll::Reactor::new(()).expect("a reactor");
    let asked = cfg!(feature = "fault");
    let own = std::env::current_exe().expect("this test has a file");
    for program in ["echo", "frames", "relay", "soak"].map(example).into_iter().chain([own]) {
        assert_eq!(has_mark(&program), asked, "{}", program.display());
    }
}

#[test]
fn the_package_does_not_depend_on_itself() {
    // Asked of cargo, since a manifest has many ways to say it.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let asked = cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"]);
    let told = asked.arg(source::root().join("Cargo.toml")).output().expect("cargo runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("cargo tells it as JSON");
    let packages = told["packages"].as_array().expect("a list of packages");
    let own = packages.iter().find(|package| package["name"] == "plimsoll").expect("this package");
    let dependencies = own["dependencies"].as_array().expect("a list of dependencies");
    assert!(dependencies.iter().any(|dependency| dependency["name"] == "bytes"), "{dependencies:?}");
    assert!(!dependencies.iter().any(|dependency| dependency["name"] == "plimsoll"), "{dependencies:?}");
}
