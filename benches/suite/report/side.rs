//! Sides: the order in which they are named, and one look for each, the same in every picture.
//!
//! The colours are near those of Okabe and Ito, which people of all kinds of colour vision tell apart. Plimsoll has the
//! warm ones and thick lines, tokio the blues (the darker, the larger its buffer), mio green, the bare loop grey and
//! dashed, since it is the floor and no competitor. A second colour is given for dark paper.
//!
//! A side may run under a *condition*, `mio+sleeper`: it is drawn as `mio` is, paler and dotted, stands behind it, and is
//! compared with those who run under the same condition.

use plotters::style::RGBColor;

/// How a side is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub colour: RGBColor,
    pub width: u32,
    /// Length and distance of the dashes; none for a whole line.
    pub dashes: Option<(i32, i32)>,
}

/// On dark paper; the first of each is the colour on white.
pub const ON_DARK: &[((u8, u8, u8), &str)] = &[
    ((0xD5, 0x5E, 0x00), "#FF7A1F"),
    ((0x00, 0x72, 0xB2), "#3F8FE0"),
    ((0x56, 0xB4, 0xE9), "#8FD0F7"),
    ((0x7C, 0xC7, 0xF2), "#B5E2FB"),
    ((0x2E, 0x93, 0xCE), "#6FB9F0"),
    ((0x00, 0x58, 0x8A), "#2F74D0"),
    ((0x00, 0x9E, 0x73), "#1FC295"),
    ((0x6E, 0x77, 0x81), "#A3ADB8"),
    ((0x3D, 0x44, 0x4D), "#D5DBE1"),
];

/// Name and look of the sides that the suite has, in their order.
const SIDES: &[(&str, Look)] = &[
    ("plimsoll", look(0xD5, 0x5E, 0x00, 3)),
    ("plimsoll-split", look(0xE6, 0x9F, 0x00, 2)),
    ("plimsoll-spin", look(0xB8, 0x86, 0x0B, 2)),
    ("tokio", look(0x00, 0x72, 0xB2, 2)),
    ("tokio-unbounded", look(0x00, 0x72, 0xB2, 2)),
    ("tokio-bounded", look(0x56, 0xB4, 0xE9, 2)),
    ("tokio-8k", look(0x7C, 0xC7, 0xF2, 2)),
    ("tokio-16k", look(0x2E, 0x93, 0xCE, 2)),
    ("tokio-64k", look(0x00, 0x58, 0x8A, 2)),
    ("tokio-buffered", look(0xCC, 0x79, 0xA7, 2)),
    ("mio", look(0x00, 0x9E, 0x73, 2)),
    ("floor", dashed(0x6E, 0x77, 0x81, (7, 4))),
    ("floor-gathered", dashed(0x3D, 0x44, 0x4D, (2, 3))),
    ("floor-spin", dashed(0x8C, 0x95, 0x9F, (12, 4))),
];

/// For the servers that a reader brings.
const GUESTS: &[Look] = &[look(0xA0, 0x51, 0x95, 2), look(0x8C, 0x6D, 0x31, 2), look(0x5F, 0x6B, 0xD8, 2)];

const fn look(red: u8, green: u8, blue: u8, width: u32) -> Look {
    Look { colour: RGBColor(red, green, blue), width, dashes: None }
}

const fn dashed(red: u8, green: u8, blue: u8, dashes: (i32, i32)) -> Look {
    Look { colour: RGBColor(red, green, blue), width: 2, dashes: Some(dashes) }
}

impl Look {
    /// A guest's depends on its name only, so that it is the same in every picture.
    pub fn of(side: &str) -> Look {
        let (name, condition) = parts(side);
        let look = match SIDES.iter().find(|(known, _)| *known == name) {
            Some((_, look)) => *look,
            None => GUESTS[name.bytes().map(usize::from).sum::<usize>() % GUESTS.len()],
        };
        if condition.is_empty() { look } else { look.paler() }
    }

    /// Half way to white, and dotted.
    fn paler(self) -> Look {
        let pale = |part: u8| part / 2 + 128;
        let RGBColor(red, green, blue) = self.colour;
        Look { colour: RGBColor(pale(red), pale(green), pale(blue)), dashes: Some((3, 3)), ..self }
    }
}

/// Where a side stands among others, right behind its like under another condition; guests come last.
pub fn place(side: &str) -> (usize, bool) {
    let (name, condition) = parts(side);
    (SIDES.iter().position(|(known, _)| *known == name).unwrap_or(SIDES.len()), !condition.is_empty())
}

/// A side's name and the condition under which it runs, with its sign: `("mio", "+sleeper")`; mostly there is none.
/// Only those that the suite has run under one: what a guest is called is the reader's affair.
pub fn parts(side: &str) -> (&str, &str) {
    match side.find('+').map(|at| side.split_at(at)) {
        Some((name, condition)) if SIDES.iter().any(|(known, _)| *known == name) => (name, condition),
        _ => (side, ""),
    }
}

/// A condition in words.
pub fn condition_words(condition: &str) -> String {
    match condition {
        "+sleeper" => "beside one who never reads".to_owned(),
        other => format!("with {}", other.trim_start_matches('+')),
    }
}

/// Whether it is ours.
pub fn is_plimsoll(side: &str) -> bool {
    side.starts_with("plimsoll")
}
