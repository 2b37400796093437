//! The used part of a thread's stack, copied once.

use glg_engine::memory::{Addr, Error, Memory};

/// Bytes that are looked at.
const STACK_MAX: u64 = 64 << 10;
const PAGE: u64 = 4096;

/// The copy, as far as it could be read.
pub(super) struct Stack {
    base: u64,
    bytes: Vec<u8>,
}

impl Stack {
    /// Copies what is at and above `sp`, up to `end` where that is known.
    pub(super) fn copy(memory: &mut dyn Memory, sp: Addr, end: Option<Addr>) -> Result<Stack, Error> {
        let limit =
            sp.0.checked_add(STACK_MAX).ok_or(Error::Malformed { what: "stack pointer", at: sp.0 })?;
        let limit = end.map_or(limit, |end| if end > sp { limit.min(end.0) } else { limit });
        let mut stack = Stack { base: sp.0, bytes: Vec::new() };
        let mut at = sp.0;
        while at < limit {
            // Page by page: it ends somewhere.
            let next = limit.min((at | (PAGE - 1)).saturating_add(1));
            let used = stack.bytes.len();
            stack.bytes.resize(used + usize::try_from(next - at).unwrap_or(0), 0);
            match memory.read(Addr(at), stack.bytes.get_mut(used..).unwrap_or_default()) {
                Ok(()) => {}
                Err(Error::Gone) => return Err(Error::Gone),
                Err(error) if used == 0 => return Err(error),
                Err(_) => {
                    stack.bytes.truncate(used);
                    break;
                }
            }
            at = next;
        }
        Ok(stack)
    }

    /// The word at this address.
    pub(super) fn word(&self, at: u64) -> Option<u64> {
        let from = usize::try_from(at.checked_sub(self.base)?).ok()?;
        self.bytes.get(from..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// The addresses of its words, from this one on.
    pub(super) fn slots(&self, from: u64) -> impl Iterator<Item = u64> + use<> {
        let first = from.max(self.base).checked_next_multiple_of(8).unwrap_or(u64::MAX);
        (first..self.end()).step_by(8)
    }

    /// Whether it has the word at this address.
    pub(super) fn contains(&self, at: u64) -> bool {
        self.word(at).is_some()
    }

    /// First address behind it.
    pub(super) fn end(&self) -> u64 {
        self.base.saturating_add(self.bytes.len() as u64)
    }
}
