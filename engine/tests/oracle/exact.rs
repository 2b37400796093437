//! Programs at rest: what is proven is exactly what the oracle says.

use glg_engine::layout::Arch;
use glg_engine::memory::Addr;
use glg_engine::reach::proof::{Grade, Plan, Proof};
use glg_engine::reach::{ReachLimits, Subject};
use glg_engine::runtime::Runtime;

use crate::made::generate::Made;
use crate::made::world::State;
use crate::oracle;
use crate::program::{AMD64, ARM64, ENTRY, Program};

pub(crate) const LIMITS: ReachLimits = ReachLimits { memory_bytes: 16 << 20, goroutines: 1000 };
const RELEASES: [&str; 8] =
    ["go1.19.8", "go1.21.13", "go1.22.10", "go1.23.9", "go1.24.11", "go1.25.5", "go1.26.6", "go1.27.3"];
/// Programs of each release and architecture.
const PROGRAMS: u64 = 500;

/// The number in an environment variable, to run more of them by hand.
pub(crate) fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

pub(crate) fn runtimes() -> Vec<Runtime> {
    let all = RELEASES.into_iter().flat_map(|go| [AMD64, ARM64].map(|machine| (go, machine)));
    let open = |(go, machine)| {
        let file = Program { machine, pie: false, go, sections: true }.build();
        Runtime::open(&mut file.as_slice(), Addr(ENTRY)).unwrap()
    };
    all.map(open).collect()
}

/// Numbers of those that so many passes prove, by their findings.
pub(crate) fn proven(proof: &Proof, passes: u32) -> Vec<u64> {
    let findings = proof.findings(Plan { passes, millis: 0 });
    let mut all: Vec<u64> = findings
        .iter()
        .filter(|finding| finding.grade == Grade::Proven)
        .map(|finding| finding.goid)
        .collect();
    all.sort_unstable();
    all
}

/// What the engine proves of a program that does nothing meanwhile.
fn engine_says(made: &mut Made, passes: u32) -> Vec<u64> {
    let mut proof = Proof::new(made.runtime.layout, LIMITS);
    for _ in 0..passes {
        let mut subject = Subject {
            runtime: &made.runtime,
            memory: &mut made.world.heap.space,
            image: &mut &[][..],
            places: &made.places,
            regions: made.regions.as_deref(),
            expired: &mut || false,
        };
        proof.pass(&mut subject).unwrap();
        made.world.preempt();
        proof.glance(&made.runtime, &mut made.world.heap.space).unwrap();
    }
    assert_eq!(proof.abstained(), None);
    assert!(proof.figures.bytes <= LIMITS.memory_bytes as u64, "{:?}", proof.figures);
    proven(&proof, passes)
}

#[test]
fn what_is_proven_is_exactly_what_nobody_can_end() {
    let (first, programs) = (number("GLG_ORACLE_SEED", 0), number("GLG_ORACLE_PROGRAMS", PROGRAMS));
    let (mut waits, mut stuck) = (0, 0);
    for runtime in runtimes() {
        for seed in first..first + programs {
            let mut made = Made::new(&runtime, seed);
            let expected = oracle::stuck(&made.world);
            let passes = if seed % 4 == 0 { 3 } else { 1 };
            let found = engine_says(&mut made, passes);
            let arch = if runtime.layout.arch == Arch::Amd64 { "amd64" } else { "arm64" };
            assert_eq!(found, expected, "Go {}, {arch}, program {seed}, {passes} passes", runtime.go);
            waits += made.world.goroutines.iter().filter(|g| matches!(g.state, State::Waits(_))).count();
            stuck += found.len();
        }
    }
    println!("{stuck} of {waits} that wait are stuck");
    // An oracle that says the same of all would prove nothing.
    assert!(stuck * 5 > waits && stuck * 5 < waits * 4, "{stuck} of {waits}");
}
