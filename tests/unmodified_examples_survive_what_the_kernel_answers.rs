//! The examples as they are built, while the kernel refuses them what they ask for.
//!
//! The goal: no errno that a call can answer costs more than the peer whom it was about, and none stops a server or
//! keeps it from ending. The method: `tests/inject.sh` starts them under strace, which answers in the kernel's place;
//! there is nothing of ours in between. Without strace the test is skipped, and says so; under `CI=true` it fails.

use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn service_goes_on_under_injected_failures() {
    let mut examples = std::env::current_exe().expect("this test has a file");
    examples.pop();
    examples.pop();
    examples.push("examples");
    assert!(examples.join("relay").exists(), "{} is empty: cargo build --examples", examples.display());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inject.sh");
    // All the cases take some fifteen seconds, and each gives up by itself.
    let output = Command::new("timeout")
        .args(["600", script])
        .arg(&examples)
        .stdin(Stdio::null())
        .output()
        .expect("timeout, of coreutils");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    if complained.contains("SKIPPED") {
        // Not eprintln, which the harness would keep to itself.
        std::io::stderr().write_all(complained.as_bytes()).expect("stderr");
    }
}
