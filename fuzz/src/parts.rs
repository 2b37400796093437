//! The parts of a document that an interrupted transfer has left in a file.

use std::io::{Cursor, Read};

use glg_engine::crc;
use glg_proto::command::{CommandId, DocumentKind, KeyId, Made, Part};
use ring::digest::{SHA256, digest};

use crate::glg::parts::{Parts, PartsError};

const COMMAND: CommandId = CommandId { key: KeyId([7; 8]), counter: 9 };
const DOCUMENT: &[u8] = b"some bytes of a document that has come in some parts";
const PART_BYTES: u16 = 7;

/// From any file a transfer goes on, until the document is whole.
///
/// # Panics
/// When it does not come to that, or another document is taken for it.
pub fn check(data: &[u8]) {
    let made = made();
    let log = Cursor::new(data.to_vec());
    let resumed = Parts::resume(log, 1 << 10, |_| Ok::<_, PartsError>((COMMAND, made)));
    let Ok(mut parts) = resumed else { return };
    // Parts of the right length with wrong bytes are told when all are there: then all of them come again.
    let whole = (0..2).any(|_| {
        let taken = all_parts().iter().all(|part| parts.take(part).is_ok());
        taken && parts.first_missing().is_none() && parts.verify().is_ok_and(|whole| whole)
    });
    let mut document = Vec::new();
    let read = parts.reader().read_to_end(&mut document).is_ok();
    assert!(whole && read && document == DOCUMENT, "whole: {whole}, read: {read}, {document:?}");
}

fn made() -> Made {
    let mut sha256 = [0; 32];
    sha256.iter_mut().zip(digest(&SHA256, DOCUMENT).as_ref()).for_each(|(to, byte)| *to = *byte);
    let bytes = u32::try_from(DOCUMENT.len()).unwrap_or(0);
    Made { kind: DocumentKind::Full, pid: 1412, bytes, part_bytes: PART_BYTES, sha256 }
}

fn all_parts() -> Vec<Vec<u8>> {
    let of = made().parts();
    let pieces = (0..).zip(DOCUMENT.chunks(PART_BYTES.into()));
    let part = |(index, bytes)| {
        let head = Part { command: COMMAND, index, of, bytes }.head().unwrap_or_default();
        [&head[..], bytes].concat()
    };
    pieces.map(part).collect()
}

/// Files of a transfer at its beginning, in its middle, and at its end.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let record = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        [&len.to_le_bytes()[..], bytes].concat()
    };
    let mut parts = all_parts();
    // Not in the order of their numbers.
    parts.sort_by_key(|part| crc::of(part));
    [0, parts.len() / 2, parts.len()]
        .map(|count| {
            parts.iter().take(count).fold(record(b"a receipt"), |log, part| [log, record(part)].concat())
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::Mutator;

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = Mutator::new(&seeds, 1, 1024);
        let have = |input: Vec<u8>| {
            let resumed =
                Parts::resume(Cursor::new(input), 1 << 10, |_| Ok::<_, PartsError>((COMMAND, made())));
            resumed.map_or(0, |parts| parts.have())
        };
        let all: Vec<u64> = (0..10_000).map(|_| have(mutator.next_input())).collect();
        let some = all.iter().filter(|have| (1..DOCUMENT.len() as u64).contains(have)).count();
        assert!((1_000..9_000).contains(&some), "{some} of 10000 files hold some parts");
    }
}
