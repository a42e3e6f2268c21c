//! The benchmarks' report shows what was measured, and nothing else.
//!
//! The goal: tables, verdicts and pictures follow from the run; what failed is shown as failed and never as a row; and
//! the files can be read by other programs. The method: a run is made up here, of all scenarios, whose figures are so
//! simple that what has to come out is plain; the report's source is included, since it belongs to a program
//! without a test runner. `REPORT_OUT=directory` keeps what was written, to look at it.

#[path = "../benches/suite/report/mod.rs"]
mod report;
#[path = "../benches/suite/result.rs"]
mod result;
#[path = "../benches/suite/statistic.rs"]
mod statistic;

use result::{Cell, Machine, Run, Sample, SideResult};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ECHOES: &[&str] = &["plimsoll", "plimsoll-split", "tokio-8k", "tokio-16k", "tokio-64k", "mio", "floor"];
const RELAYS: &[&str] = &["plimsoll", "tokio-8k", "tokio-16k", "tokio-64k", "mio", "floor"];
const FANS: &[&str] = &["plimsoll", "tokio", "mio", "floor"];
const FANS_BESIDE_A_SLEEPER: &[&str] =
    &["plimsoll", "plimsoll+sleeper", "tokio", "tokio+sleeper", "mio", "mio+sleeper", "floor", "floor+sleeper"];
const HOLDERS: &[&str] = &["plimsoll", "tokio-8k", "tokio-64k", "mio", "floor"];

/// Rounds of one cell: the mood of the machine, which all sides share.
const MOODS: [f64; 7] = [1.0, 0.9, 1.05, 0.7, 1.02, 0.98, 1.3];

/// How a side compares with the floor, in time; less is faster.
fn price(side: &str) -> f64 {
    match side {
        "plimsoll" => 1.02,
        "plimsoll-split" => 1.04,
        "plimsoll-spin" | "floor-spin" => 0.5,
        "tokio-8k" => 1.7,
        "tokio-16k" => 1.5,
        "tokio" | "tokio-64k" => 1.3,
        "tokio-buffered" => 1.2,
        "mio" => 1.1,
        "floor-gathered" => 0.95,
        _ => 1.0,
    }
}

fn sample(figures: &[(&str, f64)]) -> Sample {
    let figures = figures.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    Sample { figures, percentiles: Vec::new(), served: 1 }
}

fn with_curve(mut sample: Sample) -> Sample {
    let p50 = sample.figures["latency_p50_ns"];
    let curve = [(0.0, 0.5), (0.5, 1.0), (0.9, 1.5), (0.99, 4.0), (0.999, 12.0), (0.9999, 30.0), (1.0, 90.0)];
    sample.percentiles = curve.iter().map(|(quantile, times)| (*quantile, (p50 * times) as u64)).collect();
    sample
}

/// A cell whose sides do what `round` says of them, given their price and the mood.
fn cell(
    scenario: &str,
    variant: &str,
    parameters: &[(&str, u64)],
    sides: &[&str],
    round: impl Fn(&str, f64, f64) -> Sample,
) -> Cell {
    let result = |side: &&str| SideResult {
        side: side.to_string(),
        rounds: MOODS.iter().map(|mood| round(side, price(side), *mood)).collect(),
        error: None,
    };
    Cell {
        scenario: scenario.to_owned(),
        variant: variant.to_owned(),
        parameters: parameters.iter().map(|(name, value)| (name.to_string(), *value)).collect(),
        sides: sides.iter().map(result).collect(),
    }
}

fn echoes(scenario: &str, variant: &str, parameters: &[(&str, u64)], sides: &[&str], base_ns: f64) -> Cell {
    let connections =
        parameters.iter().find(|(name, _)| *name == "connections").map_or(1.0, |(_, value)| *value as f64);
    cell(scenario, variant, parameters, sides, |_, price, mood| {
        let (ns, jitter) = (base_ns * price, 1.0 / mood);
        with_curve(sample(&[
            ("messages_per_second", 1e9 / ns * mood),
            ("latency_p50_ns", ns * connections * jitter),
            ("latency_p99_ns", 4.0 * ns * connections * jitter),
            ("latency_p999_ns", 12.0 * ns * connections * jitter),
            ("server_cpu_ns_per_message", ns * 0.9),
        ]))
    })
}

