mod search;
mod steps;

use super::*;

const NOW: u64 = 1_800_000_000;
