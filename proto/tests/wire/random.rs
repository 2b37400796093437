//! Messages of every kind with random contents.

use glg_proto::locks::{Contention, Deadlock, LockKind, LockOwner, LockWait, Stuck, StuckThreads};
use glg_proto::wire::{
    Attributed, Body, Class, ClockQuality, Envelope, Evicted, Grade, Health, Leak, Left, Losses, MemoryLimit,
    MessageId, Observed, Online, Site, Target, Timestamp, Trend, Wait, head,
};
use heapless::Vec;

/// Deterministic random numbers (xorshift64): a failure comes back with the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    /// Small and large numbers alike: what varints get wrong are their steps.
    pub(crate) fn number(&mut self) -> u64 {
        let bits = self.below(65);
        if bits == 0 { 0 } else { self.next() >> (64 - bits) }
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::try_from(self.number() & u64::from(u32::MAX)).unwrap()
    }

    pub(crate) fn text<const N: usize>(&mut self) -> heapless::String<N> {
        let length = self.below(N + 1);
        let letters = ['a', 'Z', '.', '/', '*', '(', ')', '-', '0', 'ü', '…', '𝔊'];
        head(&(0..length).map(|_| letters[self.below(letters.len())]).collect::<String>())
    }

    pub(crate) fn leak(&mut self) -> Leak {
        let mut sites = Vec::new();
        for _ in 0..self.below(4) {
            let attributed = Attributed { created: self.u32(), exited: self.u32(), millis: self.u32() };
            let site = Site {
                function: self.text(),
                file: self.text(),
                line: self.u32(),
                wait: Wait::ALL[self.below(Wait::ALL.len())],
                count: self.u32(),
                grew: self.u32(),
                attributed: Some(attributed).filter(|_| self.below(2) == 0),
                oldest_s: self.u32(),
                orphans: Some(self.u32()).filter(|_| self.below(2) == 0),
                marked: self.u32(),
                missing: self.text(),
            };
            sites.push(site).unwrap();
        }
        Leak {
            target: self.target(),
            grade: [Grade::Suspected, Grade::Stuck, Grade::Proven][self.below(3)],
            goroutines: self.u32(),
            baseline: self.u32(),
            window_s: self.u32(),
            trend: Some(self.trend()).filter(|_| self.below(2) == 0),
            left: Some(self.left()).filter(|_| self.below(2) == 0),
            observed: Some(Observed { passes: self.next() as u8, seconds: self.next() as u16 })
                .filter(|_| self.below(2) == 0),
            sites,
        }
    }

    pub(crate) fn trend(&mut self) -> Trend {
        let mut number = || self.u32().cast_signed();
        Trend { low: number(), per_hour: number(), high: number() }
    }

    pub(crate) fn left(&mut self) -> Left {
        let limit = [MemoryLimit::Machine, MemoryLimit::Cgroup][self.below(2)];
        Left { minutes: self.u32(), limit }
    }

    pub(crate) fn target(&mut self) -> Target {
        Target { name: self.text(), pid: self.u32(), go: (self.next() as u8, self.next() as u8) }
    }

    pub(crate) fn stuck(&mut self) -> Stuck {
        Stuck {
            tid: self.u32(),
            goid: self.number(),
            kind: [LockKind::Mutex, LockKind::Join, LockKind::Go][self.below(3)],
            lock: self.number(),
            c_function: self.text(),
            go_function: self.text(),
            line: self.u32(),
        }
    }

    pub(crate) fn deadlock(&mut self) -> Deadlock {
        Deadlock {
            target: self.target(),
            age_s: self.u32(),
            inferred: self.below(2) == 0,
            total: self.next() as u16,
            members: (0..1 + self.below(4)).map(|_| self.stuck()).collect(),
        }
    }

    pub(crate) fn lock_wait(&mut self) -> LockWait {
        let tid = self.u32();
        LockWait {
            target: self.target(),
            waited_s: self.u32(),
            waiters: self.next() as u16,
            owner: [LockOwner::Unknown, LockOwner::Thread(tid), LockOwner::Exited(tid)][self.below(3)],
            waiter: self.stuck(),
        }
    }

    pub(crate) fn stuck_threads(&mut self) -> StuckThreads {
        StuckThreads {
            target: self.target(),
            threads: self.u32(),
            away: self.u32(),
            baseline: self.u32(),
            window_s: self.u32(),
            pinned: self.u32(),
            foreign: self.u32(),
        }
    }

    pub(crate) fn contention(&mut self) -> Contention {
        Contention {
            target: self.target(),
            observed_ms: self.u32(),
            waits: self.u32(),
            total_ms: self.u32(),
            longest_us: self.u32(),
            median_us: self.u32(),
            p99_us: self.u32(),
            waiter: self.stuck(),
        }
    }

    pub(crate) fn evicted(&mut self) -> Evicted {
        let first = MessageId { boot: self.next().to_le_bytes(), epoch: self.u32(), seq: self.u32() };
        let class = [Class::Routine, Class::Warning, Class::Critical][self.below(3)];
        Evicted { class, count: self.u32(), first, last_seq: self.u32() }
    }

    pub(crate) fn health(&mut self) -> Health {
        Health {
            targets: self.next() as u16,
            waiting: self.u32(),
            spool_bytes: self.u32(),
            flash_bytes: self.u32(),
            memory_only: self.below(2) == 1,
            evicted: self.u32(),
            damaged: self.u32(),
            airtime_bytes: self.u32(),
            rss_kib: self.u32(),
        }
    }

    /// The body of an alert.
    pub(crate) fn alert(&mut self) -> Body {
        match self.below(7) {
            5 => Body::Evicted(self.evicted()),
            6 => Body::Health(self.health()),
            0 => Body::Deadlock(self.deadlock()),
            1 => Body::LockWait(self.lock_wait()),
            2 => Body::StuckThreads(self.stuck_threads()),
            3 => Body::Contention(self.contention()),
            _ => Body::Leak(self.leak()),
        }
    }

    pub(crate) fn envelope(&mut self) -> Envelope {
        let clock = [ClockQuality::Wrong, ClockQuality::Free, ClockQuality::Synced][self.below(3)];
        Envelope {
            device: self.text(),
            boot: self.next().to_le_bytes(),
            epoch: self.u32(),
            seq: self.u32(),
            at: Timestamp { mono_ms: self.number(), wall_ms: self.number(), clock },
            losses: Losses { alerts: self.u32(), samples: self.u32(), records: self.u32() },
            body: match self.below(3) {
                0 => Body::Online(Online {
                    agent: self.text(),
                    kernel: self.text(),
                    targets: self.next() as u16,
                }),
                1 => Body::Offline,
                _ => self.alert(),
            },
        }
    }
}
