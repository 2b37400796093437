//! What several looks at a program agree on: goroutines that nobody can wake, and goroutines that stand still for a
//! reason that healthy ones do not have.

use alloc::vec::Vec;

use glg_proto::wire::Wait;

use super::crowd::{Role, Seen, lower_half};
use super::pass::{Pass, Subject};
use super::reasons::{Standing, is_stuck};
use super::{Abstained, Figures, ReachLimits, Stop, held};
use crate::layout::{Layout, Status};
use crate::memory::{Addr, Memory};
use crate::runtime::Runtime;

/// `go` statements that are known to grow.
const GROWING_MAX: usize = glg_proto::wire::SITES_MAX;
/// Creation sites whose growth is followed.
const SITES_MAX: usize = 1024;
/// Glances between two passes.
const GLANCES: u32 = 2;
/// Times that a pass is tried again when the runtime's own data did not hold still.
const TRIES: u32 = 3;
/// Seconds from which on a wait for a lock or a receiver is long, unless [`Proof::date`] says otherwise.
const STUCK_S: u32 = 60;

/// How many passes, over how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Passes that have to agree.
    pub passes: u32,
    /// Milliseconds from the first to the last.
    pub millis: u64,
}

/// How sure it is that a goroutine is leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// It never ran while it was observed, and there is a second reason.
    Stuck,
    /// Nothing that can still run reaches what it waits for.
    Proven,
}

impl Grade {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Grade::Stuck => "stuck",
            Grade::Proven => "proven",
        }
    }
}

/// A goroutine that is leaked, or seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its `g`.
    pub g: Addr,
    /// Its number.
    pub goid: u64,
    /// How sure that is.
    pub grade: Grade,
    /// What it waits for.
    pub wait: Wait,
    /// Return address of its `go` statement.
    pub gopc: Addr,
    /// Whether there were more goroutines of that statement at every pass.
    pub grows: bool,
    /// Whether the runtime itself says that it is leaked.
    pub marked: bool,
    /// Seconds that it has waited at least.
    pub waited_s: u32,
}

/// What is done at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A pass.
    Pass,
    /// Only who has run is looked at.
    Glance,
}

/// The moments of all looks, in milliseconds from the first: a glance, by which the first pass knows who stands still,
/// and then, for as long as `plan` says, passes with glances between them. At irregular distances, so that nothing in
/// the program can keep step with them. `seed` is any number.
#[must_use]
pub fn moments(plan: Plan, seed: u64) -> Vec<(u64, Look)> {
    let steps = u64::from(plan.passes.saturating_sub(1)) * u64::from(GLANCES + 1);
    let step = plan.millis / steps.max(1);
    let (mut found, mut state) = (Vec::new(), seed | 1);
    found.push((0, Look::Glance));
    for nth in 0..=steps {
        let look = if nth % u64::from(GLANCES + 1) == 0 { Look::Pass } else { Look::Glance };
        // xorshift64: up to two fifths of a step to either side.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let off = if nth == 0 || nth == steps { 0 } else { state % (step * 4 / 5).max(1) };
        let back = if nth == 0 || nth == steps { 0 } else { step * 2 / 5 };
        let at = plan.millis * nth / steps.max(1) + off;
        found.push((step + at.saturating_sub(back), look));
    }
    found
}

/// What is remembered of a goroutine that waits.
#[derive(Clone, Copy, Debug)]
struct Track {
    seen: Seen,
    unreached: bool,
}

/// A goroutine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Runner {
    g: Addr,
    goid: u64,
    ran: u8,
}

impl Runner {
    fn of(seen: &Seen) -> Option<Runner> {
        let runs = seen.status == Status::Running;
        runs.then_some(Runner { g: seen.g, goid: seen.goid, ran: seen.ran })
    }
}

/// How many goroutines a `go` statement has at each pass.
#[derive(Clone, Copy, Debug)]
struct Site {
    gopc: u64,
    before: u32,
    now: u32,
    grows: bool,
}

/// The observation of one process.
pub struct Proof {
    pass: Pass,
    tracks: Vec<Track>,
    /// Who ran at all looks and was not preempted between them.
    runners: Vec<Runner>,
    sites: Vec<Site>,
    passes: u32,
    glances: u32,
    abstained: Option<Abstained>,
    stuck_s: u32,
    now_ns: u64,
    growing: heapless::Vec<Addr, GROWING_MAX>,
    /// What the most expensive pass took.
    pub figures: Figures,
}

impl Proof {
    /// Of a program of this layout.
    #[must_use]
    pub fn new(layout: &Layout, limits: ReachLimits) -> Proof {
        let (tracks, sites) = (Vec::new(), Vec::new());
        let (pass, figures) = (Pass::new(layout, limits), Figures::default());
        let (passes, glances, abstained, growing) = (0, 0, None, heapless::Vec::new());
        Proof {
            pass,
            tracks,
            runners: Vec::new(),
            sites,
            passes,
            glances,
            abstained,
            stuck_s: STUCK_S,
            now_ns: 0,
            growing,
            figures,
        }
    }

