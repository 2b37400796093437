//! Flash with the habits of a real file system: what was not synced may be lost, cut at any byte, or rubbish.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use glg_engine::flash::{File, Flash, FlashError};

use crate::work::Day;

/// xorshift64*: the same numbers each time.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(2).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// From 0 to below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}

/// When within an operation the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    Within,
    After,
}

impl Moment {
    pub(crate) const ALL: [Moment; 3] = [Moment::Before, Moment::Within, Moment::After];
}

#[derive(Clone, Debug, Default)]
struct Data {
    /// What outlives a power cut.
    durable: Option<Vec<u8>>,
    /// What is read until then: the same, or more at its end.
    seen: Option<Vec<u8>>,
}

struct State {
    files: BTreeMap<File, Data>,
    /// Removed, but the directory was not written since.
    half_removed: BTreeMap<File, Vec<u8>>,
    random: Random,
    /// Decides which writes fail although the power is on.
    trouble: Random,
    operations: u64,
    cut: Option<(u64, Moment)>,
    off: bool,
    day: Day,
}

/// A disk that is handed from one agent to the next.
#[derive(Clone)]
pub(crate) struct Disk(Rc<RefCell<State>>);

impl Disk {
    pub(crate) fn new(seed: u64, day: Day) -> Disk {
        Disk(Rc::new(RefCell::new(State {
            files: BTreeMap::new(),
            half_removed: BTreeMap::new(),
            random: Random::new(seed),
            trouble: Random::new(7),
            operations: 0,
            cut: None,
            off: false,
            day,
        })))
    }

    pub(crate) fn cut_at(&self, operation: u64, moment: Moment) {
        self.0.borrow_mut().cut = Some((operation, moment));
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.borrow().off
    }

    pub(crate) fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    /// After a cut: what was not synced is there in part, or mangled, or not at all.
    pub(crate) fn power_on(&self) {
        let State { files, half_removed, random, off, cut, .. } = &mut *self.0.borrow_mut();
        (*off, *cut) = (false, None);
        for (file, bytes) in std::mem::take(half_removed) {
            let data = files.entry(file).or_default();
            if data.seen.is_none() && random.below(2) == 0 {
                data.durable = Some(bytes);
            }
        }
        for data in files.values_mut() {
            let Some(seen) = data.seen.take().filter(|seen| data.durable.as_ref() != Some(seen)) else {
                data.seen.clone_from(&data.durable);
                continue;
            };
            // Its name may not be known.
            if data.durable.is_none() && random.below(2) == 0 {
                continue;
            }
            let mut left = data.durable.take().unwrap_or_default();
            let tail = seen.get(left.len()..).unwrap_or_default();
            let tail = tail.get(..random.below(tail.len() + 1)).unwrap_or_default();
            let begin = left.len();
            left.extend_from_slice(tail);
            let mangled = begin + random.below(tail.len() + 1);
            let rubbish = random.below(3);
            for byte in left.iter_mut().skip(mangled) {
                match rubbish {
                    0 => {}
                    1 => *byte = 0,
                    _ => *byte = random.below(256) as u8,
                }
            }
            (data.durable, data.seen) = (Some(left.clone()), Some(left));
        }
        files.retain(|_, data| data.seen.is_some());
    }

    /// Every file there is, to be damaged.
    pub(crate) fn files(&self) -> Vec<(File, Vec<u8>)> {
        let state = self.0.borrow();
        state.files.iter().filter_map(|(file, data)| Some((*file, data.seen.clone()?))).collect()
    }

    /// Another disk with the same files.
    pub(crate) fn copy(&self) -> Disk {
        let copy = Disk::new(0, Day::Usual);
        self.files().into_iter().for_each(|(file, bytes)| copy.set(file, bytes));
        copy
    }

    pub(crate) fn set(&self, file: File, bytes: Vec<u8>) {
        let data = Data { durable: Some(bytes.clone()), seen: Some(bytes) };
        self.0.borrow_mut().files.insert(file, data);
    }

    /// Begins an operation: what is to be done of it, and whether it is heard of.
    fn operation(&self) -> Result<Option<Moment>, FlashError> {
        let mut state = self.0.borrow_mut();
        if state.off {
            return Err(FlashError::Io);
        }
        state.operations += 1;
        if let Some((at, moment)) = state.cut
            && state.operations == at
        {
            state.off = true;
            return match moment {
                Moment::Before => Err(FlashError::Io),
                other => Ok(Some(other)),
            };
        }
        // Now and then there is no room, for others are there, too.
        if state.day == Day::CrowdedFlash && state.trouble.below(12) == 0 {
            return Err(FlashError::NoSpace);
        }
        Ok(None)
    }

    fn end(moment: Option<Moment>) -> Result<(), FlashError> {
        if moment.is_none() { Ok(()) } else { Err(FlashError::Io) }
    }
}

impl Flash for Disk {
    fn list(&mut self, each: &mut dyn FnMut(File, u64)) -> Result<(), FlashError> {
        for (file, data) in &self.0.borrow().files {
            if let Some(seen) = &data.seen {
                each(*file, seen.len() as u64);
            }
        }
        Ok(())
    }

    fn read(&mut self, file: File, at: u64, into: &mut [u8]) -> Result<usize, FlashError> {
        let state = self.0.borrow();
        if state.off {
            return Err(FlashError::Io);
        }
        let seen = state.files.get(&file).and_then(|data| data.seen.as_ref()).ok_or(FlashError::Missing)?;
        let rest = seen.get(at as usize..).unwrap_or_default();
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn append(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        let moment = self.operation()?;
        let State { files, random, .. } = &mut *self.0.borrow_mut();
        let part = if moment == Some(Moment::Within) { random.below(bytes.len()) } else { bytes.len() };
        files.entry(file).or_default().seen.get_or_insert_default().extend_from_slice(&bytes[..part]);
        Disk::end(moment)
    }

    fn sync(&mut self, file: File) -> Result<(), FlashError> {
        let moment = self.operation()?;
        let mut state = self.0.borrow_mut();
        let data = state.files.get_mut(&file).ok_or(FlashError::Missing)?;
        // Cut off within it, anything may have become of it: as without it.
        if moment != Some(Moment::Within) {
            data.durable.clone_from(&data.seen);
            state.half_removed.clear();
        }
        Disk::end(moment)
    }

    fn replace(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        let moment = self.operation()?;
        let State { files, random, half_removed, .. } = &mut *self.0.borrow_mut();
        if moment != Some(Moment::Within) || random.below(2) == 0 {
            let bytes = bytes.to_vec();
            files.insert(file, Data { durable: Some(bytes.clone()), seen: Some(bytes) });
            half_removed.clear();
        }
        Disk::end(moment)
    }

    fn remove(&mut self, file: File) -> Result<(), FlashError> {
        let moment = self.operation()?;
        let State { files, random, half_removed, day, .. } = &mut *self.0.borrow_mut();
        if moment != Some(Moment::Within) || random.below(2) == 0 {
            let removed = files.remove(&file).and_then(|data| data.durable);
            if let Some(bytes) = removed
                && *day == Day::Forgetful
            {
                half_removed.insert(file, bytes);
            }
        }
        Disk::end(moment)
    }
}
