#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use super::*;
use crate::command::audit::Audit;
use crate::flash::{File, Flash, FlashError};
use alloc::collections::BTreeMap;
use glg_proto::audit::{Event, Head, Linked, Record};

#[derive(Clone, Default)]
struct Ram(BTreeMap<File, Vec<u8>>, bool);

impl Flash for Ram {
    fn list(&mut self, each: &mut dyn FnMut(File, u64)) -> Result<(), FlashError> {
        self.0.iter().for_each(|(file, bytes)| each(*file, bytes.len() as u64));
        Ok(())
    }

    fn read(&mut self, file: File, at: u64, into: &mut [u8]) -> Result<usize, FlashError> {
        let bytes = &self.0.get(&file).ok_or(FlashError::Missing)?[at as usize..];
        let len = bytes.len().min(into.len());
        into[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn append(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        if self.1 {
            // Half of it gets there.
            self.0.entry(file).or_default().extend(&bytes[..bytes.len() / 2]);
            return Err(FlashError::NoSpace);
        }
        self.0.entry(file).or_default().extend(bytes);
        Ok(())
    }

    fn sync(&mut self, _: File) -> Result<(), FlashError> {
        Ok(())
    }

    fn replace(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        self.0.insert(file, bytes.to_vec());
        Ok(())
    }

    fn remove(&mut self, file: File) -> Result<(), FlashError> {
        self.0.remove(&file);
        Ok(())
    }
}

/// A sum that is good enough to tell what was changed.
struct Crcs;

impl Crypto for Crcs {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        false
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        out[..4].copy_from_slice(&crate::crc::of(&parts.concat()).to_le_bytes());
        out
    }
}

fn at(mono_ms: u64) -> (Timestamp, [u8; 8]) {
    (Timestamp { mono_ms, wall_ms: 0, clock: ClockQuality::Free }, [1; 8])
}

fn begun(audit: &mut Audit, ram: &mut Ram, counter: u64) -> Result<(), FlashError> {
    let id = CommandId { key: KeyId([5; 8]), counter };
    audit.add(ram, &Crcs, at(0), id, Event::Begun(1))
}

/// The records of an export; each segment begins with the link that the one before ended with.
fn records(export: &[u8]) -> Vec<Record> {
    let (mut out, mut rest, mut last) = (Vec::new(), export, None);
    while let Some((len, after)) = rest.split_first_chunk() {
        let (segment, after) = after.split_at(u32::from_le_bytes(*len) as usize);
        rest = after;
        let (head, mut records) = Head::parse(segment).unwrap();
        assert!(last.is_none_or(|last| last == head.link), "segments that do not follow each other");
        let mut link = head.link;
        while let Some((linked, after)) = Linked::parse(records) {
            link = Crcs.sha256(&[&link, linked.bytes]);
            if link != *linked.link {
                break;
            }
            last = Some(link);
            out.push(linked.record().unwrap());
            records = after;
        }
    }
    assert!(out.windows(2).all(|two| two[1].index == two[0].index + 1), "{out:?}");
    out
}

#[test]
fn a_ring_of_linked_records() {
    let (mut ram, mut most) = (Ram::default(), 0);
    for start in 0..50 {
        let mut audit = Audit::open(&mut ram, &Crcs).unwrap();
        for i in 0..20 {
            begun(&mut audit, &mut ram, start * 20 + i).unwrap();
        }
        most = most.max(ram.0.values().map(Vec::len).sum());
        let records = records(&audit.export(&mut ram).unwrap());
        let newest = records.last().unwrap();
        assert_eq!((newest.index, newest.command.counter), (start * 20 + 19, start * 20 + 19));
    }
    let audit = Audit::open(&mut ram, &Crcs).unwrap();
    let kept = records(&audit.export(&mut ram).unwrap()).len();
    assert!(most <= 4 * 8192 && (200..1000).contains(&kept), "{most} bytes, {kept} records");
}

#[test]
fn whatever_is_damaged_the_rest_is_kept_and_it_goes_on() {
    let mut ram = Ram::default();
    let mut audit = Audit::open(&mut ram, &Crcs).unwrap();
    for i in 0..5 {
        begun(&mut audit, &mut ram, i).unwrap();
    }
    let (file, whole) = ram.0.pop_first().unwrap();
    for cut in 0..whole.len() {
        for flip in [false, true] {
            let mut bytes = whole.clone();
            match flip {
                false => bytes.truncate(cut),
                true => bytes[cut] ^= 0x40,
            }
            let mut ram = Ram(BTreeMap::from([(file, bytes)]), false);
            let mut audit = Audit::open(&mut ram, &Crcs).unwrap();
            begun(&mut audit, &mut ram, 77).unwrap();
            let again = Audit::open(&mut ram, &Crcs).unwrap();
            let export = again.export(&mut ram).unwrap();
            // The one that is damaged may have lost its head.
            let newest = export.windows(1).count() > 0;
            assert!(newest, "{cut} {flip}");
            let mut ram = Ram(ram.0.into_iter().skip_while(|(f, _)| *f == file && cut < 41).collect(), false);
            let left = records(&again.export(&mut ram).unwrap());
            assert_eq!(left.last().unwrap().command.counter, 77, "{cut} {flip}");
        }
    }
}

#[test]
fn what_could_not_be_written_is_not_in_the_way() {
    let mut ram = Ram::default();
    let mut audit = Audit::open(&mut ram, &Crcs).unwrap();
    begun(&mut audit, &mut ram, 1).unwrap();
    ram.1 = true;
    assert_eq!(begun(&mut audit, &mut ram, 2), Err(FlashError::NoSpace));
    ram.1 = false;
    begun(&mut audit, &mut ram, 3).unwrap();
    let counters = |audit: &Audit, ram: &mut Ram| -> Vec<u64> {
        records(&audit.export(ram).unwrap()).iter().map(|record| record.command.counter).collect()
    };
    assert_eq!(counters(&audit, &mut ram), [1, 3]);
    let again = Audit::open(&mut ram, &Crcs).unwrap();
    assert_eq!(counters(&again, &mut ram), [1, 3]);
}

#[test]
fn refusals_do_not_fill_it() {
    let mut ram = Ram::default();
    let mut audit = Audit::open(&mut ram, &Crcs).unwrap();
    for minute in 0..300 {
        for _ in 0..100 {
            let refused = Event::Refused(Refusal::Forged);
            audit.add(&mut ram, &Crcs, at(minute * 60_000), CommandId::default(), refused).unwrap();
        }
    }
    begun(&mut audit, &mut ram, 1).unwrap();
    let records = records(&audit.export(&mut ram).unwrap());
    let refused = records.iter().filter(|record| matches!(record.event, Event::Refused(_))).count();
    let skipped: u32 = records.iter().map(|record| record.skipped).sum();
    assert_eq!((refused, refused as u32 + skipped), (16 + 4, 30_000));
}
