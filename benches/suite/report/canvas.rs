//! Canvas: what all pictures have in common. A title, a legend, a grid of panels, and ink that turns light on dark paper.
//!
//! ```text
//!  ┌──────────────────────────────────────┐
//!  │ How many messages a second …?        │  the question
//!  │ medians; thin lines: the doubt       │  the note
//!  │ ━ plimsoll  ━ tokio-8k  ╌ floor      │  the legend, once for all panels
//!  │ ┌─ 64 B ──────────┐ ┌─ 1 KiB ──────┐ │
//!  │ │                 │ │              │ │
//!  └──────────────────────────────────────┘
//! ```
//!
//! plotters lays out coordinates and writes SVG. It cannot measure text without a font, so widths are estimated, on
//! the generous side.

use super::side::{Look, ON_DARK};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

pub const INK: RGBColor = RGBColor(0x24, 0x29, 0x2F);
pub const MUTED: RGBColor = RGBColor(0x57, 0x60, 0x6A);
pub const GRID: RGBColor = RGBColor(0xE3, 0xE7, 0xEB);
const PAPER: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);

/// Ink and paper in the dark, in the order above.
const DARK: &[(RGBColor, &str)] = &[(INK, "#E6EDF3"), (MUTED, "#9DA7B3"), (GRID, "#2D333B"), (PAPER, "#0D1117")];

/// Fits a page of a laptop and a column of a README.
const WIDTH: u32 = 960;
const MARGIN: i32 = 16;
const LEGEND_ROW: i32 = 22;
const GAP: i32 = 18;

/// Text of 12 pixels is at most so wide for each character.
pub const CHARACTER: i32 = 7;

/// A side in the legend, and where.
type Entry<'t> = (&'t str, (i32, i32));

pub struct Picture<'t> {
    pub title: &'t str,
    pub note: &'t str,
    /// The sides in the legend; none, if the panels name them.
    pub legend: &'t [&'t str],
    pub panels: usize,
    pub panel_height: u32,
}

impl Picture<'_> {
    /// Draws the frame, then each panel into its own area: SVG.
    pub fn draw(&self, panel: impl Fn(usize, &Area<'_>) -> Drawn) -> String {
        let mut svg = String::new();
        self.paint(&mut svg, panel).expect("drawing into a string cannot fail");
        readable_in_the_dark(&svg, self.title)
    }

    fn paint(&self, svg: &mut String, panel: impl Fn(usize, &Area<'_>) -> Drawn) -> Drawn {
        let columns = self.panels.clamp(1, 2);
        let rows = self.panels.max(1).div_ceil(columns) as i32;
        let (top, entries) = self.legend();
        let height = top + rows * (self.panel_height as i32 + GAP) - GAP + MARGIN;
        let root = SVGBackend::with_string(svg, (WIDTH, height as u32)).into_drawing_area();
        root.fill(&PAPER)?;
        text(&root, self.title, (MARGIN, MARGIN + 4), 17, INK, HPos::Left, true)?;
        text(&root, self.note, (MARGIN, MARGIN + 28), 12, MUTED, HPos::Left, false)?;
        for (side, at) in entries {
            legend_entry(&root, side, at)?;
        }
        for at in 0..self.panels {
            panel(at, &self.panel(&root, at, columns, top))?;
        }
        root.present()
    }

    /// Where the panels begin, and where each entry stands.
    fn legend(&self) -> (i32, Vec<Entry<'_>>) {
        let first = MARGIN + 52;
        let (mut x, mut y) = (MARGIN, first);
        let mut entries = Vec::new();
        for side in self.legend {
            let width = 46 + side.chars().count() as i32 * CHARACTER;
            if x + width > WIDTH as i32 - MARGIN {
                (x, y) = (MARGIN, y + LEGEND_ROW);
            }
            entries.push((*side, (x, y)));
            x += width;
        }
        (if entries.is_empty() { first } else { y + LEGEND_ROW + 8 }, entries)
    }

    fn panel<'a>(&self, root: &Area<'a>, at: usize, columns: usize, top: i32) -> Area<'a> {
        let (column, row) = ((at % columns) as i32, (at / columns) as i32);
        let width = (WIDTH as i32 - 2 * MARGIN - (columns as i32 - 1) * GAP) / columns as i32;
        let height = self.panel_height as i32;
        let (left, upper) = (MARGIN + column * (width + GAP), top + row * (height + GAP));
        let (right, lower) = (WIDTH as i32 - left - width, root.dim_in_pixel().1 as i32 - upper - height);
        root.margin(upper, lower, left, right)
    }
}

/// One line of text of so many pixels, its middle at the given height.
pub fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: u32, ink: RGBColor, side: HPos, bold: bool) -> Drawn {
    // plotters divides a size by 1.24 when it writes it.
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    let font = ("sans-serif", f64::from(size) * 1.24, style).into_font();
    area.draw_text(text, &font.color(&ink).pos(Pos::new(side, VPos::Center)), at)
}

/// A line in the manner of a side, dashed or not.
pub fn stroke(area: &Area<'_>, points: &[(i32, i32)], look: Look) -> Drawn {
    let style = look.colour.stroke_width(look.width);
    match look.dashes {
        Some((length, gap)) => area.draw(&DashedPathElement::new(points.iter().copied(), length, gap, style)),
        None => area.draw(&PathElement::new(points.to_vec(), style)),
    }
}

fn legend_entry(root: &Area<'_>, side: &str, (x, y): (i32, i32)) -> Drawn {
    let look = Look::of(side);
    stroke(root, &[(x, y), (x + 22, y)], look)?;
    if look.dashes.is_none() {
        root.draw(&Circle::new((x + 11, y), look.width as i32 + 1, look.colour.filled()))?;
    }
    text(root, side, (x + 28, y), 12, INK, HPos::Left, look.width > 2)
}

/// A title for those who cannot see it, and colours that follow the reader's.
fn readable_in_the_dark(svg: &str, title: &str) -> String {
    let mut rules = String::new();
    let sides = ON_DARK.iter().map(|((red, green, blue), dark)| (RGBColor(*red, *green, *blue), *dark));
    for (RGBColor(red, green, blue), dark) in DARK.iter().copied().chain(sides) {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        rules += &format!("svg [fill=\"{light}\"]{{fill:{dark}}}svg [stroke=\"{light}\"]{{stroke:{dark}}}");
    }
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let (head, body) = svg.split_once('>').expect("an SVG begins with a tag");
    format!(
        "{head} role=\"img\"><title>{title}</title><style>text{{font-family:system-ui,sans-serif}}\
         @media(prefers-color-scheme:dark){{{rules}}}</style>{body}"
    )
}
