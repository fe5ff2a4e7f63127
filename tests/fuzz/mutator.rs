//! A small seeded mutator: the same seed gives the same inputs on every machine.

/// The longest input, in bytes: above every bound that a target has but the control channel's, whose
/// own test goes there.
const LONGEST: usize = 64 << 10;

/// Bytes that parsers treat in a way of their own.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":",
    b":",
    b"- ",
    b"&a [*a,*a]",
    b"*a",
    b"!!binary ",
    b"<<: *a",
    b"-----BEGIN ",
    b"-----END CERTIFICATE-----",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x30\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"18446744073709551616",
    b"-1",
    b"1e999",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"xn--",
    b"[::1]",
    b"..",
    b"%00",
];

pub(super) struct Mutator(u64);

impl Mutator {
    pub(super) fn new(seed: u64, name: &str) -> Self {
        // Each target goes its own way from the same seed.
        let mixed = name.bytes().fold(seed, |mixed, byte| {
            (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(mixed)
    }

    /// A mutation of one of `seeds`.
    pub(super) fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(seeds).clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            let end = (at + 1 + self.below(32)).min(bytes.len());
            let range = at.min(end)..end;
            match self.below(8) {
                0 => drop(bytes.drain(range)),
                1 => bytes.truncate(at),
                2 => {
                    let piece = *self.pick(PIECES);
                    bytes.splice(at..at, piece.iter().copied());
                }
                3 => {
                    let piece = *self.pick(PIECES);
                    bytes.splice(range, piece.iter().copied());
                }
                4 => {
                    let other = self.pick(seeds);
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend(other.iter().skip(from));
                }
                5 => {
                    let again: Vec<u8> = bytes[range].repeat(1 + self.below(64));
                    bytes.splice(at..at, again);
                }
                6 => {
                    let bit = 1 << self.below(8);
                    bytes
                        .iter_mut()
                        .skip(at)
                        .take(1)
                        .for_each(|byte| *byte ^= bit);
                }
                _ => {
                    let any = self.random().to_le_bytes()[0];
                    bytes
                        .iter_mut()
                        .skip(at)
                        .take(1)
                        .for_each(|byte| *byte = any);
                }
            }
            bytes.truncate(LONGEST);
        }
        bytes
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        let limit = limit.max(1) as u64;
        usize::try_from(self.random() % limit).expect("below a usize")
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    fn random(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[test]
fn the_same_seed_gives_the_same_inputs() {
    let seeds = [b"one".to_vec(), b"two".to_vec()];
    let run = |name| {
        let mut mutator = Mutator::new(7, name);
        (0..100).map(|_| mutator.next(&seeds)).collect::<Vec<_>>()
    };
    assert_eq!(run("a"), run("a"));
    assert_ne!(run("a"), run("b"));
}
