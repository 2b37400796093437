//! From growth to a verdict: two censuses some time apart and, where they could be attached, the creation
//! and exit probes between them, say which sites grew.

use alloc::vec::Vec;

use glg_proto::wire::{Attributed, SITES_MAX, Wait};

use crate::census::{Census, SiteCount, SiteKey};
use crate::detector::Growth;
use crate::memory::Addr;

/// Sites of the first census that are remembered; the others were smaller than these.
pub const FIRST_MAX: usize = 64;
/// Creation sites of which the probes' counts are remembered: the ones with the largest surplus.
pub const ATTRIBUTED_MAX: usize = 32;
/// A site has to carry this share of all growth to be named, in per cent.
const MIN_SHARE_PERCENT: u32 = 10;
/// The growth between the censuses has to reach this share of what the trend promised, in per cent.
const MIN_TREND_PERCENT: u64 = 25;

/// What the probes counted at one creation site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreationCount {
    /// Return address of the `go` statement.
    pub gopc: Addr,
    /// Goroutines created.
    pub created: u64,
    /// Goroutines ended.
    pub exited: u64,
}

impl CreationCount {
    fn surplus(&self) -> u64 {
        self.created.saturating_sub(self.exited)
    }
}

/// A site that grew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteGrowth {
    /// Which.
    pub key: SiteKey,
    /// Goroutines there now.
    pub count: u32,
    /// How many more than at the first census (at least, where it was too small to be remembered).
    pub grew: u32,
    /// What the probes counted there.
    pub attributed: Option<Attributed>,
    /// Seconds for which the oldest wait there was seen.
    pub oldest_s: u32,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// These sites leak, the largest growth first.
    Leak(heapless::Vec<SiteGrowth, SITES_MAX>),
    /// It did not go on, or no site grows.
    NotConfirmed,
}

/// A suspect under observation.
#[derive(Clone, Debug)]
pub struct Investigation {
    /// What made it a suspect.
    pub growth: Growth,
    /// When the second census is due, in milliseconds.
    pub due_ms: u64,
    began_ms: u64,
    /// First place of `allgs` that the first census looked at.
    from: u64,
    first: Vec<SiteCount>,
    first_total: u32,
    /// No site beyond `first` had more goroutines than this.
    unseen_below: u32,
    attributed: Vec<CreationCount>,
    attributed_ms: Option<u32>,
}

impl Investigation {
    /// Bytes one takes.
    pub const BYTES: usize = size_of::<Investigation>()
        + FIRST_MAX * size_of::<SiteCount>()
        + ATTRIBUTED_MAX * size_of::<CreationCount>();

    /// Remembers the first census.
    #[must_use]
    pub fn begin(growth: Growth, census: &Census, now_ms: u64) -> Investigation {
        let mut first = Vec::with_capacity(FIRST_MAX);
        first.extend(census.sites().take(FIRST_MAX).copied());
        let unseen_below = if first.len() < FIRST_MAX { 0 } else { first.last().map_or(0, |s| s.count) };
        Investigation {
            growth,
            due_ms: now_ms.saturating_add(u64::from(growth.confirm_s) * 1000),
            began_ms: now_ms,
            from: census.walk.from,
            first,
            first_total: census.total(),
            unseen_below,
            attributed: Vec::with_capacity(ATTRIBUTED_MAX),
            attributed_ms: None,
        }
    }

    /// Remembers what the probes counted in `millis`.
    pub fn attribute(&mut self, counts: &[CreationCount], millis: u32) {
        self.attributed_ms = Some(millis);
        for count in counts {
            if self.attributed.len() < ATTRIBUTED_MAX {
                self.attributed.push(*count);
            } else if let Some(least) = self.attributed.iter_mut().min_by_key(|c| c.surplus())
                && least.surplus() < count.surplus()
            {
                *least = *count;
            }
        }
    }

    /// First place of `allgs` that the first census looked at: the second has to look at the same part.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// Seconds since the first census.
    #[must_use]
    pub fn observed_s(&self, now_ms: u64) -> u32 {
        u32::try_from(now_ms.saturating_sub(self.began_ms) / 1000).unwrap_or(u32::MAX)
    }

    /// Judges by a second census, taken now.
    #[must_use]
    pub fn judge(&self, census: &Census, now_ms: u64) -> Judgement {
        let grew = census.total().saturating_sub(self.first_total);
        let rise = u64::from(self.growth.level.saturating_sub(self.growth.baseline));
        let observed_s = u64::from(self.observed_s(now_ms));
        let promised = rise * observed_s / u64::from(self.growth.window_s.max(1));
        // Of more goroutines than a census looks at, only a part of the growth is seen.
        let least = if self.from > 0 { 1 } else { (promised * MIN_TREND_PERCENT / 100).max(1) };
        if u64::from(grew) < least {
            return Judgement::NotConfirmed;
        }
        // Sites with a share of the growth; where it is spread over many, those that grew most.
        let mut named = self.name(census, grew.saturating_mul(MIN_SHARE_PERCENT) / 100, observed_s);
        if named.is_empty() {
            named = self.name(census, 1, observed_s);
        }
        if named.is_empty() { Judgement::NotConfirmed } else { Judgement::Leak(named) }
    }

    /// The sites that grew most, by at least `least`.
    fn name(&self, census: &Census, least: u32, observed_s: u64) -> heapless::Vec<SiteGrowth, SITES_MAX> {
        let mut named: heapless::Vec<SiteGrowth, SITES_MAX> = heapless::Vec::new();
        for site in census.sites() {
            let growth = self.site_growth(site);
            if growth.grew < least.max(1) || !can_leak(&growth, observed_s) {
                continue;
            }
            let place = named.iter().position(|s| s.grew < growth.grew).unwrap_or(named.len());
            if named.is_full() && place < named.len() {
                named.pop();
            }
            // Full of larger ones: this one is not among the first three.
            let _ = named.insert(place, growth);
        }
        named
    }

    fn site_growth(&self, site: &SiteCount) -> SiteGrowth {
        let before = self.first.iter().find(|s| s.key == site.key).map_or(self.unseen_below, |s| s.count);
        let counted = self.attributed.iter().find(|c| c.gopc == site.key.gopc);
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        SiteGrowth {
            key: site.key,
            count: site.count,
            grew: site.count.saturating_sub(before),
            oldest_s: site.oldest_s(),
            attributed: self.attributed_ms.zip(counted).map(|(millis, c)| Attributed {
                created: narrow(c.created),
                exited: narrow(c.exited),
                millis,
            }),
        }
    }
}

/// Goroutines that run or could run are not stuck, and a site that loses as many as it creates does not grow.
fn can_leak(site: &SiteGrowth, observed_s: u64) -> bool {
    let stuck = !matches!(site.key.wait, Wait::Running | Wait::Runnable | Wait::Preempted);
    stuck && !site.attributed.is_some_and(|counted| contradicts(site, counted, observed_s))
}

/// Whether the probes' counts say that a site does not grow. They saw only a part of the time between the
/// censuses: as long as the growth in that part would drown in the coming and going there (three times the
/// square root of the goroutines at the site), they say nothing.
fn contradicts(site: &SiteGrowth, counted: Attributed, observed_s: u64) -> bool {
    let surplus = u64::from(site.grew) * u64::from(counted.millis) / (observed_s * 1000).max(1);
    let noise = 3 * u64::from(site.count.isqrt());
    counted.exited >= counted.created && surplus >= noise.max(10)
}
