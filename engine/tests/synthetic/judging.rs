//! What two censuses and the probes' counts say about the sites of a suspect.

use glg_engine::census::Census;
use glg_engine::detector::Growth;
use glg_engine::goroutines::Walker;
use glg_engine::investigation::{
    ATTRIBUTED_MAX, CreationCount, FIRST_MAX, Investigation, Judgement, SiteGrowth,
};
use glg_engine::memory::Addr;
use glg_proto::wire::{Attributed, Wait};

use crate::fake::{FakeProcess, G, blocked, go124};

/// 20 goroutines a second for 24 s: 200 more are promised for the 10 s between the censuses.
const GROWTH: Growth = Growth { baseline: 100, level: 580, window_s: 24, confirm_s: 10 };

type Site = (u64, &'static str, usize);

fn census(sites: &[Site]) -> Census {
    let mut process = FakeProcess::new(go124());
    let mut gs = Vec::new();
    for (gopc, wait, n) in sites {
        let (status, wait) = if *wait == "running" { (2, "select") } else { (4, *wait) };
        gs.extend(std::iter::repeat_n(G { gopc: *gopc, status, wait, ..blocked(1) }, *n));
    }
    process.set_gs(&gs);
    let mut census = Census::new(256);
    let mut walker = Walker::new(1 << 16);
    census.take(&mut walker, &process.runtime, &mut process.space, &mut process.file, u64::MAX).unwrap();
    census
}

fn judge(before: &[Site], counts: &[(u64, u64, u64)], after: &[Site]) -> Vec<(u64, u32, u32)> {
    leaking(before, counts, after).iter().map(|site| (site.key.gopc.0, site.count, site.grew)).collect()
}

fn leaking(before: &[Site], counts: &[(u64, u64, u64)], after: &[Site]) -> Vec<SiteGrowth> {
    leaking_in(10_000, before, counts, after)
}

fn leaking_in(
    observed_ms: u64,
    before: &[Site],
    counts: &[(u64, u64, u64)],
    after: &[Site],
) -> Vec<SiteGrowth> {
    let mut investigation = Investigation::begin(GROWTH, &census(before), 5000);
    assert_eq!(investigation.due_ms, 15_000);
    if !counts.is_empty() {
        let count = |(gopc, created, exited): &(u64, u64, u64)| CreationCount {
            gopc: Addr(*gopc),
            created: *created,
            exited: *exited,
        };
        investigation.attribute(&counts.iter().map(count).collect::<Vec<_>>(), 8000);
    }
    match investigation.judge(&census(after), 5000 + observed_ms) {
        Judgement::Leak(sites) => sites.to_vec(),
        Judgement::NotConfirmed => Vec::new(),
    }
}

#[test]
fn the_site_that_grew_is_named_with_what_the_probes_counted() {
    let before = [(0x100, "select", 80), (0x200, "chan send", 500)];
    let after = [(0x100, "select", 80), (0x200, "chan send", 700)];
    assert_eq!(judge(&before, &[], &after), [(0x200, 700, 200)]);
    let counts = [(0x100, 900, 900), (0x200, 170, 2)];
    let [site] = leaking(&before, &counts, &after)[..] else { panic!("one site") };
    assert_eq!(site.key.wait, Wait::ChanSend);
    assert_eq!(site.attributed, Some(Attributed { created: 170, exited: 2, millis: 8000 }));
}

#[test]
fn growth_that_stops_is_not_confirmed() {
    let before = [(0x200, "chan send", 500)];
    for now in [1, 400, 500, 549] {
        assert_eq!(judge(&before, &[], &[(0x200, "chan send", now)]), [], "{now}");
    }
    // A quarter of what the trend promised is enough.
    assert_eq!(judge(&before, &[], &[(0x200, "chan send", 550)]), [(0x200, 550, 50)]);
}

#[test]
fn churn_is_no_leak() {
    let (before, after) = ([(0x200, "select", 500)], [(0x200, "select", 700)]);
    for (created, exited) in [(9000, 9000), (100, 300), (0, 0)] {
        assert_eq!(
            judge(&before, &[(0x200, created, exited)], &after),
            [],
            "{created} created, {exited} ended"
        );
    }
    assert_eq!(judge(&before, &[(0x200, 9001, 9000)], &after).len(), 1);
    // Busy goroutines are not stuck.
    assert_eq!(judge(&[(0x200, "running", 100)], &[], &[(0x200, "running", 400)]), []);
}

/// Two hours lie between the censuses of a slow leak, and the probes saw eight seconds of them.
#[test]
fn churn_at_a_slowly_leaking_site_does_not_hide_it() {
    let (before, after) = ([(0x200, "select", 500)], [(0x200, "select", 1200)]);
    assert_eq!(
        leaking_in(7_200_000, &before, &[(0x200, 800, 803)], &after).len(),
        0,
        "too little for the trend"
    );
    let after = [(0x200, "select", 60_000)];
    assert_eq!(leaking_in(7_200_000, &before, &[(0x200, 800, 803)], &after).len(), 1);
}

#[test]
fn growth_spread_over_many_sites_names_those_that_grew_most() {
    let before: Vec<Site> = (0..20u64).map(|i| (0x1000 + i * 16, "select", 100)).collect();
    let after: Vec<Site> = (0..20u64).map(|i| (0x1000 + i * 16, "select", 110)).collect();
    assert_eq!(leaking(&before, &[], &after).len(), 3);
}

#[test]
fn one_creation_site_with_two_waits_is_two_sites() {
    let before = [(0x200, "chan send", 100), (0x200, "chan receive", 50)];
    let after = [(0x200, "chan send", 300), (0x200, "chan receive", 50)];
    let [site] = leaking(&before, &[], &after)[..] else { panic!("one site") };
    assert_eq!((site.key.wait, site.count, site.grew), (Wait::ChanSend, 300, 200));
}

#[test]
fn a_new_site_counts_from_nothing() {
    assert_eq!(
        judge(&[(0x100, "select", 9)], &[], &[(0x100, "select", 9), (0x300, "select", 90)]),
        [(0x300, 90, 90)]
    );
}

#[test]
fn a_site_too_small_to_be_remembered_counts_from_the_smallest_that_was() {
    let mut before: Vec<Site> = (0..100u64).map(|i| (0x1000 + i * 16, "select", 50)).collect();
    before.push((0x200, "select", 40));
    assert!(before.len() > FIRST_MAX);
    let mut after = before.clone();
    after.last_mut().unwrap().2 = 240;
    assert_eq!(judge(&before, &[], &after), [(0x200, 240, 190)]);
}

#[test]
fn of_many_the_three_that_grew_most_are_named_in_order() {
    let site = |i: u64, n| (0x1000 + i * 16, "select", n);
    let before: Vec<Site> = (0..6).map(|i| site(i, 1000)).collect();
    let after: Vec<Site> =
        [50, 120, 90, 10, 200, 130].iter().zip(0..).map(|(grew, i)| site(i, 1000 + grew)).collect();
    let expected = [(0x1040, 1200, 200), (0x1050, 1130, 130), (0x1010, 1120, 120)];
    assert_eq!(judge(&before, &[], &after), expected);
    // Less than a tenth of all growth is not worth a name.
    let after = [site(0, 1500), site(1, 1050), site(2, 1000), site(3, 1000), site(4, 1000), site(5, 1000)];
    assert_eq!(judge(&before, &[], &after), [(0x1000, 1500, 500)]);
}

#[test]
fn of_many_counts_those_with_the_largest_surplus_are_kept() {
    let (before, after) = ([(0x200, "select", 100)], [(0x200, "select", 400)]);
    let busy = (0..1000u64).map(|i| (0x1_0000 + i * 16, 50 + i % 7, 50));
    let first: Vec<_> = [(0x200, 300, 10)].into_iter().chain(busy.clone()).collect();
    let last: Vec<_> = busy.chain([(0x200, 300, 10)]).collect();
    for counts in [first, last] {
        assert!(counts.len() > ATTRIBUTED_MAX);
        let [site] = leaking(&before, &counts, &after)[..] else { panic!("one site") };
        assert_eq!(site.attributed, Some(Attributed { created: 300, exited: 10, millis: 8000 }));
    }
}
