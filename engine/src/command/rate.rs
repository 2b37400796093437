//! How often something may be done that anybody can cause.

/// So many times at once, and once more each time so many milliseconds have passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) every_ms: u64,
}

/// What was done of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    times: u32,
    since_ms: u64,
}

impl Spent {
    /// Whether it may be done once more; that counts as done.
    pub(super) fn may(&mut self, now_ms: u64, rate: Rate) -> bool {
        let since = now_ms.saturating_sub(self.since_ms);
        let regained = u32::try_from(since / rate.every_ms).unwrap_or(u32::MAX);
        if regained > 0 || self.times == 0 {
            self.times = self.times.saturating_sub(regained);
            self.since_ms = now_ms;
        }
        let may = self.times < rate.burst;
        self.times += u32::from(may);
        may
    }
}
