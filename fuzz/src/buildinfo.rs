//! Build information: the version that decides which runtime layout is believed, and the module's name.

use glg_engine::buildinfo::{BuildInfo, parse};

use crate::foreign::File;

/// Any bytes give build information or an error; a version prints as one, texts stand in the bytes and are fit
/// for a terminal.
///
/// # Panics
/// When something is read out of bytes that do not spell it.
pub fn check(data: &[u8]) {
    let _ = BuildInfo::read_refused(&mut File(data));
    let Ok(info) = parse(data, 0) else { return };
    for text in [info.go.as_str(), &info.package, &info.module, &info.version] {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let text = text.trim_end_matches('…').as_bytes();
        assert!(text.is_empty() || data.windows(text.len()).any(|part| part == text), "out of nothing");
    }
    let Ok(version) = info.release else { return };
    let text = format!("go1.{}", version.minor);
    // Leading zeros are read, too.
    let digits = |b: &u8| *b != b'0';
    let spelt = |part: &[u8]| part.iter().copied().filter(digits).collect::<Vec<_>>();
    let (wanted, data) = (spelt(text.as_bytes()), spelt(data));
    assert!(data.windows(wanted.len()).any(|part| part == wanted), "{version} out of nothing");
}

/// As releases, candidates, experiments and development trees write it, and a small program of 32 bits.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "go1.24.11",
        "go1.26rc1",
        "go1.19.8 X:boringcrypto",
        "go1.26.6-X:nogreenteagc,jsonv2",
        "go1.25.5 X:staticlockranking",
        "devel go1.24-abc",
        "go1.27-devel_abc",
    ];
    let mut seeds = texts.map(blob).to_vec();
    // Elf32_Ehdr, and an Elf32_Phdr for a writable segment.
    let mut small = b"\x7fELF\x01\x01\x01".to_vec();
    small.resize(28, 0);
    small.extend(52u32.to_le_bytes());
    small.resize(42, 0);
    small.extend([32u16, 1].map(u16::to_le_bytes).concat());
    small.resize(52, 0);
    small.extend([1u32, 84, 0, 0, 400, 400, 6, 16].map(u32::to_le_bytes).concat());
    small.resize(84 + 16, 0);
    small.extend(blob("go1.24.11"));
    seeds.push(small);
    seeds
}

fn blob(text: &str) -> Vec<u8> {
    const LINES: &str = "path\tvan.example/ota/cmd/otad\nmod\tvan.example/ota\tv1.2.3\th1:x=\nbuild\ta=b\n";
    let mut blob = b"\xff Go buildinf:\x08\x02".to_vec();
    blob.resize(32, 0);
    blob.push(u8::try_from(text.len()).unwrap_or(0));
    blob.extend(text.as_bytes());
    blob.push(u8::try_from(LINES.len() + 32).unwrap_or(0));
    blob.extend([[7u8; 16].as_slice(), LINES.as_bytes(), &[9; 16]].concat());
    blob
}
