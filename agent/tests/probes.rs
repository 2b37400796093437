//! The probes on a real kernel and real Go programs. Needs root, and the programs of `cargo xtask test`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use common::{GO, releases};
use glg_engine::{
    layout::{self, Arch},
    probe_point::{self, CODE_BYTES, HitClass, Probed},
};
use glg_proto::probe::{AttributeTarget, ProcessEvent, SiteCount};
use goleakguard::probes::{AttachPoints, FilePoint, ProbeError, ProbeLimits, Probes, Site};
use object::{Object, ObjectSegment, ObjectSymbol};

const LIMITS: ProbeLimits = ProbeLimits { sites: 256, targets: 2, event_bytes: 64 * 1024 };
const SHORT: u64 = 12_000;
const LONG: u64 = 3_000;

fn load() -> Probes {
    Probes::load(&LIMITS).unwrap_or_else(|error| panic!("these tests load real eBPF programs: {error}"))
}

/// The program `sites`, running.
struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    binary: Binary,
}

impl Program {
    fn start(release: &str) -> Self {
        let path = common::program(release, "sites");
        let mut child = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let binary = Binary::read(&path, release);
        let mut program = Self { child, stdin, stdout, binary };
        assert_eq!(program.answer(), format!("READY {}", program.pid()));
        program
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn exe(&self) -> PathBuf {
        format!("/proc/{}/exe", self.pid()).into()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "the program has ended");
        line.trim_end().to_owned()
    }

    /// Creates goroutines; returns the nanoseconds it took.
    fn go(&mut self, short: u64, long: u64) -> u64 {
        writeln!(self.stdin, "go {short} {long}").unwrap();
        self.answer().strip_prefix("DONE ").expect("DONE").parse().unwrap()
    }

    /// Whether the process's own memory differs from its file where the probes go.
    fn is_probed(&self) -> [bool; 2] {
        let memory = fs::File::open(format!("/proc/{}/mem", self.pid())).unwrap();
        [self.binary.create, self.binary.exit].map(|place| {
            let mut byte = [0; 4];
            memory.read_exact_at(&mut byte, place.va).unwrap();
            byte != place.code
        })
    }

