//! The clock by which the kernel's scheduler says when a thread ran last. Each processor has its own: it stands still
//! while that one serves interrupts or its host runs another guest (kernel/sched/core.c, `update_rq_clock_task`), so two
//! of them may be seconds apart. What one says can be compared only with what the same says later.

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The lines of `sched` that come first.
const SCHED_HEAD: usize = 384;
/// `stat` of a thread: a name of 64 bytes at most, and 50 numbers.
const STAT: usize = 1536;
/// For so long it is not looked again: who asks of many threads asks of one after the other.
const KEPT: Duration = Duration::from_millis(20);
/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// When a thread ran last by the clock of the processor on which it did, in microseconds: `se.exec_start` of its file
/// `sched` (kernel/sched/debug.c, `proc_sched_show_task`; with CONFIG_SCHED_DEBUG).
pub(crate) fn ran_us(sched: File) -> Option<u64> {
    let text = head::<SCHED_HEAD>(sched)?;
    let line = text.lines().find(|line| line.starts_with("se.exec_start"))?;
    let (ms, us) = line.rsplit_once(':')?.1.trim().split_once('.')?;
    let us: u64 = us.get(..3)?.parse().ok()?;
    let ran_us = ms.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(us)?;
    // 0 is one that was moved to another processor and has not run there yet.
    (ran_us > 0).then_some(ran_us)
}

/// The processor on which a thread ran last: field 39 of its file `stat` (proc_pid_stat(5)).
pub(crate) fn processor(stat: File) -> Option<usize> {
    let text = head::<STAT>(stat)?;
    // A name may have spaces and brackets in it.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(39 - 3)?.parse().ok()
}

/// What the clocks of the processors have shown.
#[derive(Default)]
pub(crate) struct RunClocks {
    shown: Vec<(usize, Instant, u64)>,
}

impl RunClocks {
    /// What the clock of a processor shows, or has shown a moment ago, in microseconds: that is seen only by running
    /// there, which is not done for each of many threads. `None` where we may not.
    pub(crate) fn now_us(&mut self, processor: usize) -> Option<u64> {
        self.shown.retain(|(_, when, _)| when.elapsed() < KEPT);
        if let Some((_, _, us)) = self.shown.iter().find(|(of, _, _)| *of == processor) {
            return Some(*us);
        }
        let us = look(processor)?;
        self.shown.push((processor, Instant::now(), us));
        Some(us)
    }
}

fn look(processor: usize) -> Option<u64> {
    let before = sched_getaffinity(SELF).ok()?;
    // Where we are not meant to run we do not.
    before.is_set(processor).ok().filter(|may| *may)?;
    let mut there = CpuSet::new();
    there.set(processor).ok()?;
    sched_setaffinity(SELF, &there).ok()?;
    let now = File::open("/proc/thread-self/sched").ok().and_then(ran_us);
    // It was allowed a moment ago; and if it is not any more, then the kernel has said where else we may run.
    let _ = sched_setaffinity(SELF, &before);
    now
}

/// The beginning of a file of `/proc`, which hands over such a file whole. Names of threads are any bytes.
fn head<const LEN: usize>(mut file: File) -> Option<String> {
    let (mut buffer, mut used) = ([0; LEN], 0);
    while let Some(rest) = buffer.get_mut(used..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).ok()? {
            0 => break,
            read => used += read,
        }
    }
    Some(String::from_utf8_lossy(buffer.get(..used)?).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};
    use std::thread;

    use glg_engine::locks::scan::{Threads, Tid};
    use nix::unistd::gettid;

    use super::*;
    use crate::threads::ProcThreads;

    fn processors() -> Vec<usize> {
        let allowed = sched_getaffinity(SELF).unwrap();
        (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap()).collect()
    }

    fn only(processor: usize) -> CpuSet {
        let mut set = CpuSet::new();
        set.set(processor).unwrap();
        set
    }

    /// On whatever processor it went to sleep, and on whatever we look.
    #[test]
    fn nobody_is_blocked_for_longer_than_he_has_been() {
        let (lock, all, allowed) = (Mutex::new(()), processors(), sched_getaffinity(SELF).unwrap());
        let (held, begun) = (lock.lock().unwrap(), Instant::now());
        thread::scope(|scope| {
            let (say, said) = mpsc::channel();
            for processor in &all {
                let (say, lock) = (say.clone(), &lock);
                scope.spawn(move || {
                    sched_setaffinity(SELF, &only(*processor)).unwrap();
                    say.send(u32::try_from(gettid().as_raw()).unwrap()).unwrap();
                    drop(lock.lock());
                });
            }
            drop(say);
            let waiting: Vec<_> = said.iter().take(all.len()).collect();
            assert_eq!(waiting.len(), all.len());
            let mut threads = ProcThreads::new(std::process::id());
            for tid in waiting {
                let tid = Tid { inner: tid, outer: tid };
                for processor in &all {
                    // From there.
                    sched_setaffinity(SELF, &only(*processor)).unwrap();
                    sched_setaffinity(SELF, &allowed).unwrap();
                    let deadline = Instant::now() + Duration::from_secs(60);
                    loop {
                        // It may still be on its way.
                        let blocked = threads.blocked_ms(tid).map(Duration::from_millis);
                        let ago = begun.elapsed();
                        // The clock of the scheduler is not corrected as ours is.
                        let most = ago + ago / 100 + Duration::from_millis(5);
                        assert!(
                            blocked.is_none_or(|blocked| blocked <= most),
                            "{blocked:?}, begun {ago:?} ago"
                        );
                        if blocked.is_some_and(|blocked| blocked >= Duration::from_millis(50)) {
                            break;
                        }
                        assert!(Instant::now() < deadline, "it does not grow old: {blocked:?}");
                    }
                    assert_eq!(sched_getaffinity(SELF).unwrap(), allowed);
                }
            }
            drop(held);
        });
    }

    #[test]
    fn of_what_is_not_there_nothing_is_known() {
        let mut clocks = RunClocks::default();
        assert_eq!((clocks.now_us(usize::MAX), clocks.now_us(CpuSet::count() - 1)), (None, None));
        let file = || File::open("/proc/self/status").unwrap();
        assert_eq!((ran_us(file()), processor(file())), (None, None));
    }
}