/// Counts and memory: one number for each side, without a mood.
fn exact(scenario: &str, variant: &str, parameters: &[(&str, u64)], values: &[(&str, &[(&str, f64)])]) -> Cell {
    let side = |(name, figures): &(&str, &[(&str, f64)])| SideResult {
        side: name.to_string(),
        rounds: vec![sample(figures)],
        error: None,
    };
    Cell { sides: values.iter().map(side).collect(), ..cell(scenario, variant, parameters, &[], |_, _, _| sample(&[])) }
}

/// A run of everything that the suite has.
fn run() -> Run {
    let mut cells = Vec::new();
    for size in [64, 1024, 16_384, 65_536] {
        for connections in [1, 10, 100, 1000, 10_000] {
            let parameters = [("size_bytes", size), ("connections", connections)];
            let base = 3_800.0 + size as f64 * 0.35 + 18_000.0 / connections as f64;
            cells.push(echoes("ping-pong", "", &parameters, ECHOES, base));
        }
    }
    let spinners = ["plimsoll", "plimsoll-spin", "tokio-64k", "floor", "floor-spin"];
    cells.push(echoes("round-trip", "", &[("size_bytes", 64), ("connections", 1)], &spinners, 42_000.0));
    for rate in [10_000, 30_000, 60_000] {
        let parameters = [("size_bytes", 64), ("connections", 100), ("rate", rate)];
        cells.push(echoes("fixed-rate", "", &parameters, FANS, 3_000.0));
    }
    let framers = ["plimsoll", "tokio-64k", "tokio-buffered", "mio", "floor", "floor-gathered"];
    for depth in [1, 16, 128] {
        let parameters = [("size_bytes", 64), ("connections", 50), ("depth", depth)];
        cells.push(cell("frames", "", &parameters, &framers, |side, price, mood| {
            let gathers = ["plimsoll", "tokio-buffered", "floor-gathered"].contains(&side);
            let writes = if gathers { 1.0 / depth as f64 } else { 1.0 };
            let ns = price * (3_400.0 * writes + 200.0);
            with_curve(sample(&[
                ("messages_per_second", 1e9 / ns * mood),
                ("latency_p50_ns", ns * depth as f64 * 50.0),
                ("server_cpu_ns_per_message", ns),
            ]))
        }));
    }
    cells.extend(relays());
    cells.extend(fan_outs());
    cells.push(cell("fairness", "", &[("bulk", 4), ("small", 50)], HOLDERS, |_, price, mood| {
        with_curve(sample(&[
            ("latency_p50_ns", 310e3 * price / mood),
            ("latency_p99_ns", 900e3 * price / mood),
            ("latency_p999_ns", 2e6 * price / mood),
            ("bytes_per_second", 2.2e9 * mood / price),
        ]))
    }));
    for connections in [100, 1000, 19_000] {
        cells.push(cell("storm", "", &[("connections", connections)], FANS, |_, price, mood| {
            sample(&[
                ("connections_per_second", 41e3 * mood / price),
                ("connect_p99_ns", 30e3 * connections as f64 * price),
            ])
        }));
    }
    cells.push(cell("churn", "", &[("size_bytes", 64)], FANS, |_, price, mood| {
        sample(&[("connections_per_second", 30e3 * mood / price), ("connect_p99_ns", 90e3 * price / mood)])
    }));
    cells.extend(counts());
    cells.extend(alone());
    Run {
        machine: Machine {
            cpu: "Example processor".to_owned(),
            cores: 2,
            memory_bytes: 8 << 30,
            kernel: "Linux 6.18".to_owned(),
            rustc: "rustc 1.95.0".to_owned(),
            versions: BTreeMap::from([("tokio".to_owned(), "1.48.0".to_owned())]),
            congestion_control: "reno".to_owned(),
            namespace: true,
            server_core: Some(0),
            load_core: Some(1),
            descriptor_limit: 20_000,
        },
        command: "cargo bench -- --server mine='./serve_it {port}'".to_owned(),
        started: "2001-02-03T04:05:06Z".to_owned(),
        seconds: 1692.0,
        scale: "full".to_owned(),
        warnings: vec!["this run is made up: <nothing> of it was | measured".to_owned()],
        cells,
    }
}

