//! Build information: the version that decides which runtime layout is believed.

use glg_engine::buildinfo::parse;

/// Any bytes give a version or an error, and a version prints as one.
///
/// # Panics
/// When a version is read out of bytes that do not spell it.
pub fn check(data: &[u8]) {
    let Ok(version) = parse(data, 0) else { return };
    let text = format!("go1.{}", version.minor);
    // Leading zeros are read, too.
    let digits = |b: &u8| *b != b'0';
    let spelt = |part: &[u8]| part.iter().copied().filter(digits).collect::<Vec<_>>();
    let (wanted, data) = (spelt(text.as_bytes()), spelt(data));
    assert!(data.windows(wanted.len()).any(|part| part == wanted), "{version} out of nothing");
}

/// As releases, candidates, experiments and development trees write it.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = ["go1.24.11", "go1.26rc1", "go1.19.8 X:boringcrypto", "devel go1.24-abc", "go1.27-devel_abc"];
    texts.map(blob).to_vec()
}

fn blob(text: &str) -> Vec<u8> {
    let mut blob = b"\xff Go buildinf:\x08\x02".to_vec();
    blob.resize(32, 0);
    blob.push(u8::try_from(text.len()).unwrap_or(0));
    blob.extend(text.as_bytes());
    blob.resize(96, 0);
    blob
}
