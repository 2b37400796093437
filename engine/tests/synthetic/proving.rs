//! From an alert about growth to proof, and from time to time without any.

use glg_engine::footprint::Room;
use glg_engine::memory::Addr;
use glg_engine::step::{Effect, EngineConfig, Event, Input, ProveConfig, Rung, TargetId};
use glg_proto::proof::Proof;
use glg_proto::wire::{Grade, Left, MemoryLimit, Observed, Site, Wait, head};

use crate::fake::blocked;
use crate::stand::{ID, Stand, concluded, config};

/// One that proves on growth, and each hour.
fn proving() -> EngineConfig {
    EngineConfig { attribute: None, prove: Some(ProveConfig { every_ms: 3_600_000 }), ..config() }
}

fn site(line: u32, count: u32) -> Site {
    Site {
        function: head("main.(*Gateway).forward"),
        file: head("/home/build/gateway/main.go"),
        line,
        wait: Wait::ChanSend,
        count,
        grew: 0,
        attributed: None,
        oldest_s: 3,
        orphans: Some(2),
        marked: 0,
        missing: head(""),
    }
}

fn proof(sites: &[(Grade, Site)]) -> Proof {
    let count = |wanted| sites.iter().filter(|(grade, _)| *grade == wanted).map(|(_, site)| site.count).sum();
    Proof {
        observed: Observed { passes: 4, seconds: 10 },
        goroutines: 700,
        proven: count(Grade::Proven),
        stuck: count(Grade::Stuck),
        abstained: head(""),
        sites: sites.iter().cloned().collect(),
    }
}

impl Stand {
    fn proves(&mut self) -> bool {
        let begun = self.effects.iter().any(|effect| matches!(effect, Effect::Prove { id: ID, .. }));
        self.effects.clear();
        begun
    }

    fn proved(&mut self, proof: Option<&Proof>) {
        self.plain(Input::Proved { id: ID, proof });
    }

    fn rung(&self) -> Rung {
        self.engine.targets().next().unwrap().rung
    }
}

#[test]
fn growth_is_followed_by_proof_and_both_are_told() {
    let mut stand = Stand::watched(proving());
    let count = stand.leak_until(100, concluded);
    let (_, suspected) = stand.alert().unwrap();
    assert_eq!((suspected.grade, suspected.observed), (Grade::Suspected, None));
    assert!(!stand.proves(), "one thing after the other");
    stand.tick(count + 20);
    let [Effect::Prove { growing, .. }] = &stand.effects[..] else { panic!("{:?}", stand.effects) };
    assert_eq!(growing[..], [Addr(blocked(1).gopc)], "those that were told");
    assert!(stand.proves());
    assert_eq!(stand.rung(), Rung::Prove);
    stand.tick(count + 40);
    assert!(!stand.proves(), "one at a time");

    // Growth is no reason to tell what is stuck elsewhere.
    // Neither are a few of the leaked ones that could not be proven.
    let elsewhere = [(Grade::Proven, site(60, 3)), (Grade::Stuck, site(50, 7)), (Grade::Stuck, site(42, 2))];
    let sites = [[(Grade::Proven, site(42, 640))].as_slice(), &elsewhere].concat();
    stand.proved(Some(&proof(&sites)));
    assert_eq!(stand.rung(), Rung::Watch);
    let (_, proven) = stand.alert().unwrap();
    assert_eq!((proven.grade, proven.goroutines), (Grade::Proven, 700));
    assert_eq!(proven.observed, Some(Observed { passes: 4, seconds: 10 }));
    assert_eq!((proven.baseline, proven.window_s), (suspected.baseline, suspected.window_s + 2));
    assert_eq!((proven.trend, proven.left), (suspected.trend, suspected.left));
    let lines: Vec<u32> = proven.sites.iter().map(|site| site.line).collect();
    assert_eq!(lines, [42, 60]);
    let (told, before) = (&proven.sites[0], &suspected.sites[0]);
    assert_eq!((told.count, told.orphans), (640, Some(2)), "what the proof says");
    assert_eq!((told.grew, told.oldest_s), (before.grew, before.oldest_s.max(3)), "and what was known");
    assert!(stand.alert().is_none());
    for second in 3..40 {
        stand.tick(count + 20 * second);
        assert!(!stand.proves(), "it is known");
    }
}

#[test]
fn what_grows_and_stands_is_told_as_stuck() {
    let mut stand = Stand::watched(proving());
    let count = stand.leak_until(100, concluded);
    let (_, suspected) = stand.alert().unwrap();
    stand.tick(count);
    assert!(stand.proves());
    // Fewer than were counted: the oldest of all need not be among them.
    stand.proved(Some(&proof(&[(Grade::Stuck, site(42, 7))])));
    let (_, stuck) = stand.alert().unwrap();
    assert_eq!((stuck.grade, stuck.sites.len(), stuck.sites[0].oldest_s), (Grade::Stuck, 1, 3));
    assert_eq!(stuck.baseline, suspected.baseline);
    assert!(stand.alert().is_none());
}

/// What was told as proven, and has not become more, is no news because something else grows.
#[test]
fn growth_elsewhere_is_not_blamed_on_what_is_known() {
    let mut stand = Stand::watched(proving());
    let mut from = 100;
    for time in 0..2 {
        let count = stand.leak_until(from, concluded);
        from = count * 2;
        assert_eq!(stand.alert().unwrap().1.grade, Grade::Suspected);
        stand.tick(count);
        assert!(stand.proves());
        stand.proved(Some(&proof(&[(Grade::Proven, site(60, 500))])));
        let told = stand.alert().map(|(_, leak)| (leak.grade, leak.window_s, leak.left));
        assert_eq!(told, (time == 0).then_some((Grade::Proven, 0, None)), "without growth of its own");
        stand.events.clear();
    }
}