fn relays() -> Vec<Cell> {
    let bulk = cell("relay", "bulk", &[("mib", 1024)], RELAYS, |_, price, mood| {
        sample(&[("server_cpu_seconds_per_gib", 0.19 * price), ("bytes_per_second", 4e9 * mood / price)])
    });
    let slow: &[(&str, &[(&str, f64)])] = &[
        ("plimsoll", &[("growth_bytes", 196e3), ("bytes_lost", 0.0)]),
        ("tokio-16k", &[("growth_bytes", 0.0), ("bytes_lost", 0.0)]),
        ("floor", &[("growth_bytes", 92e3), ("bytes_lost", 0.0)]),
    ];
    vec![
        bulk,
        echoes("relay", "pairs", &[("size_bytes", 64), ("connections", 100)], RELAYS, 8_100.0),
        echoes("relay", "idle", &[("size_bytes", 64), ("pairs", 1000), ("busy", 10)], RELAYS, 8_400.0),
        exact("relay", "slow", &[("mib", 1024), ("stop_seconds", 3)], slow),
    ]
}

fn fan_outs() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (subscribers, burst) in [10, 100, 1000, 5000].into_iter().flat_map(|count| [(count, 1), (count, 16)]) {
        let parameters = [("size_bytes", 64), ("subscribers", subscribers), ("burst", burst)];
        let sides = if burst == 16 && (100..=1000).contains(&subscribers) { FANS_BESIDE_A_SLEEPER } else { FANS };
        cells.push(cell("fan-out", "", &parameters, sides, |side, _, mood| {
            let (name, sleeper) = side.split_once('+').map_or((side, 1.0), |(name, _)| (name, 1.05));
            let ns = sleeper * price(name) * (3_300.0 / burst as f64 + 40.0 + 900.0 / subscribers as f64);
            sample(&[
                ("server_cpu_ns_per_delivery", ns),
                ("deliveries_per_second", 0.9e9 / ns * mood),
                ("latency_p99_ns", 9.0 * ns / mood),
            ])
        }));
    }
    cells
}

fn counts() -> Vec<Cell> {
    let per_message: &[(&str, &[(&str, f64)])] = &[
        ("plimsoll", &[("instructions_per_message", 265.6)]),
        ("plimsoll-split", &[("instructions_per_message", 299.5)]),
        ("tokio-64k", &[("instructions_per_message", 817.0)]),
        ("mio", &[("instructions_per_message", 120.0)]),
        ("floor", &[("instructions_per_message", 50.0)]),
    ];
    let connection: &[(&str, &[(&str, f64)])] = &[
        ("plimsoll", &[("instructions_per_connection", 3221.0)]),
        ("tokio-64k", &[("instructions_per_connection", 20_157.0)]),
        ("floor", &[("instructions_per_connection", 460.0)]),
    ];
    let calls: &[(&str, &[(&str, f64)])] = &[
        ("plimsoll", &[("system_calls_per_connection", 6.0)]),
        ("tokio-64k", &[("system_calls_per_connection", 8.0)]),
        ("floor", &[("system_calls_per_connection", 7.5)]),
    ];
    let memory: &[(&str, &[(&str, f64)])] = &[
        ("plimsoll", &[("bytes_per_connection", 192.0), ("bytes_per_connection_after_close", 30.0)]),
        ("tokio-8k", &[("bytes_per_connection", 8_900.0), ("bytes_per_connection_after_close", 4_000.0)]),
        ("tokio-64k", &[("bytes_per_connection", 66_000.0), ("bytes_per_connection_after_close", 900.0)]),
        ("mio", &[("bytes_per_connection", 60.0), ("bytes_per_connection_after_close", 2.0)]),
        ("floor", &[("bytes_per_connection", 32.0), ("bytes_per_connection_after_close", 0.0)]),
    ];
    let pairs: &[(&str, &[(&str, f64)])] = &[
        ("plimsoll", &[("bytes_per_pair", 512.0), ("bytes_per_pair_after_close", 60.0)]),
        ("tokio-8k", &[("bytes_per_pair", 17_900.0), ("bytes_per_pair_after_close", 4_000.0)]),
        ("floor", &[("bytes_per_pair", 210.0), ("bytes_per_pair_after_close", 9.0)]),
    ];
    vec![
        exact("memory", "idle", &[("connections", 19_000)], memory),
        exact("memory", "pairs", &[("connections", 9950)], pairs),
        exact("counts", "message", &[("size_bytes", 64), ("connections", 100)], per_message),
        exact("counts", "connection", &[("size_bytes", 64)], connection),
        exact("counts", "connection", &[("size_bytes", 64)], calls),
    ]
}

