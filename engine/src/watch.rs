//! A watched target: where it stands, and how it is spoken of.

use glg_proto::wire::{Site, Target, head, tail};

use crate::detector::{CONFIRMS_PER_WINDOW, Growth, growth};
use crate::engine::Suspicion;
use crate::goroutines::Counter;
use crate::history::checkpoint::Told;
use crate::history::{Closed, History, Waits};
use crate::investigation::{Investigation, SiteGrowth};
use crate::known::recognise_creator;
use crate::locks::watching::LockWatch;
use crate::memory::{Error, Image};
use crate::runtime::Runtime;
use crate::step::{Effect, Effects, EngineConfig, Event, Name, Note, Rung, TargetId};

/// Seconds that the longest wait must have lasted to be shown: shorter ones come and go with every tick.
const LASTING_S: u32 = 2;
/// Seconds for which what is shown of waits stays the same at least.
const SHOWN_S: u32 = 5;

/// What others may know of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Which.
    pub id: TargetId,
    /// How closely it is looked at.
    pub rung: Rung,
    /// Its threads that wait in C, if one of them has for a while.
    pub waiting: Option<Waiting>,
}

/// Threads that wait in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub threads: u16,
    /// Since when the one does that has waited longest: seconds after boot, the device's sleep included.
    pub since_s: u32,
}

impl Waiting {
    /// What is shown of the waits of a tick, `known` being what was shown before.
    fn of(waits: Waits, now_s: u32, known: Option<Waiting>) -> Option<Waiting> {
        let longest_s = u32::from(waits.longest_s);
        if waits.threads == 0 || longest_s < LASTING_S {
            return None;
        }
        let since_s = now_s.saturating_sub(longest_s);
        // Age and time are whole seconds, so that one wait seems to begin now in this, now in that one; and after
        // eighteen hours an age is as large as it gets.
        let same = |known: &Waiting| {
            known.since_s.abs_diff(since_s) <= 1 || waits.longest_s == u16::MAX && known.since_s < since_s
        };
        let since_s = known.filter(same).map_or(since_s, |known| known.since_s);
        Some(Waiting { threads: waits.threads, since_s })
    }
}

/// Where a target stands.
pub(crate) enum Phase {
    /// Not initialised yet; since when, and what an earlier agent has said of it.
    Starting { since_ms: u64, told: Option<Told> },
    /// Nothing suspicious. After a suspicion that came to nothing, windows as long as its own and longer are
    /// left alone until some time; shorter ones still count.
    Calm { not_before_ms: u64, window_s: u32 },
    /// Under observation.
    Observing(Investigation),
    /// An alert was raised.
    Alerted { at_ms: u64, level: u32 },
}

pub(crate) struct Watch {
    pub(crate) id: TargetId,
    pub(crate) name: Name,
    pub(crate) runtime: Runtime,
    pub(crate) counter: Counter,
    pub(crate) history: History,
    pub(crate) phase: Phase,
    pub(crate) failures: u32,
    pub(crate) locks: LockWatch,
    /// Before this its locks are not observed again.
    pub(crate) observe_after_ms: u64,
    /// Whether the log has said that its threads cannot be looked at.
    pub(crate) threads_unseen: bool,
    /// What is suspected of it, and what of that is proven.
    pub(crate) suspicion: Suspicion,
    /// Whether the cloud wants it looked at as if it had grown.
    pub(crate) asked: bool,
    /// What is shown of its waits, and the second from which on that may change.
    pub(crate) waiting: (Option<Waiting>, u32),
}

impl Watch {
    /// Bytes a target takes beside its rings, with as many Ps as a program may have.
    pub(crate) const BYTES: usize = size_of::<Watch>() + Counter::BYTES + Investigation::BYTES;

    pub(crate) fn say(&self, effects: &mut Effects, event: Event) {
        act(effects, Effect::Note(Note { id: self.id, name: self.name.clone(), event }));
    }

    /// Growth goes on while nothing can be learnt from it: try again, but not at every tick.
    pub(crate) fn census_failed(&mut self, now_ms: u64, growth: Growth, error: Error, effects: &mut Effects) {
        self.pause(now_ms, growth);
        self.say(effects, Event::CensusFailed(error));
    }

    /// Looks into no growth for the length of the window it was seen in, unless a shorter window shows it.
    pub(crate) fn pause(&mut self, now_ms: u64, growth: Growth) {
        let pause_s = growth.window_s.min(growth.confirm_s.saturating_mul(CONFIRMS_PER_WINDOW));
        let not_before_ms = now_ms.saturating_add(u64::from(pause_s) * 1000);
        self.phase = Phase::Calm { not_before_ms, window_s: growth.window_s };
    }

