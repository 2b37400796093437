//! Many short stretches of foreign memory at once, of which some may not be there.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::memory::{Error, Memory, Run};

/// Runs this close together are read as one: a page more costs less than another run.
const GAP: usize = 2048;
/// What stands for a byte that could not be read: many of them are no status, no address and no length.
const UNREADABLE: u8 = 0xff;
/// Bytes of joined runs.
const GATHER: usize = 192 << 10;

/// Reads many short runs as few long ones: what a read costs is the pages it touches.
pub(crate) struct Gather {
    merged: Vec<Run>,
    bytes: Box<[u8]>,
}

impl Gather {
    pub(crate) fn new() -> Gather {
        Gather { merged: Vec::new(), bytes: vec![0; GATHER].into_boxed_slice() }
    }

    /// Reads all `runs` into `out`. When one of them cannot be read each is read alone, and that one becomes
    /// [`UNREADABLE`].
    pub(crate) fn read(
        &mut self,
        memory: &mut dyn Memory,
        runs: &[Run],
        out: &mut [u8],
    ) -> Result<(), Error> {
        let read = match self.merge(runs) {
            Some(total) => {
                let bytes = self.bytes.get_mut(..total).unwrap_or_default();
                memory.read_runs(&self.merged, bytes).inspect(|()| self.scatter(runs, out))
            }
            None => memory.read_runs(runs, out),
        };
        match read {
            Err(Error::Unreadable { .. } | Error::Malformed { .. }) => each_alone(memory, runs, out),
            other => other,
        }
    }

    /// Joins runs that follow each other closely; the bytes they take, `None` when that is too many.
    fn merge(&mut self, runs: &[Run]) -> Option<usize> {
        self.merged.clear();
        let mut total = 0usize;
        for run in runs.iter().filter(|run| run.len > 0) {
            let joined = self.merged.last_mut().and_then(|last| {
                let within = usize::try_from(run.at.0.checked_sub(last.at.0)?).ok()?;
                let len = within.checked_add(run.len)?.max(last.len);
                (within <= last.len + GAP)
                    .then(|| core::mem::replace(&mut last.len, len))
                    .map(|old| len - old)
            });
            total += joined.unwrap_or(run.len);
            if joined.is_none() {
                self.merged.push(*run);
            }
            if total > self.bytes.len() {
                return None;
            }
        }
        Some(total)
    }

    /// Copies each run out of the joined ones, in the order in which they were joined.
    fn scatter(&self, runs: &[Run], out: &mut [u8]) {
        let (mut joined, mut before, mut rest) = (self.merged.as_slice(), 0usize, out);
        for run in runs {
            let Some((into, later)) = rest.split_at_mut_checked(run.len) else { return };
            rest = later;
            while let [first, others @ ..] = joined
                && run.len > 0
            {
                let within = run.at.0.checked_sub(first.at.0).and_then(|w| usize::try_from(w).ok());
                match within.filter(|within| within + run.len <= first.len) {
                    Some(within) => {
                        let from = before + within;
                        if let Some(bytes) = self.bytes.get(from..from + run.len) {
                            into.copy_from_slice(bytes);
                        }
                        break;
                    }
                    None => (joined, before) = (others, before + first.len),
                }
            }
        }
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
                for at in run.at.0..run.at.0 + run.len as u64 {
                    if (0x8000..0x9000).contains(&at) {
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

    #[test]
    fn joined_runs_give_the_same_bytes() {
        let runs = [run(0x1000, 40), run(0x1100, 8), run(0x1110, 0), run(0x1104, 8), run(0x500, 16)];
        let far = [run(0x7000, 16), run(0x9000, 16), run(0x20000, 300_000), run(0x7ff8, 16)];
        for (runs, calls) in [(&runs[..], 2), (&far[..2], 2), (&far[..3], 3)] {
            let len = runs.iter().map(|run| run.len).sum();
            let (mut joined, mut alone) = (vec![0; len], vec![0; len]);
            let mut memory = Bytes(0);
            Gather::new().read(&mut memory, runs, &mut joined).unwrap();
            assert_eq!(memory.0, calls);
            each_alone(&mut memory, runs, &mut alone).unwrap();
            assert_eq!(joined, alone);
        }
    }

    #[test]
    fn what_is_not_there_takes_nothing_with_it() {
        let runs = [run(0x7f00, 16), run(0x8100, 16), run(0x9000, 16)];
        let mut out = vec![0; 48];
        Gather::new().read(&mut Bytes(0), &runs, &mut out).unwrap();
        assert!(out[16..32].iter().all(|byte| *byte == UNREADABLE));
        assert_eq!((out[0], out[32]), (0x7f, 0x90));
    }
}
