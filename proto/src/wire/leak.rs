//! Leaks: how strong the verdict is, what it rests on, and where the goroutines come from.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use super::{FUNCTION_MAX, MISSING_MAX, SITES_MAX, Target, Wait, head};

/// A leak: which program, how strong the verdict is and what it rests on, and the sites it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// The leaking program.
    pub target: Target,
    /// Strength of the verdict.
    pub grade: Grade,
    /// Goroutines now.
    pub goroutines: u32,
    /// Goroutines at the start of the window.
    pub baseline: u32,
    /// Seconds over which the growth was seen; 0 when none was.
    pub window_s: u32,
    /// How fast the goroutines of the program become more.
    pub trend: Option<Trend>,
    /// When its memory will be used up at the rate at which it grows now.
    pub left: Option<Left>,
    /// How it was observed, for more than a suspicion.
    pub observed: Option<Observed>,
    /// The sites: of a suspicion those that grew, the largest growth first, else the largest first.
    pub sites: Vec<Site, SITES_MAX>,
}

impl Leak {
    /// Leaves out what tells the least; `false` when there is nothing more.
    pub(super) fn shrink(&mut self) -> bool {
        if self.sites.len() > 1 {
            self.sites.pop();
            return true;
        }
        let Some(site) = self.sites.first_mut() else { return false };
        if site.attributed.take().is_some() {
            return true;
        }
        // The end of a path tells more than its beginning.
        let mut file = site.file.chars();
        if file.next().is_some() {
            site.file = head(file.as_str());
            return true;
        }
        let told = !site.missing.is_empty();
        site.missing.clear();
        told
    }
}

/// How fast something changes, in units per hour: the median of the slopes between all parts of a window (Theil and
/// Sen), with the interval around it that holds the true one in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trend {
    /// Its lower end.
    pub low: i32,
    /// Most likely.
    pub per_hour: i32,
    /// Its upper end.
    pub high: i32,
}

/// When the memory of a program will be used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// In so many minutes.
    pub minutes: u32,
    /// What ends it.
    pub limit: MemoryLimit,
}

/// What bounds the memory of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryLimit {
    /// The memory that the machine has available.
    Machine,
    /// The limit of its control group.
    Cgroup,
}

/// How goroutines were observed that are stuck or leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Passes over the memory of the program, which all agree; of those that are only stuck 0 when none was possible.
    pub passes: u8,
    /// Seconds from the first look to the last.
    pub seconds: u16,
}

/// How strong a verdict is. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grade {
    /// Growth or age alone.
    Suspected,
    /// Never ran over several observations.
    Stuck,
    /// Nothing that can still run reaches what it waits for.
    Proven,
}

/// Goroutines with one creation point and one reason to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Function that holds the `go` statement.
    pub function: String<FUNCTION_MAX>,
    /// Its file: the last parts of the path.
    pub file: String<36>,
    /// Line of the `go` statement.
    pub line: u32,
    /// What they wait for.
    pub wait: Wait,
    /// Goroutines there now.
    pub count: u32,
    /// How many more than at the first census; 0 when that is not known.
    pub grew: u32,
    /// What the creation and exit probes counted, if they ran.
    pub attributed: Option<Attributed>,
    /// Seconds for which the oldest of their waits was seen; 0 when that is not known.
    pub oldest_s: u32,
    /// Those whose creator has ended, if that is known (`parentGoid`, Go 1.21 and newer).
    pub orphans: Option<u32>,
    /// Those that the program's own runtime says are leaked (`_Gleaked`, Go 1.26 and newer).
    pub marked: u32,
    /// The call that is likely missing, where it is known whose goroutines these are; else empty.
    pub missing: String<MISSING_MAX>,
}

/// Creations and exits counted in the kernel at one creation site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributed {
    /// Goroutines created.
    pub created: u32,
    /// Goroutines ended.
    pub exited: u32,
    /// For how long it was counted, in milliseconds.
    pub millis: u32,
}