fn alone() -> Vec<Cell> {
    let mut cells = Vec::new();
    for timers in [1_000, 10_000, 100_000, 1_000_000] {
        for (variant, misses) in [("in-order", 1.0), ("at-random", 3.0)] {
            let parameters = [("timers", timers)];
            cells.push(cell("timers", variant, &parameters, &["plimsoll", "tokio"], |_, price, mood| {
                let ns = misses * price * (timers as f64).log10() * 4.0 / mood;
                sample(&[
                    ("insert_ns", ns),
                    ("reset_ns", ns * 0.6),
                    ("cancel_ns", ns * 0.8),
                    ("expire_ns", ns * 1.5),
                    ("bytes_per_timer", 60.0 * price),
                ])
            }));
        }
    }
    let keyed: &[(&str, &[(&str, f64)])] = &[("plimsoll", &[("bytes_per_timer", 54.0)])];
    cells.push(exact("timers", "keyed", &[("timers", 1_000_000)], keyed));
    let mailboxes = ["plimsoll", "tokio-unbounded", "tokio-bounded"];
    cells.push(cell("wake-ups", "ping-pong", &[], &mailboxes, |_, price, mood| {
        sample(&[("round_trip_ns", 9e3 * price / mood)])
    }));
    cells.push(cell("wake-ups", "one-way", &[], &mailboxes, |_, price, mood| {
        with_curve(sample(&[("latency_p50_ns", 5e3 * price / mood), ("latency_p99_ns", 2e4 * price / mood)]))
    }));
    cells.push(cell("wake-ups", "burst", &[("posts", 1000)], &mailboxes, |_, price, mood| {
        sample(&[("posts_per_second", 8e6 * mood / price)])
    }));
    cells
}

/// What the report of a run consists of.
struct Written {
    out: PathBuf,
    markdown: String,
    html: String,
}

/// Reports on a run into a directory of its own.
fn written(run: &Run, name: &str) -> Written {
    let base =
        std::env::var_os("REPORT_OUT").map_or(Path::new(env!("CARGO_TARGET_TMPDIR")).join("report"), PathBuf::from);
    let out = base.join(name);
    if out.exists() {
        fs::remove_dir_all(&out).expect("what an earlier test wrote");
    }
    report::write(run, &out).expect("a report");
    let read = |file: &str| fs::read_to_string(out.join(file)).expect("it was written");
    Written { markdown: read("report.md"), html: read("index.html"), out }
}

/// The lines from a heading to the next one of its kind.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let from = text.find(heading).unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &text[from + heading.len()..];
    rest.split("\n## ").next().expect("a first part")
}

fn side_of<'a>(run: &'a mut Run, scenario: &str, side: &str) -> &'a mut SideResult {
    let cell = run.cells.iter_mut().find(|cell| cell.scenario == scenario).expect("the scenario");
    cell.sides.iter_mut().find(|result| result.side == side).expect("the side")
}

#[test]
fn every_scenario_has_its_section_and_every_picture_is_there() {
    let written = written(&run(), "whole");
    for heading in ["Ping-pong", "Round trip", "Fixed rate", "Pipelined frames", "Relay", "Fan-out", "Fairness"] {
        section(&written.markdown, &format!("\n## {heading}"));
    }
    for heading in ["Accept storm", "Connection churn", "Idle memory", "Timers", "Wake-ups", "Exact counts"] {
        section(&written.markdown, &format!("\n## {heading}"));
    }
    let pictures: Vec<&str> = written.markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(pictures.len() > 20, "{pictures:?}");
    for picture in &pictures {
        assert!(written.out.join(picture).is_file(), "{picture}");
    }
    let distinct: std::collections::BTreeSet<_> = pictures.iter().collect();
    assert_eq!(distinct.len(), pictures.len(), "no picture overwrites another");
}