    /// Says from how many seconds on a wait is long, and the time of the system's monotonic clock after the last look:
    /// without it only what was observed counts, and nothing of what the program's runtime knows.
    pub fn date(&mut self, now_ns: u64, stuck_s: u32) {
        (self.now_ns, self.stuck_s) = (now_ns, stuck_s);
    }

    /// Says, before the first look, which `go` statements are known to have ever more goroutines (return addresses, of
    /// which as many are taken as an alert has sites): whoever of them never runs is stuck, whatever it waits for.
    pub fn known_to_grow(&mut self, growing: &[Addr]) {
        self.growing = growing.iter().take(GROWING_MAX).copied().collect();
    }

    /// Nothing will be proven, because something was not found.
    pub fn abstain(&mut self, error: crate::memory::Error) {
        if let Stop::Abstained(why) = Stop::from(error) {
            self.abstained = Some(why);
        }
    }

    /// Nothing will be proven, and nobody is stuck but who the runtime itself says is leaked: the process cannot go on, for
    /// this reason.
    pub fn halt(&mut self, why: &'static str) {
        self.abstained = Some(Abstained::Halted(why));
    }

    /// Passes that agree, and glances.
    #[must_use]
    pub fn looks(&self) -> (u32, u32) {
        (self.passes, self.glances)
    }

    /// Why nothing is proven, if so.
    #[must_use]
    pub fn abstained(&self) -> Option<Abstained> {
        let runner = self.runners.first().filter(|_| self.passes + self.glances > 1);
        self.abstained.or(runner.map(|runner| Abstained::NeverPreempted(runner.goid)))
    }

