//! The report: a run, made readable.
//!
//! ```text
//!            ┌─► verdict   who wins, who loses ─┐
//!  Run ─► views ─► aims    met or missed        ├─► report.md ─► index.html
//!            └─► section   tables and charts ───┘       │
//!                                 └────────────────► *.svg
//! ```
//!
//! Everything is computed from the run, which is all that is kept of it: an old raw.json makes the same report again.
//! Nothing here knows a result; what is said of one follows from medians and paired ratios (`statistic.rs`).

mod aims;
mod axis;
mod bars;
mod canvas;
mod chart;
mod figure;
mod lines;
mod markdown;
mod page;
mod scenario;
mod section;
mod side;
mod verdict;
mod view;

use crate::result::{Cell, Machine, Run};
use markdown::{Table, plain};
use scenario::{SCENARIOS, UNKNOWN};
use std::{fs, io, path::Path};
use view::View;

const TITLE: &str = "Plimsoll beside tokio, mio and a bare epoll loop";

/// Writes `report.md`, `index.html` and the pictures.
///
/// # Errors
///
/// What the file system says; then some of the files may be there.
pub fn write(run: &Run, out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    let cells = view::with_busy_share(view::merged(&run.cells));
    let views = views(&cells);
    let mut drawings = Vec::new();
    let mut text = format!("# {TITLE}\n\n{}{}", warnings(run, &views), head(run));
    text += "\n## What wins and what loses\n\n";
    text += &verdict::section(&views);
    text += &format!("\n## Aims, and what was measured\n\n{}", aims(&views));
    for group in views.chunk_by(|a, b| a.name == b.name) {
        text += &section::section(&group.iter().collect::<Vec<_>>(), &mut drawings);
    }
    text += "\nEvery sample of every round, and the figures that are not shown here, are in `raw.json`.\n";
    for drawing in &drawings {
        fs::write(out.join(&drawing.file), &drawing.svg)?;
    }
    fs::write(out.join("index.html"), page::page(TITLE, &text, &drawings))?;
    fs::write(out.join("report.md"), text)
}

/// The cells by scenario and variant, in the order of the catalogue; what it does not know comes last.
fn views(cells: &[Cell]) -> Vec<View<'_>> {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for cell in cells {
        let key = (cell.scenario.as_str(), cell.variant.as_str());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let place = |name: &str| SCENARIOS.iter().position(|s| s.name == name).unwrap_or(SCENARIOS.len());
    keys.sort_by_key(|(name, _)| (place(name), *name));
    let view = |(name, variant)| {
        let cells = cells.iter().filter(|cell| cell.scenario == name && cell.variant == variant).collect();
        View::new(SCENARIOS.get(place(name)).unwrap_or(&UNKNOWN), cells)
    };
    keys.into_iter().map(view).collect()
}

/// What a reader has to know before the first number.
fn warnings(run: &Run, views: &[View<'_>]) -> String {
    let mut warnings: Vec<String> = run.warnings.iter().map(|warning| plain(warning)).collect();
    if run.scale == "smoke" {
        warnings.push("a smoke run: it shows that everything works, its figures mean nothing".to_owned());
    }
    let failed: usize = views.iter().map(|view| view.errors().len()).sum();
    if failed > 0 {
        warnings.push(format!("**failed measurements: {failed}**; each is shown where its figures would be"));
    }
    let lines: String = warnings.iter().map(|warning| format!("> - {warning}\n")).collect();
    if lines.is_empty() { lines } else { format!("> **Warnings**\n>\n{lines}\n") }
}

/// Where, when and with what.
fn head(run: &Run) -> String {
    let machine = &run.machine;
    let versions = machine.versions.iter().map(|(name, version)| format!("{name} {version}"));
    let minutes = format!("{:.0} min {:.0} s", (run.seconds / 60.0).floor(), (run.seconds % 60.0).floor());
    let rows = [
        ("machine", machine.cpu.clone()),
        ("processors", format!("{}, {}", machine.cores, pinned(machine))),
        ("memory", figure::Quantity::Bytes.show(machine.memory_bytes as f64)),
        ("kernel", machine.kernel.clone()),
        ("compiler", machine.rustc.clone()),
        ("versions", versions.collect::<Vec<_>>().join(", ")),
        ("congestion control", machine.congestion_control.clone()),
        ("network", network(machine).to_owned()),
        ("descriptors", figure::thousands(machine.descriptor_limit as f64)),
        ("begun", run.started.clone()),
        ("duration", format!("{minutes}, scale {}", run.scale)),
        ("command", run.command.clone()),
    ];
    let mut table = Table::new(["", "of this run"]);
    for (what, value) in rows {
        table.row([what, &plain(&value)]);
    }
    table.to_string()
}

fn pinned(machine: &Machine) -> String {
    match (machine.server_core, machine.load_core) {
        (Some(server), Some(load)) if server != load => format!("server on {server}, load generator on {load}"),
        (Some(core), Some(_)) => format!("server and load generator share {core}"),
        _ => "not pinned".to_owned(),
    }
}

fn network(machine: &Machine) -> &'static str {
    match machine.namespace {
        true => "loopback in a namespace of its own",
        false => "the host's loopback",
    }
}

fn aims(views: &[View<'_>]) -> String {
    let findings = aims::findings(views);
    let count = |met| findings.iter().filter(|finding| finding.met == met).count();
    let mut text = format!("{} met, {} missed", count(Some(true)), count(Some(false)));
    text += &format!(", {} not in this run or not often enough.\n\n", count(None));
    text += "An aim in nanoseconds or seconds was set on one machine, and judges yours as well as the library: what the \
             bare loop took here (where there is none, tokio) stands beside it.\n\n";
    let mut table = Table::new(["what", "aim", "measured", "beside it", ""]);
    for finding in findings {
        let met = finding.met.map_or("–", |met| if met { "met" } else { "**missed**" });
        table.row([finding.what, &finding.aim, &plain(&finding.measured), &plain(&finding.beside), met]);
    }
    text + &table.to_string()
}