#[test]
fn the_page_and_the_pictures_are_well_formed_and_need_nothing_else() {
    let written = written(&run(), "well-formed");
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let page = roxmltree::Document::parse_with_options(&written.html, options).expect("XML");
    let count = |name| page.descendants().filter(|node| node.tag_name().name() == name).count();
    let mut files = 0;
    for entry in fs::read_dir(&written.out).expect("the directory").map(|entry| entry.expect("a file").path()) {
        if entry.extension().is_some_and(|ending| ending == "svg") {
            let text = fs::read_to_string(&entry).expect("a picture");
            let svg = roxmltree::Document::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", entry.display()));
            assert!(!text.contains("NaN") && !text.contains("inf,"), "{}", entry.display());
            assert!(svg.descendants().any(|node| node.tag_name().name() == "title"));
            files += 1;
        }
    }
    assert_eq!(count("svg"), files, "every picture is within the page");
    assert_eq!((count("img"), count("script"), count("link")), (0, 0, 0));
    assert!(!written.html.contains("NaN") && !written.markdown.contains("NaN"));
}

#[test]
fn all_text_is_inside_its_picture() {
    let written = written(&run(), "inside");
    for entry in fs::read_dir(&written.out).expect("the directory").map(|entry| entry.expect("a file").path()) {
        if entry.extension().is_none_or(|ending| ending != "svg") {
            continue;
        }
        let text = fs::read_to_string(&entry).expect("a picture");
        let svg = roxmltree::Document::parse(&text).expect("XML");
        let number = |node: roxmltree::Node<'_, '_>, name| node.attribute(name).and_then(|v| v.parse::<f64>().ok());
        let (width, height) = (number(svg.root_element(), "width"), number(svg.root_element(), "height"));
        for node in svg.descendants().filter(|node| node.tag_name().name() == "text") {
            let words = node.text().unwrap_or_default().trim();
            let (x, y, size) = (number(node, "x"), number(node, "y"), number(node, "font-size"));
            let (x, y, size) = (x.expect("x"), y.expect("y"), size.expect("a size"));
            // A letter is about as wide as half its height and a little more.
            let length = words.chars().count() as f64 * size * 0.56;
            let left = match node.attribute("text-anchor") {
                Some("end") => x - length,
                Some("middle") => x - length / 2.0,
                _ => x,
            };
            let fits = left >= 0.0 && Some(left + length) <= width && y >= 0.0 && Some(y) <= height;
            assert!(fits, "{}: {words:?} at {x}, {y}", entry.display());
        }
    }
}

#[test]
fn medians_and_paired_ratios_are_those_of_the_rounds() {
    let written = written(&run(), "figures");
    let relay = section(&written.markdown, "\n## Relay");
    let row = relay.lines().find(|line| line.starts_with("| tokio-8k |")).expect("a row");
    assert!(row.contains("0.323 s"), "0.19 × 1.7: {row}");
    assert!(row.contains("| 1.70 |"), "the ratio has no spread, although the rounds have: {row}");
    assert!(row.ends_with("| 7 |"), "{row}");
}

#[test]
fn how_busy_a_server_was_is_shown_where_it_is_known() {
    let mut run = run();
    run.cells.retain(|cell| cell.scenario == "ping-pong");
    for sample in &mut side_of(&mut run, "ping-pong", "floor").rounds {
        sample.figures.insert("messages_per_second".to_owned(), 20e3);
        sample.figures.insert("server_cpu_ns_per_message".to_owned(), 23e3);
    }
    let written = written(&run, "busy");
    let row = written.markdown.lines().find(|line| line.starts_with("| 1 | floor |")).expect("a row");
    assert!(row.contains("| 46 % |"), "20,000 times 23 µs: {row}");
    let verdict = section(&written.markdown, "\n## What wins and what loses");
    assert!(verdict.contains("| Ping-pong: server's processor time a message"));
    assert!(!verdict.contains("| Ping-pong: latency"), "a closed loop does not see its own tail");
}

#[test]
fn what_wins_and_what_loses_is_told_in_the_same_form() {
    let written = written(&run(), "verdict");
    let verdict = section(&written.markdown, "\n## What wins and what loses");
    let (losses, wins) = verdict.split_once("### Where Plimsoll wins").expect("both");
    let line = |part: &str, what: &str| part.lines().rfind(|line| line.contains(what)).unwrap_or("").to_owned();
    assert!(line(wins, "Ping-pong: messages a second").contains("**tokio-8k** 20 of 20, 1.67"));
    assert!(line(losses, "Ping-pong: messages a second").contains("**floor** 20 of 20, 0.98"));
    assert!(line(losses, "Counts, a message: instructions a message").contains("**mio** 1 of 1, 2.21"));
}

