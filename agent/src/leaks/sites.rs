//! Leaks as the service wants them of its child: by site, the largest first.

use glg_engine::memory::Image;
use glg_engine::reach::proof::Grade;
use glg_engine::reach::report::Report;
use glg_engine::runtime::Runtime;
use glg_proto::proof::Proof;
use glg_proto::wire::{self, Observed, SITES_MAX, Site, head, tail};

use super::Told;

/// What is told of a process, in short.
pub(super) fn proof(told: &Told, runtime: &Runtime, image: &mut dyn Image) -> Proof {
    let count = |grade| narrow(told.report.leaks.iter().filter(|leak| leak.grade == grade).count());
    let seconds = told.observed.as_millis().div_ceil(1000);
    let observed = Observed {
        passes: u8::try_from(told.looks.0).unwrap_or(u8::MAX),
        seconds: u16::try_from(seconds).unwrap_or(u16::MAX),
    };
    let mut sites = heapless::Vec::new();
    for (grade, on_wire) in [(Grade::Proven, wire::Grade::Proven), (Grade::Stuck, wire::Grade::Stuck)] {
        let mut of_grade = by_site(&told.report, grade);
        of_grade.sort_by_key(|site| std::cmp::Reverse(site.count));
        for site in of_grade.iter().take(SITES_MAX) {
            // There is room for as many of each grade.
            let _ = sites.push((on_wire, site.site(&told.report, runtime, image)));
        }
    }
    Proof {
        observed,
        goroutines: told.goroutines,
        proven: count(Grade::Proven),
        stuck: count(Grade::Stuck),
        abstained: told.abstained.map(|why| head(&why.to_string())).unwrap_or_default(),
        sites,
    }
}

/// Goroutines of one `go` statement that wait for the same.
struct Counted {
    /// A group of theirs.
    group: usize,
    count: u32,
    orphans: u32,
    marked: u32,
    oldest_s: u32,
}

fn by_site(report: &Report, grade: Grade) -> Vec<Counted> {
    let mut sites: Vec<Counted> = Vec::new();
    let key = |group: usize| report.groups.get(group).map(|group| (group.gopc, group.waits_for));
    for leak in report.leaks.iter().filter(|leak| leak.grade == grade) {
        let known = sites.iter().position(|site| key(site.group) == key(leak.group)).unwrap_or(sites.len());
        if known == sites.len() {
            sites.push(Counted { group: leak.group, count: 0, orphans: 0, marked: 0, oldest_s: 0 });
        }
        let Some(site) = sites.get_mut(known) else { continue };
        site.count += 1;
        site.orphans += u32::from(leak.orphan);
        site.marked += u32::from(leak.marked);
        site.oldest_s = site.oldest_s.max(leak.waited_s);
    }
    sites
}

impl Counted {
    /// With its place, as the service itself names it.
    fn site(&self, report: &Report, runtime: &Runtime, image: &mut dyn Image) -> Site {
        let group = report.groups.get(self.group);
        let mut named = |gopc| runtime.creation(image, gopc).unwrap_or_else(|_| runtime.elsewhere(gopc));
        let position = group.map(|group| named(group.gopc)).unwrap_or_default();
        let known = group.and_then(|group| group.known);
        let parents_known = runtime.layout.g.parent_goid.is_some();
        Site {
            function: tail(&position.function),
            file: tail(&position.file),
            line: position.line,
            wait: group.map_or(wire::Wait::Other, |group| group.waits_for),
            count: self.count,
            grew: 0,
            attributed: None,
            oldest_s: self.oldest_s,
            orphans: parents_known.then_some(self.orphans),
            marked: self.marked,
            missing: known.map(|known| head(known.call)).unwrap_or_default(),
        }
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
