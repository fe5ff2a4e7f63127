//! Chance, from a seed: the same seed throws the same.

/// Numbers by `splitmix64`, which is short, well mixed, and needs no library to reproduce a run.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Self(seed ^ 0x5bf0_3635_d1a5_c1e9);
        // Neighbouring seeds part at once.
        dice.throw();
        dice
    }

    pub(super) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `most`, without it.
    pub(super) fn below(&mut self, most: u64) -> u64 {
        self.throw() % most.max(1)
    }

    /// From `least` to `most`, both of them as well.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    /// One of these; the first if there is none.
    pub(super) fn of<T: Copy>(&mut self, all: &[T], first: T) -> T {
        let place = usize::try_from(self.below(all.len() as u64)).unwrap_or_default();
        all.get(place).copied().unwrap_or(first)
    }
}
