//! Many short stretches of foreign memory at once, of which some may not be there.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::memory::{Error, Memory, Run};

/// Runs this close together are read as one: a page more costs less than another run.
pub(crate) const GAP: usize = 2048;
/// What stands for a byte that could not be read: many of them are no status, no address and no length.
const UNREADABLE: u8 = 0xff;

/// Reads many short runs as few long ones: what a read costs is the pages it touches.
pub(crate) struct Gather {
    /// The runs by address.
    order: Vec<u16>,
    joined: Vec<Run>,
    /// Where in `bytes` each run begins, and its length.
    places: Vec<(usize, usize)>,
    bytes: Box<[u8]>,
}

impl Gather {
    /// Bytes that one takes.
    pub(crate) const fn bytes(runs: usize, capacity: usize) -> usize {
        runs * (2 + size_of::<Run>() + size_of::<(usize, usize)>()) + capacity
    }

    /// One for so many runs at a time, which have `capacity` bytes together at most.
    pub(crate) fn new(runs: usize, capacity: usize) -> Gather {
        Gather {
            order: Vec::with_capacity(runs),
            joined: Vec::with_capacity(runs),
            places: Vec::with_capacity(runs),
            bytes: vec![0; capacity].into_boxed_slice(),
        }
    }

    /// Reads all `runs`; [`Gather::get`] has them until the next call. When one of them cannot be read each is
    /// read alone, and that one becomes [`UNREADABLE`].
    pub(crate) fn read(&mut self, memory: &mut dyn Memory, runs: &[Run]) -> Result<(), Error> {
        self.order.clear();
        self.order.extend((0..u16::MAX).take(runs.len()));
        self.order.sort_unstable_by_key(|i| runs.get(usize::from(*i)).map_or(0, |run| run.at.0));
        if let Some(total) = [GAP, GAP / 4, 0].into_iter().find_map(|gap| self.join(runs, gap)) {
            match memory.read_runs(&self.joined, self.bytes.get_mut(..total).unwrap_or_default()) {
                Err(Error::Unreadable { .. } | Error::Malformed { .. }) => {}
                other => return other,
            }
        }
        let mut total = 0;
        self.places.clear();
        self.places.extend(runs.iter().map(|run| {
            let from = total;
            total += run.len;
            (from, run.len)
        }));
        each_alone(memory, runs, &mut self.bytes)
    }

    /// What was read of the `i`th run.
    pub(crate) fn get(&self, i: usize) -> &[u8] {
        let place = self.places.get(i).and_then(|(from, len)| self.bytes.get(*from..from + len));
        place.unwrap_or_default()
    }

    /// Joins runs that are at most `gap` apart; the bytes they take, `None` when these are too many.
    fn join(&mut self, runs: &[Run], gap: usize) -> Option<usize> {
        self.joined.clear();
        self.places.clear();
        self.places.resize(runs.len(), (0, 0));
        let mut total = 0usize;
        for i in &self.order {
            let i = usize::from(*i);
            let run = runs.get(i).filter(|run| run.len > 0);
            let (Some(run), Some(place)) = (run, self.places.get_mut(i)) else { continue };
            // The bytes of the last joined run are the last so far.
            let within = self.joined.last_mut().and_then(|last| {
                let within = usize::try_from(run.at.0.checked_sub(last.at.0)?).ok()?;
                let len = within.checked_add(run.len)?.max(last.len);
                let old = (within <= last.len + gap).then(|| core::mem::replace(&mut last.len, len))?;
                let from = total - old + within;
                total += len - old;
                Some(from)
            });
            let from = within.unwrap_or_else(|| {
                self.joined.push(*run);
                total += run.len;
                total - run.len
            });
            *place = (from, run.len);
            if total > self.bytes.len() {
                return None;
            }
        }
        Some(total)
    }
}

/// Reads each run alone into `out`; one that cannot be read becomes [`UNREADABLE`].
pub(crate) fn each_alone(memory: &mut dyn Memory, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
    let mut rest = out;
    for run in runs {
        let Some((now, later)) = rest.split_at_mut_checked(run.len) else { break };
        match memory.read(run.at, now) {
            Ok(()) => {}
            Err(Error::Unreadable { .. } | Error::Malformed { .. }) => now.fill(UNREADABLE),
            Err(error) => return Err(error),
        }
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Addr;

    /// Each byte is its address; a hole from 0x8000 to 0x9000.
    struct Bytes(usize);

    impl Memory for Bytes {
        fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
            self.0 += runs.len();
            let mut out = out.iter_mut();
            for run in runs {
                for at in run.at.0..run.at.0.saturating_add(run.len as u64) {
                    if (0x8000..0x9000).contains(&at) || at > u64::MAX / 2 {
                        return Err(Error::Unreadable { at: run.at.0 });
                    }
                    *out.next().unwrap() = at.to_le_bytes()[0] ^ at.to_le_bytes()[1];
                }
            }
            Ok(())
        }
    }

    fn run(at: u64, len: usize) -> Run {
        Run { at: Addr(at), len }
    }

    /// What a gather of this capacity makes of these runs, in how many stretches.
    fn gathered(runs: &[Run], capacity: usize) -> (usize, Vec<Vec<u8>>) {
        let (mut memory, mut gather) = (Bytes(0), Gather::new(runs.len(), capacity));
        gather.read(&mut memory, runs).unwrap();
        (memory.0, (0..runs.len()).map(|i| gather.get(i).to_vec()).collect())
    }

    fn alone(runs: &[Run]) -> Vec<Vec<u8>> {
        let each = runs.iter().map(|run| {
            let mut out = vec![0; run.len];
            each_alone(&mut Bytes(0), &[*run], &mut out).unwrap();
            out
        });
        each.collect()
    }

    #[test]
    fn joined_runs_give_the_same_bytes() {
        let mixed = [run(0x1000, 40), run(0x1110, 0), run(0x1100, 8), run(0x1104, 8), run(0x500, 16)];
        let wide = [run(0x1000, 16), run(0x1700, 16), run(0x1708, 16)];
        let far = [run(0x7000, 16), run(0x9000, 16), run(0x20000, 300_000), run(0x7ff8, 8)];
        for (runs, capacity, stretches) in
            [(&mixed[..], 5000, 2), (&wide, 5000, 1), (&wide, 48, 2), (&far, 400_000, 4), (&far[..2], 32, 2)]
        {
            let (read, got) = gathered(runs, capacity);
            assert_eq!((read, got), (stretches, alone(runs)), "{runs:x?}");
        }
    }

    #[test]
    fn what_is_not_there_takes_nothing_with_it() {
        let runs = [run(0x7f00, 16), run(0x8100, 16), run(0x9000, 16)];
        let (_, got) = gathered(&runs, 48);
        assert_eq!(got[1], [UNREADABLE; 16]);
        assert_eq!(got, alone(&runs));
        assert_eq!((got[0][0], got[2][0]), (0x7f, 0x90));
        // Nonsense at the end of the address space.
        let runs = [run(u64::MAX - 3, 16), run(0x9000, 16)];
        assert_eq!(gathered(&runs, 32).1[1], alone(&runs)[1]);
    }
}
