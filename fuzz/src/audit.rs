//! What a device has written down of commands: found on flash by the next agent, and shown by the operator's tool.

use glg_engine::command::Crypto;
use glg_engine::command::audit::Audit;
use glg_engine::flash::{File, InMemory, Kind};
use glg_proto::audit::{Ending, Event, HEAD_BYTES, Head, Linked, Record};
use glg_proto::command::{CommandId, KeyId, PublicKey, Refusal, Signature};
use glg_proto::wire::{ClockQuality, Timestamp};

use crate::command::Anybody;

const NOW: Timestamp = Timestamp { mono_ms: 60_000, wall_ms: 1_795_000_000_000, clock: ClockQuality::Free };
const BOOT: [u8; 8] = [1; 8];
const COMMAND: CommandId = CommandId { key: KeyId([7; 8]), counter: 300 };

/// Links that depend on what they are of, and take less time than SHA-256.
struct Sums;

impl Crypto for Sums {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        false
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        let sum = glg_engine::crc::of(&parts.concat());
        out.iter_mut().zip(sum.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        out
    }
}

/// With the links of the first one a changed record is not believed; with those of the second each is.
fn crypto(which: u8) -> &'static dyn Crypto {
    if which.is_multiple_of(2) { &Sums } else { &Anybody }
}

/// An agent begins on any two segments, writes down what happens, and the next one goes on where it stopped.
///
/// # Panics
/// When a record is lost that was written down.
pub fn check(data: &[u8]) {
    let [which, split, bytes @ ..] = data else { return };
    let crypto = crypto(*which);
    let (older, newer) = bytes.split_at(bytes.len().min(usize::from(*split) * 16));
    let flash = InMemory::default();
    for (number, bytes) in [(3, older), (4, newer)] {
        if !bytes.is_empty() {
            flash.0.borrow_mut().insert(File { kind: Kind::Audit, number }, bytes.to_vec());
        }
    }
    let first = written(&flash, crypto, Event::Started);
    let second = written(&flash, crypto, Event::Begun(1));
    let (Some(first), Some(second)) = (first, second) else {
        assert!(bytes.is_empty() || first.is_none(), "written, and lost");
        return;
    };
    assert_eq!(second.index, first.index.wrapping_add(1), "the next agent does not go on");
}

/// What the last segment ends with after an agent has written this down; `None` where it cannot.
fn written(flash: &InMemory, crypto: &dyn Crypto, event: Event) -> Option<Record> {
    let mut flash = flash.clone();
    let mut audit = Audit::open(&mut flash, crypto).ok()?;
    audit.add(&mut flash, crypto, (NOW, BOOT), COMMAND, event).ok()?;
    let document = audit.export(&mut flash).unwrap_or_default();
    let last = segments(&document)?.pop();
    let record = last.and_then(|segment| last_record(segment, crypto));
    assert!(record.is_some_and(|record| record.event == event), "{record:?} is not {event:?}");
    record
}

/// The document's segments; `None` when it is none.
fn segments(mut document: &[u8]) -> Option<Vec<&[u8]>> {
    let mut segments = Vec::new();
    while !document.is_empty() {
        let (len, rest) = document.split_first_chunk()?;
        let (segment, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        segments.push(segment);
        document = rest;
    }
    Some(segments)
}

/// Of a segment all of whose links are good.
fn last_record(segment: &[u8], crypto: &dyn Crypto) -> Option<Record> {
    let (head, mut rest) = Head::parse(segment)?;
    let (mut link, mut last) = (head.link, None);
    while let Some((linked, after)) = Linked::parse(rest) {
        link = crypto.sha256(&[&link, linked.bytes]);
        last = Some(linked.record().filter(|_| link == *linked.link)?);
        rest = after;
    }
    last.filter(|_| rest.is_empty())
}

/// Two segments, with each kind of link.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let events = [
        Event::Started,
        Event::Begun(1),
        Event::Ended(Ending::Done),
        Event::Refused(Refusal::Replayed(299)),
        Event::Refused(Refusal::Forged),
        Event::Damaged,
    ];
    let seed = |which: u8| {
        let (mut flash, crypto) = (InMemory::default(), crypto(which));
        let mut audit = Audit::open(&mut flash, crypto).ok()?;
        for event in events.iter().cycle().take(9) {
            audit.add(&mut flash, crypto, (NOW, BOOT), COMMAND, *event).ok()?;
        }
        let document = audit.export(&mut flash).ok()?;
        let all = segments(&document)?.concat();
        // Cut at a record, as a segment that is full.
        let (head, mut rest) = Head::parse(&all)?;
        let (mut link, mut index) = (head.link, head.index);
        while all.len() - rest.len() < 16 * 16 {
            let (linked, after) = Linked::parse(rest)?;
            (link, index, rest) = (*linked.link, index + 1, after);
        }
        let older = all.get(..all.len() - rest.len())?;
        let padding = older.len().next_multiple_of(16) - older.len();
        let split = u8::try_from((older.len() + padding) / 16).ok()?;
        let newer = [&Head { index, link }.bytes()[..], rest].concat();
        // What is not a record ends the older one.
        let both = [older, &vec![0; padding], &newer].concat();
        Some(vec![[vec![which, split], both].concat(), [vec![which, 0], all.clone()].concat()])
    };
    [seed(0), seed(1)].into_iter().flatten().flatten().collect()
}

/// Longest input: two segments of some records each.
pub const MAX_LEN: usize = 2 + 2 * (HEAD_BYTES + 1024);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::Mutator;

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        assert_eq!(seeds.len(), 4);
        let mut mutator = Mutator::new(&seeds, 1, MAX_LEN);
        let (mut whole, mut part) = (0, 0);
        for input in (0..10_000).map(|_| mutator.next_input()) {
            let [which, 0, bytes @ ..] = &input[..] else { continue };
            match last_record(bytes, crypto(*which)) {
                Some(_) => whole += 1,
                None => part += usize::from(Head::parse(bytes).is_some()),
            }
        }
        assert!(whole > 100 && part > 1000, "{whole} whole, {part} in part");
    }
}