    fn attach(&self, probes: &mut Probes) -> Result<goleakguard::probes::AttachId, ProbeError> {
        let points = AttachPoints { create: self.binary.create.point, exit: self.binary.exit.point };
        probes.attach(self.pid(), &self.exe(), &points, self.binary.target)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(target_arch = "x86_64")]
const GOARCH: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const GOARCH: &str = "arm64";

#[derive(Clone, Copy)]
struct Place {
    va: u64,
    point: FilePoint,
    code: [u8; 4],
}

/// What the tests know of a program from its symbol table.
struct Binary {
    functions: BTreeMap<u64, (u64, String)>,
    create: Place,
    exit: Place,
    target: AttributeTarget,
}

impl Binary {
    fn read(path: &Path, release: &str) -> Self {
        let bytes = fs::read(path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let functions: BTreeMap<u64, (u64, String)> = file
            .symbols()
            .filter(|symbol| symbol.size() > 0)
            .map(|symbol| (symbol.address(), (symbol.size(), symbol.name().unwrap().to_owned())))
            .collect();
        let arch = if GOARCH == "amd64" { Arch::Amd64 } else { Arch::Arm64 };
        let place = |name: &str, probed: Probed| {
            let entry = file.symbols().find(|s| s.name() == Ok(name)).expect(name).address();
            let segment = file.segments().find(|s| (s.address()..s.address() + s.size()).contains(&entry));
            let segment = segment.unwrap();
            let offset = entry - segment.address() + segment.file_range().0;
            let code = &bytes[usize::try_from(offset).unwrap()..];
            let point = probe_point::find(arch, probed, &code[..CODE_BYTES]);
            let into = usize::try_from(point.offset).unwrap();
            Place {
                va: entry + u64::from(point.offset),
                point: FilePoint { offset: offset + u64::from(point.offset), class: point.class },
                code: code[into..into + 4].try_into().unwrap(),
            }
        };
        let create = place("runtime.newproc1", Probed::Newproc1);
        let exit = place("runtime.goexit0", Probed::Goexit0);
        let minor = release.split('.').nth(1).unwrap().parse().unwrap();
        let gopc_offset = layout::layout_for(minor, arch).expect("a layout").g.gopc.into();
        Self { functions, create, exit, target: AttributeTarget { gopc_offset, reserved: 0 } }
    }

    fn function_of(&self, pc: u64) -> &str {
        let (entry, (size, name)) = self.functions.range(..pc).next_back().unwrap();
        assert!(pc < entry + size, "{pc:#x} is in no function");
        name
    }

    /// The counts at the one `go` statement of a function.
    fn count_at(&self, sites: &[Site], function: &str) -> SiteCount {
        let mut at = sites.iter().filter(|site| self.function_of(site.pc) == function);
        let count = at.next().unwrap_or_else(|| panic!("no site in {function}: {sites:?}")).count;
        assert_eq!(at.next(), None, "two sites in {function}");
        count
    }
}

#[test]
fn counts_are_exact_per_creation_site_for_every_go_release() {
    let mut probes = load();
    for release in releases() {
        let mut program = Program::start(&release);
        for point in [program.binary.create.point, program.binary.exit.point] {
            assert_eq!(point.class, HitClass::Emulated, "Go {release}");
        }
        let id = program.attach(&mut probes).unwrap();
        let before = probes.counters().unwrap();
        program.go(SHORT, LONG);
        let after = probes.counters().unwrap();

        let mut sites = Vec::new();
        probes.sites(program.pid(), &mut sites).unwrap();
        let short = program.binary.count_at(&sites, "main.startShort");
        let long = program.binary.count_at(&sites, "main.startLong");
        assert_eq!(short, SiteCount { created: SHORT, exited: SHORT }, "Go {release}");
        assert_eq!(long, SiteCount { created: LONG, exited: 0 }, "Go {release}");
        let sums = sites.iter().fold((0, 0), |sum, s| (sum.0 + s.count.created, sum.1 + s.count.exited));
        let hits = (after.create_hits - before.create_hits, after.exit_hits - before.exit_hits);
        assert_eq!(sums, hits, "Go {release}: every hit is at a site");
        assert_eq!((after.sites_full, after.unreadable), (0, 0), "Go {release}");

        probes.detach(id);
        probes.clear_sites(program.pid()).unwrap();
    }
}

#[test]
fn nothing_is_counted_after_detaching_and_the_code_is_as_before() {
    let mut probes = load();
    let mut program = Program::start(GO);
    assert_eq!(program.is_probed(), [false, false]);
    let id = program.attach(&mut probes).unwrap();
    assert_eq!(program.is_probed(), [true, true]);
    program.go(SHORT, LONG);
    probes.detach(id);
    probes.detach(id); // again: no error
    assert_eq!(program.is_probed(), [false, false]);

    let counters = probes.counters().unwrap();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    probes.sites(program.pid(), &mut before).unwrap();
    program.go(SHORT, LONG);
    probes.sites(program.pid(), &mut after).unwrap();
    assert_eq!(probes.counters().unwrap(), counters);
    assert_eq!(before, after);

    probes.clear_sites(program.pid()).unwrap();
    probes.sites(program.pid(), &mut after).unwrap();
    assert_eq!(after, []);
}

#[test]
fn probes_end_with_the_agent() {
    let mut probes = load();
    let program = Program::start(GO);
    program.attach(&mut probes).unwrap();
    drop(probes);
    assert_eq!(program.is_probed(), [false, false]);
}

#[test]
fn another_process_of_the_same_binary_is_not_touched() {
    let mut probes = load();
    let (mut suspect, mut other) = (Program::start(GO), Program::start(GO));
    suspect.attach(&mut probes).unwrap();
    let mut later = Program::start(GO);
    for bystander in [&mut other, &mut later] {
        assert_eq!(bystander.is_probed(), [false, false]);
        let before = probes.counters().unwrap();
        bystander.go(SHORT, LONG);
        assert_eq!(probes.counters().unwrap().create_hits, before.create_hits);
    }
    suspect.go(1, 0);
    assert_ne!(probes.counters().unwrap().create_hits, 0);
}

#[test]
fn attaching_says_what_is_wrong() {
    let mut probes = load();
    let mut program = Program::start(GO);
    program.attach(&mut probes).unwrap();
    let again = program.attach(&mut probes);
    assert!(matches!(again, Err(ProbeError::AlreadyAttached { pid }) if pid == program.pid()), "{again:?}");
    let second = Program::start(GO);
    second.attach(&mut probes).unwrap();
    let third = Program::start(GO).attach(&mut probes);
    assert!(matches!(third, Err(ProbeError::TargetsFull { limit: 2 })), "{third:?}");

    let mut probes = load();
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    let gone = program.attach(&mut probes);
    assert!(matches!(gone, Err(ProbeError::TargetGone { pid }) if pid == program.pid()), "{gone:?}");
}

#[test]
fn a_full_site_map_is_counted() {
    let limits = ProbeLimits { sites: 1, ..LIMITS };
    let mut probes = Probes::load(&limits).unwrap();
    let mut program = Program::start(GO);
    program.attach(&mut probes).unwrap();
    program.go(100, 100);
    let mut sites = Vec::new();
    probes.sites(program.pid(), &mut sites).unwrap();
    let counted: u64 = sites.iter().map(|site| site.count.created + site.count.exited).sum();
    let counters = probes.counters().unwrap();
    assert_eq!(sites.len(), 1);
    assert_eq!(counted + counters.sites_full, counters.create_hits + counters.exit_hits);
}

#[test]
fn processes_that_begin_and_end_are_told() {
    let mut probes = load();
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    let mut seen = Vec::new();
    // The records were written before the process could be waited for.
    while probes.drain_events(16, |event| seen.extend((event.tgid == child.id()).then_some(event.kind))) {}
    assert_eq!(seen, [ProcessEvent::EXEC, ProcessEvent::EXIT]);
    assert_eq!(probes.counters().unwrap().events_lost, 0);
}

#[test]
fn events_that_find_no_room_are_counted() {
    let probes = Probes::load(&ProbeLimits { event_bytes: 4096, ..LIMITS }).unwrap();
    for _ in 0..4096 / 16 {
        Command::new("/bin/true").status().unwrap();
    }
    assert_ne!(probes.counters().unwrap().events_lost, 0);
}

#[test]
fn a_size_that_the_kernel_does_not_take_is_named() {
    let wrong = Probes::load(&ProbeLimits { event_bytes: 5000, ..LIMITS }).err();
    assert!(matches!(wrong, Some(ProbeError::EventBytes(5000))), "{wrong:?}");
    let huge = Probes::load(&ProbeLimits { sites: u32::MAX, ..LIMITS }).err();
    assert!(matches!(&huge, Some(ProbeError::Map { map, .. }) if map == "SITES"), "{huge:?}");
}

#[test]
fn calibration_tells_cheap_hits_from_dear_ones() {
    let mut probes = load();
    let costs = probes.calibrate().unwrap();
    println!("{costs:?}");
    assert!(costs.emulated_ns > 10.0, "{costs:?}");
    assert!(costs.stepped_ns > costs.emulated_ns, "{costs:?}");
}
