//! What the texts say of the code is true of the code.
//!
//! The goal: text and code cannot drift apart. The method: every reference in the README and in `docs/` is resolved
//! (a file exists, a name is defined in it), every program shown in full is the file it shows, and the tour's lists
//! are complete. `UPDATE_README=1 cargo test --test docs` copies the examples into the README anew.
//!
//! A reference is a path in backticks, with a name behind a colon if it means one: `src/reactor.rs:turn`.

#[path = "support/source.rs"]
mod source;

use source::{code_of, files, read, root, words};
use std::path::Path;

/// The texts.
fn texts() -> Vec<String> {
    let mut texts = files("docs", "md");
    texts.extend(["README.md".to_owned(), "CHANGELOG.md".to_owned()]);
    texts
}

/// What stands between single backticks, outside of code blocks.
fn code_spans(text: &str) -> Vec<&str> {
    let mut in_block = false;
    let mut spans = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    spans
}

/// The targets of links, outside of code blocks: `[text](target)`.
fn links(text: &str) -> Vec<&str> {
    let mut in_block = false;
    let mut links = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            let ends = line.split("](").skip(1);
            links.extend(ends.filter_map(|rest| rest.split(')').next()));
        }
    }
    links
}

/// Whether a span means a place in this repository, and which: path, and name if there is one.
fn reference(span: &str) -> Option<(&str, Option<&str>)> {
    let (path, name) = match span.split_once(':') {
        Some((path, name)) => (path, Some(name)),
        None => (span, None),
    };
    let here = ["src/", "tests/", "examples/", "benches/", "docs/", ".ci/"]
        .iter()
        .any(|directory| path.starts_with(directory));
    (here && !path.contains(char::is_whitespace)).then_some((path, name))
}

/// Whether Rust code defines a name: a function, a type, a constant, a variant, a flag.
fn defines(code: &str, name: &str) -> bool {
    const KEYWORDS: &[&str] = &["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "macro_rules"];
    let words = words(code);
    words.windows(2).any(|pair| KEYWORDS.contains(&pair[0]) && pair[1] == name)
        // A variant, a field or a flag stands at the beginning of a line and is followed by what ends its name.
        || code.lines().any(|line| {
            let line = line.trim_start().trim_start_matches("pub ");
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([',', ':', '(', ' ']) || rest.is_empty())
        })
}

/// What is wrong with a reference; `Type::method` wants both.
fn unresolved(path: &str, name: Option<&str>) -> Option<String> {
    if !root().join(path).exists() {
        return Some(format!("{path} does not exist"));
    }
    let name = name?;
    if !path.ends_with(".rs") {
        return Some(format!("{path}:{name}: only Rust files define names"));
    }
    let code = code_of(&read(path));
    name.split("::").find(|part| !defines(&code, part)).map(|part| format!("{path} does not define {part}"))
}

#[test]
fn every_reference_into_the_code_resolves() {
    let mut wrong = Vec::new();
    let mut resolved = 0;
    for text in texts() {
        let content = read(&text);
        for (path, name) in code_spans(&content).into_iter().filter_map(reference) {
            resolved += 1;
            wrong.extend(unresolved(path, name).map(|what| format!("{text}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(resolved > 50, "only {resolved} references were found: are they still written as they were?");
}

#[test]
fn every_link_to_a_file_resolves() {
    for text in texts() {
        let content = read(&text);
        let here = Path::new(&text).parent().expect("a directory");
        for link in links(&content) {
            let target = link.split('#').next().expect("a first part");
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(root().join(here).join(target).exists(), "{text}: {link} leads nowhere");
        }
    }
}

#[test]
fn the_summary_leads_to_every_chapter() {
    let summary = read("docs/SUMMARY.md");
    for chapter in files("docs", "md") {
        let name = chapter.strip_prefix("docs/").expect("below docs");
        assert!(name == "SUMMARY.md" || links(&summary).contains(&name), "docs/SUMMARY.md leaves out {name}");
    }
}

#[test]
fn the_map_shows_every_file() {
    let map = read("docs/map.md");
    let spans = code_spans(&map);
    for file in files("src", "rs") {
        assert!(spans.contains(&file.as_str()), "docs/map.md leaves out {file}");
    }
}

/// `@@` is what a patch has between its hunks, or a place that was to be filled in.
#[test]
fn no_text_has_a_place_left_to_fill_in() {
    for text in texts() {
        for (n, line) in read(&text).lines().enumerate() {
            assert!(!line.contains("@@"), "{text}:{}: {line}", n + 1);
        }
    }
}

/// Programs that the README shows in full, each behind the line that names it.
const SHOWN: &[&str] = &["examples/echo.rs", "examples/relay.rs"];

fn opening(path: &str) -> String {
    format!("<details><summary><code>{path}</code></summary>\n\n```rust,no_run\n")
}

#[test]
fn the_readme_shows_the_examples_as_they_are() {
    let mut readme = read("README.md");
    for path in SHOWN {
        let opening = opening(path);
        let start = readme.find(&opening).unwrap_or_else(|| panic!("the README shows {path}")) + opening.len();
        let end = start + readme[start..].find("```\n\n</details>").expect("the program ends");
        let program = read(path);
        if std::env::var_os("UPDATE_README").is_some() {
            readme.replace_range(start..end, &program);
            std::fs::write(root().join("README.md"), &readme).expect("the README can be written");
        } else {
            assert!(readme[start..end] == program, "{path} has changed: UPDATE_README=1 cargo test --test docs");
        }
    }
}

/// The README's two commands are the ones that `.ci/run` runs.
#[test]
fn the_readmes_commands_are_those_that_are_tried() {
    let readme = read("README.md");
    let ci = read(".ci/run");
    assert!(readme.contains("\ncargo run --release --example echo\n"));
    assert!(ci.contains("cargo build --release --example echo"));
    assert!(readme.contains("\ncargo test\n"));
    assert!(ci.contains("\nrun cargo test\n"));
}

#[test]
fn a_reference_to_nothing_is_seen() {
    assert_eq!(reference("src/net.rs:send"), Some(("src/net.rs", Some("send"))));
    assert_eq!(reference("src/net.rs"), Some(("src/net.rs", None)));
    assert_eq!(reference("cargo test"), None);
    assert!(unresolved("src/net.rs", Some("send")).is_none());
    assert!(unresolved("src/connection.rs", Some("Phase::Lingering")).is_none());
    assert!(unresolved("src/connection.rs", Some("GATED")).is_none());
    assert!(unresolved("src/net.rs", Some("sends")).is_some());
    assert!(unresolved("src/connection.rs", Some("Phase::Absent")).is_some());
    assert!(unresolved("src/nets.rs", None).is_some());
    assert_eq!(code_spans("a `b` c\n```\n`d`\n```\n`e`"), ["b", "e"]);
    assert_eq!(links("[a](b.md) [c](https://d.e)"), ["b.md", "https://d.e"]);
}
