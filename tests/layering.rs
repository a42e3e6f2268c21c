//! Imports point down only, and what belongs to the ground stays there.
//!
//! The goal: the floors of `docs/map.md` are true of the code. The method: every `crate::` path in `src/` (but for
//! test modules) is held against the table below; a file or a module that the table does not name is a failure, so
//! that a new file gets a floor before it is merged.

#[path = "support/source.rs"]
mod source;

use source::{code_of, files, read, without_tests, words};

/// One floor: its modules, and whether they may import one another.
struct Floor {
    name: &'static str,
    modules: &'static [&'static str],
    /// Modules of a floor without this stand side by side and know nothing of each other.
    imports_itself: bool,
}

/// From the ground up.
const FLOORS: &[Floor] = &[
    Floor { name: "system", modules: &["sys"], imports_itself: true },
    Floor { name: "ground", modules: &["token", "output", "options", "stats"], imports_itself: false },
    Floor { name: "gates", modules: &["poller", "timer", "mailbox", "signal", "workers"], imports_itself: false },
    Floor {
        name: "reactor",
        modules: &[
            "reactor",
            "net",
            "closures",
            "handover",
            "handler",
            "handlers",
            "connection",
            "sockets",
            "intake",
            "outflow",
            "ending",
            "deadlines",
            "listener",
            "datagram",
            "connect",
            "dial",
            "relay",
            "filter",
        ],
        imports_itself: true,
    },
    Floor { name: "protocol", modules: &["codec"], imports_itself: true },
    // Not in a normal build.
    Floor { name: "test kit", modules: &["sim"], imports_itself: true },
];

/// What only the ground floor's `sys` may name: descriptors, sockets, system calls, clocks.
const OF_SYS_ALONE: &[&str] = &[
    "unsafe",
    "libc",
    "nix",
    "OwnedFd",
    "RawFd",
    "FromRawFd",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "SystemTime",
];

/// The floor of a module, counted from the ground.
fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.modules.contains(&module))
}

/// `src/codec/lines.rs` belongs to `codec`, `src/net.rs` to `net`.
fn module_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").expect("a file of src");
    inside.split('/').next().expect("a name").trim_end_matches(".rs")
}

/// The modules that the crate's root declares, but for those that are tests.
fn declared(root: &str) -> Vec<String> {
    let root = without_tests(&code_of(root));
    let words = words(&root);
    words.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1].to_owned()).collect()
}

/// What is wrong with the imports of a module whose code has these words.
fn wrong_imports(module: &str, words: &[&str]) -> Vec<String> {
    let Some(own_floor) = floor_of(module) else { return vec![format!("{module} is on no floor")] };
    let mut wrong = Vec::new();
    for path in words.windows(3).filter(|path| path[0] == "crate" && path[1] == "::") {
        let imported = path[2];
        let Some(floor) = floor_of(imported) else {
            wrong.push(format!("crate::{imported} names no module of a floor (write one path per line)"));
            continue;
        };
        let beside = floor == own_floor && imported != module && !FLOORS[floor].imports_itself;
        if floor > own_floor || beside {
            let (own, other) = (FLOORS[own_floor].name, FLOORS[floor].name);
            wrong.push(format!("{module} ({own}) imports {imported} ({other})"));
        }
    }
    wrong
}

/// `super` reaches the crate's root from a file right below it: such a path would escape the table.
fn climbs_out(path: &str, words: &[&str]) -> bool {
    let depth = path.matches('/').count() - usize::from(path.ends_with("/mod.rs"));
    let climb = ["super", "::"].repeat(depth);
    words.windows(climb.len()).any(|window| window == climb)
}

fn named(words: &[&str], forbidden: &str) -> bool {
    words.contains(&forbidden)
}

/// Every file of src but those of modules that are tests: its path and the words of its code.
fn for_each_file(mut check: impl FnMut(&str, &[&str])) {
    let paths = files("src", "rs");
    assert!(paths.len() > 20, "the source is where it was");
    let root = read("src/lib.rs");
    let declared = declared(&root);
    // A module with a misspelt switch would be none of either.
    let all = words(&code_of(&root)).windows(2).filter(|pair| pair[0] == "mod").count();
    let tests = root.matches("#[cfg(test)]\nmod ").count() + root.matches("#[cfg(any(test, fuzzing))]\n").count();
    assert_eq!(tests + declared.len(), all, "a module is code or a test");
    for path in paths {
        if path != "src/lib.rs" && !declared.iter().any(|module| module == module_of(&path)) {
            continue;
        }
        let code = without_tests(&code_of(&read(&path)));
        check(&path, &words(&code));
    }
}

