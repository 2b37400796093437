//! The choice of the probed instruction, over arbitrary code.

use glg_engine::layout::Arch;
use glg_engine::probe_point::{CODE_BYTES, HitClass, Probed, find};

/// Any code has a place to probe: its entry, or an instruction inside of what was looked at.
///
/// # Panics
/// When the place is outside, or not aligned on arm64, or more code would have changed the choice.
pub fn check(data: &[u8]) {
    for arch in [Arch::Amd64, Arch::Arm64] {
        for function in [Probed::Newproc1, Probed::Goexit0] {
            let point = find(arch, function, data);
            let at = usize::try_from(point.offset).unwrap_or(usize::MAX);
            match point.class {
                HitClass::Stepped => assert_eq!(at, 0, "{arch:?} {function:?}"),
                HitClass::Emulated => assert!(at < data.len().min(CODE_BYTES), "{arch:?} {function:?} {at}"),
            }
            assert!(arch == Arch::Amd64 || at % 4 == 0, "{function:?} {at}");
            let more = [data, &[0; 16]].concat();
            if point.class == HitClass::Emulated {
                assert_eq!(find(arch, function, &more), point, "{arch:?} {function:?}");
            }
        }
    }
}

/// The beginnings of both functions as Go 1.19 and 1.27 compile them.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let code = [
        "493b66100f86860300004883ec4848896c2440488d6c244048895c2438488944245048894c24604c897424204885c07514488d059ce805",
        "493b66100f8693040000554889e54883ec50",
        "493b66107618554889e54883ec08",
        "900b40f9ff6330eb09280054fe0f1af8fd831ff8fd2300d1e03700f9e13b00f9e23f00f9e3030239e4070239a00000b5a00200b0",
        "900b40f9ff6330eb691a0054fe0f1cf8fd831ff8fd2300d1e02700f9fc1700f9831b40f9636840f9e31b00f9e1037fb2e2077fb2b7e8ff97e02740f9",
    ];
    code.map(bytes).to_vec()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
    hex.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |byte, d| byte << 4 | digit(*d))).collect()
}
