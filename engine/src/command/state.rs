//! What is written down of commands: for each key the last counter, and what was answered.

use alloc::vec::Vec;

use glg_proto::command::{KeyId, Outcome, Signature};
use serde::{Deserialize, Serialize};

use super::KEYS_MAX;

/// First byte of what is written.
const VERSION: u8 = 1;
/// Bytes of it at most.
pub(super) const STATE_MAX: usize = 2048;
/// Bytes of a signature that tell one command from another with the same counter.
const MARK_BYTES: usize = 16;

/// Of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) key: KeyId,
    /// The largest that it has used.
    pub(super) counter: u64,
    /// Beginning of the signature of that command.
    mark: [u8; MARK_BYTES],
    /// What was answered; nothing while it is being carried out.
    pub(super) outcome: Option<Outcome>,
}

impl Slot {
    pub(super) fn new(key: KeyId) -> Slot {
        Slot { key, counter: 0, mark: [0; MARK_BYTES], outcome: None }
    }

    pub(super) fn begin(&mut self, counter: u64, signature: &Signature) {
        self.counter = counter;
        self.mark = mark(signature);
        self.outcome = None;
    }

    pub(super) fn is_of(&self, signature: &Signature) -> bool {
        self.mark == mark(signature)
    }
}

fn mark(signature: &Signature) -> [u8; MARK_BYTES] {
    signature.first_chunk().copied().unwrap_or_default()
}

#[derive(Serialize, Deserialize)]
struct Head {
    /// Below which counter every command is refused; unknown until there is a clock.
    floor: Option<u64>,
    slots: u8,
}

/// The bytes to be written.
pub(super) fn write<'s>(floor: Option<u64>, slots: impl Iterator<Item = &'s Slot> + Clone) -> Vec<u8> {
    let head = Head { floor, slots: u8::try_from(slots.clone().count()).unwrap_or(u8::MAX) };
    let mut out = alloc::vec![0; STATE_MAX];
    let mut used = 0;
    let mut put = |write: &mut dyn FnMut(&mut [u8]) -> Option<usize>| {
        let len = out.get_mut(used..).and_then(write);
        used += len.unwrap_or(0);
    };
    put(&mut |into| into.first_mut().map(|byte| *byte = VERSION).map(|()| 1));
    put(&mut |into| postcard::to_slice(&head, into).ok().map(|used| used.len()));
    for slot in slots {
        put(&mut |into| postcard::to_slice(slot, into).ok().map(|used| used.len()));
    }
    out.truncate(used);
    let sum = crate::crc::of(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// What was written; `None` for anything else.
pub(super) fn read(bytes: &[u8]) -> Option<(Option<u64>, Vec<Slot>)> {
    let (body, sum) = bytes.split_last_chunk()?;
    if bytes.len() > STATE_MAX + 4 || crate::crc::of(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let rest = body.strip_prefix(&[VERSION])?;
    let (head, mut rest) = postcard::take_from_bytes::<Head>(rest).ok()?;
    let mut slots = Vec::new();
    for _ in 0..usize::from(head.slots).min(KEYS_MAX) {
        let (slot, after) = postcard::take_from_bytes::<Slot>(rest).ok()?;
        slots.push(slot);
        rest = after;
    }
    rest.is_empty().then_some((head.floor, slots))
}