    /// A pass. What cannot be proven any more is only glanced at.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn pass(&mut self, subject: &mut Subject<'_>) -> Result<(), crate::memory::Error> {
        let mut done = Err(Stop::Abstained(Abstained::Restless));
        for _ in 0..TRIES {
            if self.abstained.is_some() {
                return self.glance(subject.runtime, subject.memory);
            }
            let before = |seen: &Seen| {
                let track = self.tracks.binary_search_by_key(&seen.g, |track| track.seen.g).ok();
                track.and_then(|at| self.tracks.get(at)).is_some_and(|track| seen.is_parked_as(&track.seen))
            };
            done = self.pass.run(subject, &before);
            if !matches!(done, Err(Stop::Abstained(Abstained::Restless))) {
                break;
            }
        }
        match done {
            Ok(figures) => {
                let most = |a: u64, b: u64| a.max(b);
                self.figures = Figures {
                    goroutines: figures.goroutines,
                    waiting: figures.waiting,
                    stacks: figures.stacks,
                    mapped: figures.mapped,
                    scanned: most(figures.scanned, self.figures.scanned),
                    bytes: most(figures.bytes + held(&self.tracks) as u64, self.figures.bytes),
                };
                self.follow(true);
                self.passes += 1;
                Ok(())
            }
            Err(Stop::Gone) => Err(crate::memory::Error::Gone),
            Err(Stop::Abstained(why)) => {
                self.abstained = Some(why);
                self.glance(subject.runtime, subject.memory)
            }
        }
    }

    /// A glance.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn glance(&mut self, runtime: &Runtime, memory: &mut dyn Memory) -> Result<(), crate::memory::Error> {
        match self.pass.glance(runtime, memory) {
            Ok(()) => {
                self.follow(false);
                self.glances += 1;
                Ok(())
            }
            Err(Stop::Gone) => Err(crate::memory::Error::Gone),
            // One that was not seen may have run.
            Err(Stop::Abstained(why)) => {
                self.abstained = self.abstained.or(Some(why));
                self.tracks.clear();
                Ok(())
            }
        }
    }

    /// Drops whoever ran since the last look.
    fn follow(&mut self, proves: bool) {
        let pass = &self.pass;
        let unreached = |who: usize| proves && pass.is_unreached(who);
        if self.passes + self.glances == 0 {
            let all = &pass.crowd.all;
            let mut tracks = Vec::with_capacity(all.iter().filter(|seen| seen.is_parked()).count());
            let waiting = all.iter().enumerate().filter(|(_, seen)| seen.is_parked());
            // Only a pass can say that somebody is reached.
            let track =
                |(who, seen): (usize, &_)| Track { seen: *seen, unreached: !proves || unreached(who) };
            tracks.extend(waiting.map(track));
            self.tracks = tracks;
            self.runners = all.iter().filter_map(Runner::of).collect();
        } else {
            self.runners.retain(|runner| {
                let now = pass.crowd.place(runner.g.0).and_then(|who| pass.crowd.all.get(who));
                now.and_then(Runner::of) == Some(*runner)
            });
            self.tracks.retain_mut(|track| {
                let Some(who) = pass.crowd.place(track.seen.g.0) else { return false };
                track.unreached &= !proves || unreached(who);
                let Some(now) = pass.crowd.all.get(who) else { return false };
                let same = now.is_parked_as(&track.seen);
                track.seen = *now;
                same
            });
        }
        if proves {
            self.count_sites();
        }
    }

    fn count_sites(&mut self) {
        let first = self.passes == 0;
        for site in &mut self.sites {
            (site.before, site.now) = (site.now, 0);
        }
        for seen in self.pass.crowd.all.iter().filter(|seen| seen.role != Role::Dead) {
            match self.sites.binary_search_by_key(&seen.gopc, |site| site.gopc) {
                Ok(place) => self.sites.get_mut(place).into_iter().for_each(|site| site.now += 1),
                Err(place) if self.sites.len() < SITES_MAX => {
                    self.sites.insert(place, Site { gopc: seen.gopc, before: 0, now: 1, grows: first });
                }
                Err(_) => {}
            }
        }
        if !first {
            self.sites.iter_mut().for_each(|site| site.grows &= site.now > site.before);
        }
    }

    /// What all looks agree on, of `plan`'s passes at least: of fewer nothing is proven.
    #[must_use]
    pub fn findings(&self, plan: Plan) -> Vec<Finding> {
        let (alive, observed_s) = (self.alive(), self.observed_s(plan));
        let halted = matches!(self.abstained, Some(Abstained::Halted(_)));
        let all = self.tracks.iter().filter(|track| track.seen.stands()).filter_map(|track| {
            let seen = &track.seen;
            let (grows, waited_s) = (self.grows(seen.gopc), self.waited_s(seen, observed_s));
            let orphan = seen.parent != 0 && alive.binary_search(&seen.parent).is_err();
            let (long, leaks) = (waited_s >= self.stuck_s, self.growing.contains(&Addr(seen.gopc)));
            let standing = Standing { grows, orphan, long, leaks };
            let grade = if self.proves(plan) && track.unreached {
                Grade::Proven
            } else if seen.leaked() || !halted && is_stuck(seen.wait, standing) {
                Grade::Stuck
            } else {
                return None;
            };
            // A program that leaves its work to others parks its main goroutine so.
            let parked = matches!(seen.wait, Wait::SelectNoCases | Wait::ChanReceiveNil | Wait::ChanSendNil);
            if seen.goid == 1 && parked {
                return None;
            }
            let (g, goid, wait, gopc, marked) =
                (seen.g, seen.goid, seen.wait, Addr(seen.gopc), seen.leaked());
            Some(Finding { g, goid, grade, wait, gopc, grows, marked, waited_s })
        });
        all.collect()
    }

    fn proves(&self, plan: Plan) -> bool {
        self.passes >= plan.passes && self.abstained().is_none()
    }

    /// Whether there were more goroutines of a `go` statement at every pass.
    fn grows(&self, gopc: u64) -> bool {
        let site = self.sites.binary_search_by_key(&gopc, |site| site.gopc).ok();
        self.passes > 1 && site.and_then(|place| self.sites.get(place)).is_some_and(|site| site.grows)
    }

    /// Seconds from the first look to the last, once all have been taken.
    fn observed_s(&self, plan: Plan) -> u32 {
        let looks = u64::from(plan.passes.saturating_sub(1)) * u64::from(GLANCES + 1) + 2;
        let whole = u64::from(self.passes) + u64::from(self.glances) >= looks;
        if whole { u32::try_from(plan.millis / 1000).unwrap_or(u32::MAX) } else { 0 }
    }

    /// How long a goroutine has waited at least: since the first look, and since the garbage collection at which the
    /// runtime noted that it waits.
    fn waited_s(&self, seen: &Seen, observed_s: u32) -> u32 {
        let now_s = u32::try_from(self.now_ns / 1_000_000_000).unwrap_or(0);
        let noted_s = if seen.since_s == 0 { 0 } else { now_s.saturating_sub(seen.since_s) };
        noted_s.max(observed_s)
    }

    /// The lower halves of the numbers of all goroutines that there were at the last look, sorted.
    fn alive(&self) -> Vec<u32> {
        let all = self.pass.crowd.all.iter().filter(|seen| seen.role != Role::Dead);
        let mut alive: Vec<u32> = all.map(|seen| lower_half(seen.goid)).collect();
        alive.sort_unstable();
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_at_irregular_distances() {
        let plan = Plan { passes: 4, millis: 10_000 };
        for seed in 0..1000 {
            let all = moments(plan, seed);
            assert_eq!(all.iter().filter(|(_, look)| *look == Look::Pass).count(), 4);
            let (step, last) = (10_000 / 9, 10_000 + 10_000 / 9);
            assert_eq!(all[..2], [(0, Look::Glance), (step, Look::Pass)]);
            assert_eq!(all[all.len() - 1], (last, Look::Pass));
            // More than a fifth of a step apart, and never two steps.
            let apart = |pair: &[(u64, Look)]| (200..2200).contains(&(pair[1].0 - pair[0].0));
            assert!(all.windows(2).all(apart), "{all:?}");
        }
        assert_ne!(moments(plan, 1), moments(plan, 2));
        assert_eq!(moments(Plan { passes: 1, millis: 0 }, 7), [(0, Look::Glance), (0, Look::Pass)]);
    }
}