#[test]
fn imports_point_down_only() {
    let mut wrong = Vec::new();
    for_each_file(|path, words| {
        if path == "src/lib.rs" {
            return;
        }
        wrong.extend(wrong_imports(module_of(path), words).into_iter().map(|what| format!("{path}: {what}")));
        if climbs_out(path, words) {
            wrong.push(format!("{path}: a path through super leaves its floor; write crate::"));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_table_exists() {
    let declared = declared(&read("src/lib.rs"));
    for floor in FLOORS {
        for module in floor.modules {
            assert!(declared.iter().any(|name| name == module), "{module} is in the table and not in src/lib.rs");
        }
    }
    for module in declared {
        assert!(floor_of(&module).is_some(), "{module} is in src/lib.rs and on no floor");
    }
}

#[test]
fn the_crates_root_only_declares_and_exports() {
    let code = code_of(&read("src/lib.rs"));
    for item in ["fn", "struct", "enum", "impl", "trait", "static", "macro_rules"] {
        assert!(!named(&words(&code), item), "src/lib.rs defines a {item}");
    }
}

#[test]
fn descriptors_sockets_clocks_and_unsafe_are_of_sys_alone() {
    let mut wrong = Vec::new();
    for_each_file(|path, words| {
        if path.starts_with("src/sys/") {
            return;
        }
        for name in OF_SYS_ALONE.iter().filter(|name| named(words, name)) {
            wrong.push(format!("{path} names {name}"));
        }
        if words.windows(3).any(|path| path == ["Instant", "::", "now"]) {
            wrong.push(format!("{path} reads the clock"));
        }
        // The one switch that would make the lint below worth nothing.
        if path != "src/lib.rs" && named(words, "unsafe_code") {
            wrong.push(format!("{path} changes the lint unsafe_code"));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_denied_but_for_sys() {
    assert!(read("src/lib.rs").contains("#![deny(unsafe_code)]"));
    assert!(read("Cargo.toml").contains("unsafe_code = \"deny\""));
    for path in files("src", "rs") {
        let allows = code_of(&read(&path)).contains("allow(unsafe_code)");
        assert_eq!(allows, path == "src/sys/mod.rs", "{path}");
    }
}

#[test]
fn an_import_that_points_up_is_seen() {
    let wrong = |module, code: &str| wrong_imports(module, &words(&without_tests(&code_of(code))));
    assert!(wrong("poller", "use crate::sys::{self, Fd};\nuse crate::token::Token;").is_empty());
    assert!(wrong("net", "use crate::sockets::Sockets; fn f() { crate::timer::x() }").is_empty());
    assert_eq!(wrong("poller", "use crate::reactor::Reactor;").len(), 1);
    assert_eq!(wrong("poller", "fn f() { crate::net::Net::g() }").len(), 1);
    assert_eq!(wrong("timer", "use crate::mailbox::Inbox;").len(), 1);
    assert_eq!(wrong("sys", "use crate::token::Token;").len(), 1);
    assert_eq!(wrong("net", "use crate::codec::Frame;").len(), 1);
    assert_eq!(wrong("net", "use crate::Token;").len(), 1);
    assert_eq!(wrong("net", "use crate::{token::Token};").len(), 1);
    assert_eq!(wrong("novelty", "").len(), 1);
    // Text and tests are no imports.
    assert!(wrong("poller", "//! See crate::net::Net\n/* crate::net */ const X: &str = \"crate::net\";").is_empty());
    assert!(wrong("poller", "#[cfg(test)]\nmod tests { use crate::net::Net; }").is_empty());
    assert_eq!(wrong("poller", "#[cfg(test)]\nuse crate::net::A;\nuse crate::net::B;").len(), 1);
}

#[test]
fn a_path_that_climbs_out_of_its_module_is_seen() {
    let climbs = |path, code: &str| climbs_out(path, &words(code));
    assert!(climbs("src/net.rs", "use super::reactor::Reactor;"));
    assert!(climbs("src/codec/mod.rs", "use super::net::Net;"));
    assert!(climbs("src/codec/lines.rs", "use super::super::net::Net;"));
    assert!(!climbs("src/codec/lines.rs", "use super::Frame;"));
    assert!(!climbs("src/net.rs", "use crate::handler::Ctx;"));
}

#[test]
fn literals_and_comments_are_not_code() {
    let code = code_of("a /* b /* c */ d */ e // f\n\"g\\\"h\" 'i' '\\'' r#\"j\"k\"# <'l> br\"m\" n'");
    assert_eq!(words(&code), ["a", "e", "l", "n"]);
}
