//! `[prove]`: how it is proven that goroutines can never go on.

use std::time::Duration;

use glg_engine::reach::ReachLimits;
use glg_engine::reach::proof::Plan;

use super::reader::{Reader, Section};

/// `[prove]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prove {
    /// Passes that have to agree.
    pub passes: u32,
    /// Seconds from the first to the last.
    pub seconds: u32,
    /// KiB that a pass may take.
    pub max_memory_kib: u32,
    /// Seconds that a pass may take.
    pub max_seconds: u32,
    /// Goroutines looked at.
    pub max_goroutines: u32,
    /// Seconds from which on a wait for a lock or a receiver is long.
    pub stuck_s: u32,
    /// Whether the service observes targets that grow, and all of them now and then.
    pub on_growth: bool,
    /// Hours from one to the next where nothing grows; 0 for never.
    pub every_h: u32,
}

impl Prove {
    /// As the engine wants it.
    #[must_use]
    pub fn limits(&self) -> ReachLimits {
        let kib = usize::try_from(self.max_memory_kib).unwrap_or(usize::MAX);
        ReachLimits { memory_bytes: kib.saturating_mul(1024), goroutines: self.max_goroutines.into() }
    }

    /// How many passes, over how long: that long, or as long as is wanted.
    #[must_use]
    pub fn plan(&self, wanted: Option<Duration>) -> Plan {
        let time = wanted.unwrap_or(Duration::from_secs(self.seconds.into()));
        Plan { passes: self.passes, millis: u64::try_from(time.as_millis()).unwrap_or(u64::MAX) }
    }
}

pub(super) fn read<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Prove {
    let mut s = r.section(root, "prove");
    let prove = Prove {
        passes: r.integer(&mut s, "passes", 2..=64, "passes"),
        seconds: r.integer(&mut s, "seconds", 1..=3600, "seconds"),
        max_memory_kib: r.integer(&mut s, "max_memory_kib", 4096..=1_048_576, "KiB"),
        max_seconds: r.integer(&mut s, "max_seconds", 1..=600, "seconds"),
        max_goroutines: r.integer(&mut s, "max_goroutines", 100..=5_000_000, "goroutines"),
        stuck_s: r.integer(&mut s, "stuck_s", 1..=86_400, "seconds"),
        on_growth: r.boolean(&mut s, "on_growth"),
        every_h: r.integer(&mut s, "every_h", 0..=8760, "hours"),
    };
    r.close(&s);
    prove
}
