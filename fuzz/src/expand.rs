//! Dumps as they travel, made text, and that a profile.

use std::io::Write;

use glg_engine::crc;

use crate::glg::expand::expand;
use crate::glg::pprof::Profile;

/// Any bytes are refused, or a text of as many goroutines as were counted, and any text is a profile.
///
/// # Panics
/// When that does not hold.
pub fn check(data: &[u8]) {
    let mut text = Vec::new();
    if let Ok(count) = expand(data, &mut text) {
        // A state may hold whatever the sender likes, but every goroutine has a line of its own.
        let lines = text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"goroutine "));
        assert!(u64::try_from(lines.count()).is_ok_and(|lines| lines >= count), "{count} goroutines");
    }
    profile(&text);
    profile(data);
}

fn profile(text: &[u8]) {
    let mut profile = Profile::default();
    let taken = profile.write_all(text).is_ok();
    let profile = profile.finish();
    // Packing takes a hundred times as long as reading. The sum of nothing, of which there is much, is 0.
    if taken && crc::of(text) % 64 == 1 {
        let written = profile.write(std::io::sink(), Some(1));
        assert!(written.is_ok(), "{written:?}");
    }
}

/// A dump as it travels, and as text.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut text = Vec::new();
    let _ = expand(COMPACT.as_bytes(), &mut text);
    vec![COMPACT.as_bytes().to_vec(), text]
}

const COMPACT: &str = "\
goleakguard dump 1
stack 0
main.send(...)
\t/src/main.go:12 +0x1d
created by main.main
\t/src/main.go:30 +0x5a
.
goroutine 18 [chan send]:
0 1
stack 1
main.(*Gateway).send({0xc000, 0x2}, ...)
\t/src/main.go:17 +0x2d
.
goroutine 20 [select, 2 minutes, locked to thread]:
1 18
1
2
stack -
\tgoroutine running on other thread; stack unavailable
.
goroutine 1 [running]:
- 0
goroutine 21 [chan send, 2 minutes]:
0 0
-2
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::Mutator;

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = Mutator::new(&seeds, 1, 2048);
        let expanded = |input: &Vec<u8>| expand(&input[..], std::io::sink()).is_ok_and(|count| count > 0);
        let accepted = (0..10_000).map(|_| mutator.next_input()).filter(expanded).count();
        assert!((300..8_000).contains(&accepted), "{accepted} of 10000 inputs are dumps");
    }
}
