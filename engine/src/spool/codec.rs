//! Numbers as bytes.

use alloc::vec::Vec;

/// Takes numbers off the front of bytes; nothing once they do not suffice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// As many bytes as asked for.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// As many bytes as the array has.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// Four bytes, the lowest first.
    pub fn word(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Seven bits a byte, the lowest first; the highest bit says that more follow.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if part << shift >> shift != part {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The same, of a number that has to fit.
    pub fn small(&mut self) -> Option<u32> {
        self.varint().and_then(|value| u32::try_from(value).ok())
    }
}

/// Most bytes of a [`Reader::varint`] of 32 bits.
pub const SMALL_MAX: usize = 5;

/// What [`Reader::varint`] reads.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_too_large_ones_do_not() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(Reader(&out).varint(), Some(value));
            assert_eq!(Reader(&out).small().map(u64::from), u32::try_from(value).ok().map(u64::from));
            assert_eq!(Reader(&out[..out.len() - 1]).varint(), None);
        }
        assert_eq!(Reader(&[0xff; 12]).varint(), None);
    }
}
