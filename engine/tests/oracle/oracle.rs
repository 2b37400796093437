//! Who can still go on, by the plainest way there is: from what is in use whatever happens, follow every reference;
//! whoever waits for something that is reached goes on, and what that one refers to is reached as well.

use crate::made::world::{Goroutine, Holder, Kind, Slot, State, Target, World};

/// Who can go on, and what can be reached.
pub(crate) struct Answer {
    /// By place among the goroutines.
    pub(crate) goes_on: Vec<bool>,
    /// By place among the holders: the lowest byte that a reference in use is to.
    pub(crate) reached: Vec<Option<u64>>,
}

/// Which goroutines can go on. `runs` says who does so by itself, `holds` which words count.
pub(crate) fn ask(
    world: &World,
    runs: &dyn Fn(&Goroutine) -> bool,
    holds: &dyn Fn(&Holder, &Slot) -> bool,
) -> Answer {
    let mut goes_on: Vec<bool> = world.goroutines.iter().map(runs).collect();
    let mut reached: Vec<Option<u64>> = vec![None; world.holders.len()];
    loop {
        let mut changed = false;
        for (nth, holder) in world.holders.iter().enumerate() {
            let in_use = match holder.kind {
                Kind::Root => true,
                Kind::Goroutine(who) => goes_on[who],
                Kind::Decoy | Kind::Freed => false,
                _ => reached[nth].is_some(),
            };
            for slot in holder.slots.iter().filter(|slot| in_use && holds(holder, slot)) {
                let Some(to) = slot.to else { continue };
                if reached[to.to].is_none_or(|lowest| to.offset < lowest) {
                    reached[to.to] = Some(to.offset);
                    changed = true;
                }
            }
        }
        for (who, goroutine) in world.goroutines.iter().enumerate() {
            let State::Waits(targets) = &goroutine.state else { continue };
            let woken = targets.iter().any(|target| match target {
                Target::Anybody => true,
                Target::Object { to, up_to } => reached[*to].is_some_and(|lowest| lowest <= *up_to),
            });
            changed |= woken && !goes_on[who];
            goes_on[who] |= woken;
        }
        if !changed {
            return Answer { goes_on, reached };
        }
    }
}

/// Numbers of the goroutines that wait and can never go on.
pub(crate) fn stuck(world: &World) -> Vec<u64> {
    let answer = ask(world, &|goroutine| goroutine.state == State::Runs, &|_, _| true);
    let waits = |goroutine: &Goroutine| matches!(goroutine.state, State::Waits(_));
    let all = world.goroutines.iter().zip(answer.goes_on);
    all.filter(|(goroutine, goes_on)| waits(goroutine) && !goes_on)
        .map(|(goroutine, _)| goroutine.goid)
        .collect()
}
