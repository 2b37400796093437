//! Damages good inputs, the same way each time.

/// Bytes that parsers trip over: ends of ranges, varint continuations, ELF and text magic.
const TRICKY: &[u8] = &[0, 1, 0x7f, 0x80, 0xff, 0xfe, b'E', b'\n', b'"', b'/'];
/// Words that parsers trip over: lengths and offsets at the ends of ranges.
const TRICKY_WORDS: &[u64] =
    &[0, 1, u64::MAX, u64::MAX - 7, 1 << 63, i64::MAX as u64, u32::MAX as u64, 1 << 31, 0xffff_fff1];

/// An endless row of damaged inputs made from seeds. The same seeds and number give the same row.
pub struct Mutator<'s> {
    seeds: &'s [Vec<u8>],
    state: u64,
    max_len: usize,
}

impl<'s> Mutator<'s> {
    /// Starts the row `number`; inputs are never longer than `max_len`.
    #[must_use]
    pub fn new(seeds: &'s [Vec<u8>], number: u64, max_len: usize) -> Mutator<'s> {
        // Any state but 0; odd multiplication keeps different numbers different.
        let state = (number.wrapping_mul(2) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Mutator { seeds, state, max_len }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..=self.below(6) {
            self.damage(&mut input);
        }
        input.truncate(self.max_len);
        input
    }

    fn seed(&mut self) -> Vec<u8> {
        let index = self.below(self.seeds.len());
        self.seeds.get(index).cloned().unwrap_or_default()
    }

    fn damage(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        match self.below(8) {
            0 => input.truncate(at),
            1 => {
                let bit = self.below(8);
                change(input, at, |byte| byte ^ 1 << bit);
            }
            2 => {
                let byte = self.low_byte();
                change(input, at, |_| byte);
            }
            3 => {
                let byte = pick(TRICKY, self.below(TRICKY.len()));
                change(input, at, |_| byte);
            }
            4 => self.overwrite_word(input, at),
            5 => {
                // A piece of itself or of another seed, in the middle.
                let other = self.seed();
                let from = self.below(other.len());
                let len = self.below(64).min(other.len() - from);
                let piece = other.get(from..from + len).unwrap_or_default().to_vec();
                input.splice(at..at, piece);
            }
            6 => {
                let end = (at + self.below(32)).min(input.len());
                input.drain(at..end);
            }
            _ => {
                let other = self.seed();
                let from = self.below(other.len());
                input.truncate(at);
                input.extend(other.get(from..).unwrap_or_default());
            }
        }
    }

    fn overwrite_word(&mut self, input: &mut [u8], at: usize) {
        let word = pick(TRICKY_WORDS, self.below(TRICKY_WORDS.len())).to_le_bytes();
        // Half of the time where a field of a binary format would be.
        let at = if self.below(2) == 0 { at & !7 } else { at };
        let width = 1 << self.below(4);
        for (byte, new) in input.iter_mut().skip(at).zip(word).take(width) {
            *byte = new;
        }
    }

    /// From 0 to below `n`; 0 for `n` = 0.
    fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % n).unwrap_or(0)
    }

    fn low_byte(&mut self) -> u8 {
        let [byte, ..] = self.next().to_le_bytes();
        byte
    }

    /// xorshift64*: small, and good enough to choose with.
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn change(input: &mut [u8], at: usize, how: impl Fn(u8) -> u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte = how(*byte);
    }
}

fn pick<T: Copy + Default>(from: &[T], at: usize) -> T {
    from.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_repeats_and_rows_differ() {
        let seeds = [b"\x01\x05van-7 and more".to_vec(), vec![], vec![7; 300]];
        let row = |number| {
            let mut mutator = Mutator::new(&seeds, number, 200);
            (0..500).map(|_| mutator.next_input()).collect::<Vec<_>>()
        };
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
        assert!(row(3).iter().all(|input| input.len() <= 200));
        assert!(Mutator::new(&[], 0, 10).next_input().is_empty());
    }
}