#[test]
fn aims_are_held_against_the_worst_cell() {
    let mut run = run();
    let held = written(&run, "aims-held");
    let row = |written: &Written, what: &str| {
        let aims = section(&written.markdown, "\n## Aims").to_owned();
        aims.lines().find(|line| line.contains(what)).expect("the aim").to_owned()
    };
    assert!(row(&held, "| echo, messages a second").ends_with("| met |"), "0.98 is over 0.95");
    assert!(row(&held, "user instructions a 64 B message").contains("| ≤ 150 | 266"));
    assert!(
        row(&held, "user instructions a 64 B message").contains("| floor 50 |"),
        "what the machine has to do with it"
    );
    assert!(row(&held, "round trip of one connection, spinning").contains("| floor-spin "));
    assert!(row(&held, "beside one who never reads: processor time").contains("| 1.050×, the worst of 2: "));
    assert!(row(&held, "user instructions a 64 B message").ends_with("| **missed** |"));
    assert!(row(&held, "split()").ends_with("| met |"));
    assert!(row(&held, "system calls a MiB").contains("not in this run"));
    assert!(row(&held, "timers, a million: insert").contains("the worst of 2: at random, 1,000,000 timers"));
    for sample in &mut side_of(&mut run, "ping-pong", "plimsoll").rounds {
        sample.figures.entry("messages_per_second".to_owned()).and_modify(|value| *value *= 0.9);
    }
    let missed = row(&written(&run, "aims-missed"), "| echo, messages a second");
    assert!(missed.contains("the worst of 20: 64 B, 1 connection"), "{missed}");
    assert!(missed.ends_with("| **missed** |"), "{missed}");
}

#[test]
fn an_aim_is_not_judged_by_few_rounds_nor_by_few_connections() {
    let mut run = run();
    for result in run.cells.iter_mut().filter(|cell| cell.scenario != "memory").flat_map(|cell| &mut cell.sides) {
        result.rounds.truncate(4);
    }
    for cell in run.cells.iter_mut().filter(|cell| cell.scenario == "memory") {
        cell.parameters.insert("connections".to_owned(), 2000);
    }
    let written = written(&run, "aims-few");
    let aims = section(&written.markdown, "\n## Aims");
    let row = |what: &str| aims.lines().find(|line| line.starts_with(what)).expect("the aim").to_owned();
    assert!(row("| echo, messages a second").ends_with("| too few rounds: 4 |  | – |"));
    assert!(row("| user memory an idle connection").contains("not in this run"));
    assert!(row("| user instructions a 64 B message").ends_with("| **missed** |"), "a count is read once");
}

#[test]
fn an_aim_whose_cell_failed_on_all_sides_is_missed() {
    let mut run = run();
    let everyone = run.cells.iter_mut().filter(|cell| cell.scenario == "frames").flat_map(|cell| &mut cell.sides);
    everyone.for_each(|result| result.error = Some("it fell over".to_owned()));
    let written = written(&run, "aims-nobody");
    let aims = section(&written.markdown, "\n## Aims");
    let row = aims.lines().find(|line| line.starts_with("| naive handler")).expect("the aim");
    assert!(row.contains("failed in 1 of 1; no other") && row.ends_with("| **missed** |"), "{row}");
}

#[test]
fn an_aim_of_all_cells_is_missed_if_one_of_them_failed() {
    let mut run = run();
    side_of(&mut run, "ping-pong", "plimsoll").error = Some("it fell over".to_owned());
    let written = written(&run, "aims-failed");
    let aims = section(&written.markdown, "\n## Aims");
    let row = aims.lines().find(|line| line.starts_with("| echo, messages a second")).expect("the aim");
    assert!(row.contains("failed in 1 of 20; 0.980×, the worst of 19") && row.ends_with("| **missed** |"), "{row}");
}

