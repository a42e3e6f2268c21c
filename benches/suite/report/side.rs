//! Sides: the order in which they are named, and one look for each, the same in every picture.
//!
//! The colours are near those of Okabe and Ito, which people of all kinds of colour vision tell apart. Plimsoll has the
//! warm ones and thick lines, tokio the blues (the darker, the larger its buffer), mio green, the bare loop grey and
//! dashed, since it is the floor and no competitor. A second colour is given for dark paper.

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
        match SIDES.iter().find(|(name, _)| *name == side) {
            Some((_, look)) => *look,
            None => GUESTS[side.bytes().map(usize::from).sum::<usize>() % GUESTS.len()],
        }
    }
}

/// Where a side stands among others; guests come last.
pub fn place(side: &str) -> usize {
    SIDES.iter().position(|(name, _)| *name == side).unwrap_or(SIDES.len())
}

/// Whether it is ours.
pub fn is_plimsoll(side: &str) -> bool {
    side.starts_with("plimsoll")
}
