//! The page: the Markdown of the report as one file of HTML, its pictures within it.
//!
//! It needs nothing else: no script, no font, no other file; it can be sent to somebody. It is also well-formed XML.

use super::chart::Drawing;
use super::view::capital;
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#24292f;--muted:#57606a;--line:#d0d7de;--paper:#fff;--shade:#f6f8fa;--bad:#cf222e}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--muted:#9da7b3;--line:#30363d;--paper:#0d1117;--shade:#161b22;\
--bad:#ff7b72}}
body{margin:2rem auto;max-width:62rem;padding:0 1rem;background:var(--paper);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif}
h1,h2,h3{line-height:1.25}
h2{margin-top:3rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
nav{columns:2;font-size:.9rem}
nav a{display:block;color:inherit}
svg{max-width:100%;height:auto}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--line);padding:.25rem .6rem;text-align:left;vertical-align:top;white-space:nowrap}
td:first-child{white-space:normal;min-width:8rem}
th{background:var(--shade);white-space:normal}
summary{cursor:pointer;color:var(--muted)}
blockquote{margin:1rem 0;border-left:4px solid var(--bad);padding:.1rem 1rem;background:var(--shade)}
code{background:var(--shade);padding:.1rem .3rem}
";

/// The whole page.
pub fn page(title: &str, markdown: &str, drawings: &[Drawing]) -> String {
    let events: Vec<Event<'_>> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    let headings = headings(&events);
    let mut body = String::new();
    html::push_html(&mut body, placed(events, drawings).into_iter());
    let links: String =
        headings.iter().enumerate().map(|(at, text)| format!("<a href=\"#s{at}\">{}</a>\n", escaped(text))).collect();
    let body = body.replacen("</h1>", &format!("</h1>\n<nav>\n{links}</nav>"), 1);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escaped(title)
    )
}

/// The text of every section's heading.
fn headings(events: &[Event<'_>]) -> Vec<String> {
    let mut headings: Vec<String> = Vec::new();
    let mut within = false;
    for event in events {
        match event {
            Event::Start(Tag::Heading { level: HeadingLevel::H2, .. }) => {
                within = true;
                headings.push(String::new());
            }
            Event::End(TagEnd::Heading(_)) => within = false,
            Event::Text(text) if within => headings.last_mut().expect("one has begun").push_str(text),
            _ => {}
        }
    }
    headings
}

/// Pictures in place of the links to them, tables that may be wider than the page, sections that can be linked to.
fn placed<'a>(events: Vec<Event<'a>>, drawings: &'a [Drawing]) -> Vec<Event<'a>> {
    let mut placed = Vec::with_capacity(events.len());
    let (mut in_image, mut section) = (false, 0);
    for event in events {
        match event {
            Event::Start(Tag::Image { dest_url, .. }) => {
                in_image = true;
                let drawing = drawings.iter().find(|drawing| drawing.file == *dest_url);
                placed.extend(drawing.map(|drawing| Event::InlineHtml(CowStr::Borrowed(&drawing.svg))));
            }
            Event::End(TagEnd::Image) => in_image = false,
            _ if in_image => {}
            Event::Start(Tag::Heading { level: HeadingLevel::H2, classes, attrs, .. }) => {
                let id = Some(format!("s{section}").into());
                section += 1;
                placed.push(Event::Start(Tag::Heading { level: HeadingLevel::H2, id, classes, attrs }));
            }
            Event::Start(Tag::Table(columns)) => {
                placed.push(Event::Html("<div class=\"wide\">".into()));
                placed.push(Event::Start(Tag::Table(columns)));
            }
            Event::End(TagEnd::Table) => {
                placed.push(Event::End(TagEnd::Table));
                placed.push(Event::Html("</div>".into()));
            }
            other => placed.push(other),
        }
    }
    placed
}

fn escaped(text: &str) -> String {
    capital(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
