//! Programs that go on while they are looked at. A pass sees no one moment, so what moves in front of it may escape
//! it; what stays where it is must not.

use glg_engine::reach::Subject;
use glg_engine::reach::proof::Proof;
use glg_engine::runtime::Runtime;

use crate::changing::{Living, Pace, step, tidy};
use crate::exact::{LIMITS, number, proven, runtimes};
use crate::made::generate::Made;
use crate::made::world::{Goroutine, Holder, Kind, Slot, State, World};
use crate::oracle;

/// Programs of each release and architecture.
const PROGRAMS: u64 = 100;
/// Steps that are taken at once.
const STEPS: [u64; 4] = [1, 2, 3, 12];
/// Passes that have to agree, as in the product's config.
const PASSES: u32 = 4;

/// Numbers of those that wait and that a pass must not take for stuck, whatever moved: between `(begun, again)`, when
/// it knew who waits and when it began once more, they ran, or what keeps them from being stuck stayed where it is.
fn must_go_on(world: &World, (begun, again): (u64, u64)) -> Vec<u64> {
    let ran = |goroutine: &Goroutine| goroutine.since <= begun && goroutine.ran <= again;
    let runs = |goroutine: &Goroutine| {
        let alive = goroutine.state != State::Dead;
        alive && ran(goroutine) && (goroutine.state == State::Runs || goroutine.blocked > begun)
    };
    let holds = |holder: &Holder, slot: &Slot| match holder.kind {
        Kind::Root => slot.stamp <= again,
        Kind::Goroutine(who) => slot.stamp <= again && ran(&world.goroutines[who]),
        _ => slot.stamp <= begun,
    };
    let answer = oracle::ask(world, &runs, &holds);
    let all = world.goroutines.iter().zip(answer.goes_on);
    all.filter(|(goroutine, goes_on)| *goes_on && ran(goroutine))
        .map(|(goroutine, _)| goroutine.goid)
        .collect()
}

/// One pass over a program that goes on: what is proven, and when it looked; `None` when it abstained.
fn pass(made: &mut Made, proof: &mut Proof, pace: Pace) -> Option<(u64, u64)> {
    let (runtime, places, regions) = (made.runtime.clone(), made.places.clone(), made.regions.clone());
    let mut living = Living::new(made, pace);
    let mut subject = Subject {
        runtime: &runtime,
        memory: &mut living,
        image: &mut &[][..],
        places: &places,
        regions: regions.as_deref(),
        expired: &mut || false,
    };
    proof.pass(&mut subject).unwrap();
    proof.abstained().is_none().then(|| living.window()).flatten()
}

/// A program that will go on, and how fast.
fn made(runtime: &Runtime, seed: u64) -> Option<(Made, Pace)> {
    let mut made = Made::new(runtime, seed);
    // What C holds is not moved here.
    if made.regions.is_some() {
        return None;
    }
    tidy(&mut made.world);
    Some((
        made,
        Pace {
            every: 1 + seed % 7,
            steps: STEPS[usize::try_from(seed / 7).unwrap() % STEPS.len()],
            moves: seed.is_multiple_of(2),
        },
    ))
}

#[test]
fn what_stays_where_it_is_is_judged_exactly() {
    let programs = number("GLG_ORACLE_MOVING", PROGRAMS);
    let (mut passes, mut abstained, mut kept, mut stuck, mut missed) = (0, 0, 0, 0, 0);
    for runtime in runtimes() {
        for seed in 0..programs {
            let Some((mut made, pace)) = made(&runtime, seed) else { continue };
            for nth in 0..4 {
                let before = oracle::stuck(&made.world);
                let mut proof = Proof::new(runtime.layout, LIMITS);
                let window = pass(&mut made, &mut proof, pace);
                passes += 1;
                let Some(window) = window else {
                    abstained += 1;
                    continue;
                };
                let (proven, live) = (proven(&proof, 1), must_go_on(&made.world, window));
                let place =
                    format!("Go {}, {:?}, program {seed}, pass {nth}", runtime.go, runtime.layout.arch);
                let wrong: Vec<&u64> = proven.iter().filter(|goid| live.contains(goid)).collect();
                assert!(wrong.is_empty(), "{place}: {wrong:?} can go on: {live:?}");
                // Whoever was stuck before is so for ever. That a pass misses it is no harm, as long as it is rare: a
                // `g` that it did not know yet may end where an object begins.
                let lost: Vec<&u64> = before.iter().filter(|goid| !proven.contains(goid)).collect();
                missed += lost.len();
                kept += live.len();
                stuck += proven.len();
            }
        }
    }
    println!(
        "{passes} passes, {abstained} without an answer; {stuck} stuck, {missed} missed, {kept} that had to go on"
    );
    assert!(
        abstained * 10 < passes && kept > passes && stuck > passes,
        "{abstained} {kept} {stuck} of {passes}"
    );
    assert!(missed * 200 < stuck, "{missed} missed");
}

#[test]
fn the_products_plan_proves_nobody_who_can_go_on() {
    let programs = number("GLG_ORACLE_MOVING", PROGRAMS);
    // By how many passes agreed.
    let (mut wrong, mut right) = ([0; PASSES as usize], [0; PASSES as usize]);
    for runtime in runtimes() {
        for seed in 10_000..10_000 + programs {
            let Some((mut made, pace)) = made(&runtime, seed) else { continue };
            let mut proof = Proof::new(runtime.layout, LIMITS);
            for nth in 0..PASSES {
                if pass(&mut made, &mut proof, pace).is_none() {
                    break;
                }
                let (proven, stuck) = (proven(&proof, nth + 1), oracle::stuck(&made.world));
                let falsely = proven.iter().filter(|goid| !stuck.contains(goid)).count();
                wrong[nth as usize] += falsely;
                right[nth as usize] += proven.len() - falsely;
                let place = format!("Go {}, {:?}, program {seed}", runtime.go, runtime.layout.arch);
                assert!(nth + 1 < PASSES || falsely == 0, "{place}: {proven:?} are not {stuck:?}");
                for _ in 0..2 {
                    (0..40).for_each(|_| step(&mut made.world, pace.moves));
                    made.world.preempt();
                    proof.glance(&made.runtime, &mut made.world.heap.space).unwrap();
                }
            }
        }
    }
    println!("proven by 1, 2, 3 and 4 passes: {right:?} rightly, {wrong:?} falsely");
    assert!(right[PASSES as usize - 1] > 100);
}