#[test]
fn a_side_that_failed_is_an_error_and_no_row() {
    let mut run = run();
    run.cells.retain(|cell| cell.scenario == "churn");
    side_of(&mut run, "churn", "mio").error = Some("served 99 of 100 <connections> | \"so\"".to_owned());
    side_of(&mut run, "churn", "tokio").rounds.clear();
    let written = written(&run, "failed");
    let churn = section(&written.markdown, "\n## Connection churn");
    assert!(churn.contains("**Failed:** mio at 64 B: served 99 of 100 &lt;connections&gt; \\|"), "{churn}");
    assert!(churn.contains("**Failed:** tokio at 64 B: no round was measured"));
    assert!(!churn.contains("| mio |") && !churn.contains("| tokio |"), "{churn}");
    assert!(churn.contains("| **plimsoll** |"));
    assert!(written.markdown.contains("failed measurements: 2"));
    let picture = fs::read_to_string(written.out.join("churn-connections-per-second.svg")).expect("a picture");
    assert!(!picture.contains("mio") && picture.contains("plimsoll"));
}

#[test]
fn a_side_that_is_missing_everywhere_leaves_no_trace() {
    let mut run = run();
    run.cells.iter_mut().for_each(|cell| cell.sides.retain(|result| result.side != "floor"));
    let written = written(&run, "no-floor");
    assert!(!written.markdown.contains("ratio to floor"));
    assert!(section(&written.markdown, "\n## Ping-pong").contains("ratio to tokio-8k"), "another reference is found");
}

#[test]
fn servers_of_the_reader_and_scenarios_nobody_described_are_shown() {
    let mut run = run();
    let guest = |cell: &mut Cell| {
        let rounds = cell.sides[0].rounds.clone();
        cell.sides.push(SideResult { side: "my_*server*".to_owned(), rounds, error: None });
    };
    run.cells.iter_mut().filter(|cell| cell.scenario == "ping-pong").for_each(guest);
    run.cells.push(exact("tea", "green", &[("cups", 3)], &[("plimsoll", &[("leaves_per_cup", 12.5)])]));
    let written = written(&run, "guests");
    assert!(section(&written.markdown, "\n## Ping-pong").contains("| my\\_\\*server\\* |"));
    assert!(written.html.contains("my_*server*"));
    let tea = section(&written.markdown, "\n## Tea");
    assert!(tea.contains("leaves per cup") && tea.contains("12.5"), "{tea}");
}

#[test]
fn who_runs_under_a_condition_is_compared_with_the_others_under_it_and_with_itself_without() {
    let written = written(&run(), "condition");
    let verdict = section(&written.markdown, "\n## What wins and what loses");
    let row = |what: &str| verdict.lines().find(|line| line.starts_with(what)).expect("a row").to_owned();
    assert!(!verdict.contains("+sleeper"), "a column is a rival");
    let scores = |what: &str, score: &str| row(what).matches(&format!(" {score} |")).count();
    let beside = "| Fan-out, beside one who never reads: server's";
    assert_eq!((scores(beside, "2 · 0 · 0"), scores(beside, "0 · 0 · **2**")), (2, 1), "tokio and mio, and the floor");
    let alone = "| Fan-out: server's";
    assert_eq!((scores(alone, "8 · 0 · 0"), scores(alone, "0 · 0 · **8**")), (2, 1));
    let fan_out = section(&written.markdown, "\n## Fan-out");
    let sleeper = fan_out.lines().find(|line| line.starts_with("| 100 | **plimsoll+sleeper** |")).expect("a row");
    assert!(sleeper.contains("| 1.02 | 1.05 |"), "to the floor beside a sleeper, to itself without: {sleeper}");
}

#[test]
fn clocks_read_twice_make_no_verdict_and_counts_read_once_do() {
    let mut run = run();
    for result in run.cells.iter_mut().flat_map(|cell| &mut cell.sides) {
        result.rounds.truncate(2);
    }
    let written = written(&run, "few");
    let verdict = section(&written.markdown, "\n## What wins and what loses");
    assert!(!verdict.contains("| Ping-pong"));
    assert!(
        verdict.contains("with fewer than 6 rounds of a clock: ") && verdict.contains("all of Ping-pong: messages")
    );
    assert!(verdict.contains("| Counts, a message"));
}

#[test]
fn an_empty_run_is_a_report_without_sections() {
    let mut run = run();
    run.cells.clear();
    let written = written(&run, "empty");
    assert!(written.markdown.contains("Nothing was measured often enough"));
}

#[test]
fn a_run_survives_being_written_and_read() {
    let run = run();
    let read: Run = serde_json::from_str(&serde_json::to_string(&run).expect("JSON")).expect("a run");
    assert_eq!(written(&run, "direct").markdown, written(&read, "read").markdown);
}
