//! Bytes as hexadecimal digits, two for each.

/// As lower-case digits.
#[must_use]
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes; `None` for any other text.
#[must_use]
pub(crate) fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_and_back() {
        assert_eq!(super::bytes("00ffA1"), Some([0, 255, 0xa1]));
        assert_eq!(super::text(&[0, 255, 0xa1]), "00ffa1");
        for wrong in ["", "00ff", "00ffa1b2", "00ffa", "00ffg1", "+0+1+2", "é0ff1"] {
            assert_eq!(super::bytes::<3>(wrong), None, "{wrong}");
        }
    }
}
