//! References in arbitrary code.

use glg_engine::code::references;
use glg_engine::layout::Arch;
use glg_engine::memory::Va;

const ENTRY: u64 = 0x40_1000;

/// Any code has references, or an instruction that is not known: inside of it, and never more references than
/// instructions. What stands in front of a cut is read the same without what is behind.
///
/// # Panics
/// When that does not hold.
pub fn check(data: &[u8]) {
    for (arch, least) in [(Arch::Amd64, 2), (Arch::Arm64, 4)] {
        let sweep = |code: &[u8]| {
            let mut found = Vec::new();
            let result = references(arch, Va(ENTRY), code, &mut |reference| found.push(reference));
            (found, result)
        };
        // AArch64 has no instruction of another length.
        let data = data.get(..data.len() / 4 * 4).unwrap_or_default();
        let (whole, result) = sweep(data);
        assert!(whole.len() * least <= data.len(), "{arch:?}: {} in {} bytes", whole.len(), data.len());
        if let Err(glg_engine::memory::Error::Malformed { at, .. }) = result {
            assert!((ENTRY..=ENTRY + data.len() as u64).contains(&at), "{arch:?}: {at:#x}");
        }
        let (part, _) = sweep(data.get(..data.len() / 8 * 4).unwrap_or_default());
        assert!(whole.starts_with(&part), "{arch:?}: {part:?} is not the begin of {whole:?}");
    }
    assert!(data.len().is_multiple_of(4) || references(Arch::Arm64, Va(ENTRY), data, &mut |_| {}).is_err());
    let _ = references(Arch::Arm64, Va(u64::MAX - 3), data, &mut |_| {});
    let _ = references(Arch::Amd64, Va(u64::MAX), data, &mut |_| {});
}

/// Instructions as Go 1.19 and 1.27 compile them.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        b"\x49\x3b\x66\x10\x0f\x86\x93\x04\x00\x00\x55\x48\x89\xe5\x48\x83\xec\x50\xc7\x05\x11\xfe\x08\x00\x10\x27\x00\x00\x48\x8b\x0d\x01\x02\x03\x00".to_vec(),
        b"\x48\xc7\x44\x24\x08\x00\x00\x00\x00\xf0\x48\x0f\xb1\x0d\x01\x02\x03\x04\xc5\xfe\x6f\x04\x06\x66\x0f\x3a\x22\xc0\x01\xe8\x7b\xaa\xff\xff\x66\x0f\x1f\x44\x00\x00".to_vec(),
        b"\x1b\x00\x00\xb0\x62\x43\x43\xf9\x1b\x00\x00\xd0\x7b\x23\x00\x91\x60\x03\x40\xa9\x01\xe2\x84\x52\x61\x3b\x00\xb9\x00\x00\x00\x94".to_vec(),
    ]
}