#[test]
fn growth_comes_before_what_is_only_due() {
    let other = TargetId { pid: 1413, start: 78 };
    let mut stand = Stand::watched(proving());
    stand.found(other);
    while !stand.proves() {
        stand.tick(100);
    }
    // One is observed because it is its turn, leaks meanwhile, and then it is the other one's turn.
    stand.leak_until(100, concluded);
    stand.run(60, |_| 700);
    stand.effects.clear();
    stand.proved(Some(&proof(&[])));
    stand.step(|process| Input::Sample { id: other, process });
    let [Effect::Prove { id: ID, growing }] = &stand.effects[..] else { panic!("{:?}", stand.effects) };
    assert_eq!(growing.len(), 1);
    stand.effects.clear();
    stand.proved(Some(&proof(&[])));
    stand.sample();
    assert!(matches!(&stand.effects[..], [Effect::Prove { id, .. }] if *id == other), "{:?}", stand.effects);
}

#[test]
fn what_was_proven_is_looked_at_again_when_it_has_doubled() {
    let mut stand = Stand::watched(proving());
    let count = stand.leak_until(100, concluded);
    stand.tick(count);
    assert!(stand.proves());
    stand.proved(Some(&proof(&[(Grade::Proven, site(42, 640))])));
    stand.events.clear();
    let count = stand.leak_until(count * 2, concluded);
    stand.tick(count);
    assert!(stand.proves());
}

#[test]
fn without_proof_the_suspicion_stands() {
    let mut stand = Stand::watched(proving());
    let count = stand.leak_until(100, concluded);
    stand.tick(count);
    assert!(stand.alert().is_some() && stand.proves());
    stand.proved(Some(&Proof { abstained: head("the heap is too large"), ..proof(&[]) }));
    assert!(
        matches!(stand.events.last(), Some(Event::Unproven { why, .. }) if why == "the heap is too large")
    );
    assert!(stand.alert().is_none());
    stand.tick(count);
    assert!(!stand.proves());
    // It may be otherwise soon.
    stand.run(5, |_| count);
    assert!(stand.proves());
    stand.proved(Some(&proof(&[])));
    assert!(matches!(stand.events.last(), Some(Event::Unproven { why, .. }) if why.is_empty()));
    stand.run(60, |_| count);
    assert!(!stand.proves(), "that was an answer");
}

#[test]
fn a_child_that_fails_holds_up_nothing() {
    let mut stand = Stand::watched(proving());
    let count = stand.leak_until(100, concluded);
    stand.tick(count);
    assert!(stand.proves());
    // Tried again after 5, 10 and 20 s; then it is given up until there is something new.
    let mut begun = Vec::new();
    stand.proved(None);
    assert_eq!(stand.rung(), Rung::Watch);
    for second in 1..120 {
        stand.tick(count);
        if stand.proves() {
            begun.push(second);
            stand.proved(None);
        }
    }
    assert_eq!(begun, [5, 15, 35]);
    stand.events.clear();
    let count = stand.leak_until(count * 2, concluded);
    stand.tick(count);
    assert!(stand.proves());
    // A target that ends meanwhile takes its proof along.
    stand.plain(Input::Gone(ID));
    assert!(stand.effects.contains(&Effect::EndProof(ID)));
    stand.proved(Some(&proof(&[(Grade::Proven, site(42, 640))])));
    stand.found(ID);
    stand.run(40, |_| 100);
    stand.leak_until(100, concluded);
}

#[test]
fn who_does_not_grow_is_looked_at_now_and_then_and_only_certainty_is_told() {
    let mut stand = Stand::watched(proving());
    let mut begun = Vec::new();
    for second in 0..5 * 3600 {
        stand.tick(100);
        assert!(!matches!(&stand.effects[..], [Effect::Prove { growing, .. }] if !growing.is_empty()));
        if stand.proves() {
            begun.push(second);
            stand.proved(Some(&match begun.len() {
                1 => proof(&[(Grade::Stuck, site(50, 7))]),
                2 | 3 => proof(&[(Grade::Proven, site(42, 5))]),
                _ => proof(&[(Grade::Proven, site(42, 6))]),
            }));
            let told = stand.alert().map(|(_, leak)| (leak.grade, leak.sites[0].count, leak.window_s));
            let expected = match begun.len() {
                2 => Some((Grade::Proven, 5, 0)),
                4 => Some((Grade::Proven, 6, 0)),
                _ => None,
            };
            assert_eq!(told, expected, "{}", begun.len());
        }
    }
    assert!((550..=610).contains(&begun[0]), "{begun:?}");
    assert!(begun.windows(2).all(|pair| (3600..3610).contains(&(pair[1] - pair[0]))), "{begun:?}");
    assert_eq!(begun.len(), 5);
}

#[test]
fn memory_that_runs_out_is_told_with_the_growth() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    stand.footprint.room = Some(Room { kib: 1 << 20, limit: MemoryLimit::Cgroup });
    for second in 1..200 {
        // A megabyte a second.
        stand.footprint.resident_kib = Some(100_000 + 1024 * second);
        stand.tick(100 + 20 * second);
        if stand.events.iter().any(concluded) {
            break;
        }
    }
    let (_, leak) = stand.alert().unwrap();
    let Some(Left { minutes: 16..=18, limit: MemoryLimit::Cgroup }) = leak.left else { panic!("{leak:?}") };
    let trend = leak.trend.unwrap();
    assert!((71_000..=73_000).contains(&trend.per_hour), "20 a second: {trend:?}");
    assert!(trend.low <= trend.per_hour && trend.per_hour <= trend.high);
    assert!(!stand.proves(), "not without a config");
}