    /// Takes note of the waits of a tick. What is shown of them is written down by whoever shows it: not at every tick.
    pub(crate) fn waits(&mut self, now_s: u32, waits: Waits) {
        let (shown, until_s) = self.waiting;
        let waiting = Waiting::of(waits, now_s, shown);
        if waiting != shown && now_s >= until_s {
            self.waiting = (waiting, now_s.saturating_add(SHOWN_S));
        }
    }

    /// Takes note of a count: one that has come down to half of what was alerted is another story.
    pub(crate) fn settle(&mut self, count: u32) {
        if let Phase::Alerted { level, .. } = self.phase
            && count < level / 2
        {
            self.phase = Phase::Calm { not_before_ms: 0, window_s: 0 };
        }
    }

    /// What there is to look into now; `closed` is what [`History::add`] has just said. Not soon after the same
    /// was looked into or said, and while something is, only what can be told sooner.
    pub(crate) fn suspicion(
        &self,
        now_ms: u64,
        count: u32,
        closed: Closed,
        config: &EngineConfig,
    ) -> Option<Growth> {
        let confirm_s = config.growth.confirm_s;
        let asked = self.asked.then_some(Growth { baseline: count, level: count, window_s: 0, confirm_s });
        if !matches!(self.phase, Phase::Starting { .. } | Phase::Observing(_)) && asked.is_some() {
            return asked;
        }
        let grows = || growth(&self.history, closed, &config.growth);
        match &self.phase {
            Phase::Calm { not_before_ms, window_s } => {
                grows().filter(|g| now_ms >= *not_before_ms || g.window_s < *window_s)
            }
            Phase::Observing(other) => grows().filter(|g| g.confirm_s < other.growth.confirm_s),
            Phase::Alerted { level, .. } if count >= level.saturating_mul(2) => grows(),
            // A steady leak is ever less growth against what has leaked already: what was said once is looked
            // at again because it was said, and not because a rule sees it.
            Phase::Alerted { at_ms, level } => {
                let (level, age_ms) = (*level, now_ms.saturating_sub(*at_ms));
                let age_s = u32::try_from(age_ms / 1000).unwrap_or(u32::MAX);
                let confirm_s = age_s.min(config.remind_s) / CONFIRMS_PER_WINDOW;
                let confirm_s = config.growth.confirm_s.max(confirm_s);
                (count > level && age_s >= config.remind_s.max(1)).then_some(Growth {
                    baseline: level,
                    level: count,
                    window_s: age_s,
                    confirm_s,
                })
            }
            Phase::Starting { .. } => None,
        }
    }

    pub(crate) fn describe(&self) -> Target {
        let minor = u8::try_from(self.runtime.go.minor).unwrap_or(u8::MAX);
        Target { name: self.name.clone(), pid: self.id.pid, go: (minor, self.runtime.go.patch) }
    }

    /// A site with function, file and line; without them it is still an alert.
    pub(crate) fn name_site(&self, image: &mut dyn Image, site: &SiteGrowth, effects: &mut Effects) -> Site {
        let position = self.runtime.creation(image, site.key.gopc).unwrap_or_else(|error| {
            self.say(effects, Event::Unnamed(error));
            self.runtime.elsewhere(site.key.gopc)
        });
        Site {
            // Both ends with what tells the most.
            function: tail(&position.function),
            file: tail(&position.file),
            line: position.line,
            wait: site.key.wait,
            count: site.count,
            grew: site.grew,
            attributed: site.attributed,
            oldest_s: site.oldest_s,
            orphans: None,
            marked: 0,
            // The stacks are not known here.
            missing: recognise_creator(&position.function).map(|known| head(known.call)).unwrap_or_default(),
        }
    }
}

/// A step makes far fewer effects than there is room for; were there more, the notes at the end would go.
pub(crate) fn act(effects: &mut Effects, effect: Effect) {
    debug_assert!(!effects.is_full(), "more effects than one step can make");
    let _ = effects.push(effect);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wait_begins_once() {
        let waits = |longest_s| Waits { threads: 2, longest_s };
        let shown = |since_s| Some(Waiting { threads: 2, since_s });
        assert_eq!(Waiting::of(waits(1), 100, None), None);
        assert_eq!(Waiting::of(Waits::default(), 100, shown(90)), None);
        assert_eq!(Waiting::of(waits(2), 100, None), shown(98));
        for now_s in 101..70_000 {
            for rounded in [0, 1] {
                let longest_s = u16::try_from(now_s - 98 - rounded).unwrap_or(u16::MAX);
                assert_eq!(Waiting::of(waits(longest_s), now_s, shown(98)), shown(98), "{now_s}");
            }
        }
        assert_eq!(Waiting::of(waits(5), 105, shown(98)), shown(100), "another one");
        assert_eq!(Waiting::of(waits(u16::MAX), 100_000, None), shown(100_000 - 65_535), "at least");
    }
}
