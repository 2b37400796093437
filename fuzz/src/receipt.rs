//! What comes from devices beside their alerts: signed answers, and parts of documents.

use glg_proto::command::{
    CommandId, KeyId, PART_MAX, Part, RECEIPT_MAX, Receipt, SignedReceipt, sign_receipt,
};
use glg_proto::wire::{ClockQuality, Timestamp, head};

use crate::command::outcomes;

/// Longest input: there is nothing new in the bytes of a part.
pub const MAX_LEN: usize = 2 * RECEIPT_MAX;

/// Any bytes are refused, or something that is the same when it is encoded and read again.
///
/// # Panics
/// When that does not hold.
pub fn check(data: &[u8]) {
    if let Ok(signed) = SignedReceipt::parse(data) {
        let made = sign_receipt(&signed.receipt, signed.device_key, |_| *signed.signature);
        let bytes = made.unwrap_or_default();
        let again = SignedReceipt::parse(&bytes);
        assert_eq!(again.as_ref().map(|again| &again.receipt), Ok(&signed.receipt), "it changes on its way");
        assert!(bytes.len() <= data.len() && !signed.signed().is_empty());
    }
    if let Ok(part) = Part::parse(data) {
        assert!(part.index < part.of && (1..=PART_MAX).contains(&part.bytes.len()), "{part:?}");
        let bytes = [&part.head().unwrap_or_default()[..], part.bytes].concat();
        assert_eq!(Part::parse(&bytes), Ok(part), "it changes on its way");
    }
}

/// One answer of each kind, and parts.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let command = CommandId { key: KeyId([7; 8]), counter: 1_795_000_000_123 };
    let at = Timestamp { mono_ms: 90_000, wall_ms: 1_795_308_315_000, clock: ClockQuality::Synced };
    let receipt = |outcome| Receipt { device: head("van-7"), boot: [1; 8], at, command, outcome };
    let signed = |outcome| sign_receipt(&receipt(outcome), &[3; 32], |_| [9; 64]);
    let mut seeds: Vec<Vec<u8>> =
        outcomes().into_iter().map(|outcome| signed(outcome).unwrap_or_default().to_vec()).collect();
    for (index, of, bytes) in [(0, 1, &b"x"[..]), (70, 300, &[0x5a; 200])] {
        let head = Part { command, index, of, bytes }.head().unwrap_or_default();
        seeds.push([&head[..], bytes].concat());
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::Mutator;

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = Mutator::new(&seeds, 1, MAX_LEN);
        let inputs: Vec<_> = (0..10_000).map(|_| mutator.next_input()).collect();
        let receipts = inputs.iter().filter(|input| SignedReceipt::parse(input).is_ok()).count();
        let parts = inputs.iter().filter(|input| Part::parse(input).is_ok()).count();
        assert!((500..7_000).contains(&receipts), "{receipts} of 10000 inputs are receipts");
        assert!((500..9_000).contains(&parts), "{parts} of 10000 inputs are parts");
    }
}
