//! Placeholder until its file is here.

use crate::{plan::Scale, result::Cell};

pub fn measure(_scale: Scale) -> Vec<Cell> {
    Vec::new()
}
