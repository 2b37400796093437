//! `cargo xtask bench`: what watching costs, each claim a ratio measured side by side in one run.
//!
//! The agent's own `benches/cost` measures the watched programs' side; [`agent`] measures the agent itself. A
//! noisy machine changes figures, never the exit code: that says only whether everything could be measured.

pub(crate) mod accuracy;
mod agent;
pub(crate) mod silence;
mod table;

use std::fs;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::go::{self, Arch, Variant};
use crate::setup::{self, Component, rust};
use crate::{build, cmd, paths};

/// The release all figures are about, as in `agent/benches/cost`.
const GO: &str = "1.24.11";
/// The first release with a profile of leaks of its own.
const WITH_PROFILE: &str = "1.27";

/// Sections of `agent/benches/cost`: argument, heading, remark.
const SECTIONS: [(&str, &str, &str); 10] = [
    (
        "spawn",
        "Creating goroutines in a tight loop: goroutines per second",
        "The worst case there is. The governor is left out here: it would take the probes off within a tick.",
    ),
    ("churn", "A healthy program that creates 1,000 goroutines a second: its CPU time", ""),
    ("count", "One count", "Taken from outside, identity check included, without a stop."),
    (
        "crowd",
        "Up to a million goroutines, counted, walked and dumped",
        "A dump is the agent's own command, from its start to its end. The program's own profiles go to nowhere, \
         too.",
    ),
    ("hit", "One probe hit", "The agent's calibration, on two tiny functions of its own."),
    (
        "locks",
        "Locks in C: turns per second of threads that do nothing else",
        "The service runs with its defaults, at one tick a second. Contention is measured without the governor, \
         which would take that off.",
    ),
    ("look", "One look at the threads of a process, all of which wait for a lock", ""),
    (
        PROOF,
        "One pass of a proof of leaks, against the program's own profile of leaks",
        "Go 1.27. A pass in a process of its own, the profile (debug=1) to nowhere. A proof is eight passes.",
    ),
    ("tick", "What a tick takes for threads that wait in C, at one a second", ""),
    (
        UPLINK,
        "The uplink: bytes on the wire and on flash, and a fleet that comes back",
        "Counts, not times. Over TLS 1.3 with both certificates to mosquitto, one connection. Headers are reckoned: 52 \
         bytes a packet.",
    ),
];
/// Sections that can be measured by themselves.
const PROOF: &str = "proof";
const UPLINK: &str = "uplink";
/// The section that is measured by itself only, because it takes long.
const FALSE_PROOFS: (&str, &str, &str) = (
    "false-proofs",
    "How often a proof is false: references that move all the time, and busy servers",
    "A hundred observers at a time, each with eight passes over 10 s; k tells how many of them the first k passes prove.",
);

/// A measured claim.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Row {
    /// What is compared with what.
    name: String,
    /// The median over all rounds.
    ratio: f64,
    /// The least of all rounds.
    low: f64,
    /// The greatest.
    high: f64,
    /// Goal, if it is a lower limit.
    at_least: Option<f64>,
    /// Goal, if it is an upper limit.
    at_most: Option<f64>,
    /// The absolute figures behind the ratio.
    figures: String,
}

/// Rows under one heading.
#[derive(Debug, Serialize)]
struct Section {
    heading: String,
    remark: String,
    rows: Vec<Row>,
    /// What could not be measured on this machine, and why.
    left_out: Vec<String>,
}

/// What `agent/benches/cost` prints.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    LeftOut { left_out: String },
    Row(Row),
}

/// Everything, as it goes to `target/bench.json`.
#[derive(Debug, Serialize)]
struct Report {
    go: &'static str,
    quick: bool,
    sections: Vec<Section>,
}

/// Measures everything and prints the table; `quick` takes half a minute instead of three.
pub(crate) fn run(quick: bool) -> Result<()> {
    if !cmd::is_root() {
        bail!(
            "the bench loads eBPF programs and reads other processes' memory: run it as root \
             (sudo -E env \"PATH=$PATH\" cargo xtask bench)"
        );
    }
    setup::ensure(&[Component::Bpf, Component::Broker])?;
    build::host()?;
    if !build::vehicle_agent().exists() {
        build::vehicle()?;
    }
    let mut programs =
        ["spawn", "healthy", "park", "crowd"].map(program).into_iter().collect::<Result<Vec<_>>>()?;
    programs.push(go::Build { variant: Variant::Cgo, ..program("locking")? });
    programs.push(program_of(WITH_PROFILE, "heaps")?);
    go::build_programs(&programs)?;
    build_bench()?;

    let mut report = Report { go: GO, quick, sections: Vec::new() };
    let mut failed = Vec::new();
    let mut take = |measured: Result<Section>| match measured {
        Ok(section) => report.sections.push(section),
        Err(error) => failed.push(format!("{error:#}")),
    };
    for (argument, heading, remark) in SECTIONS {
        take(measure(argument, heading, remark, quick));
    }
    take(agent::measure(quick));
    let path = paths::target().join("bench.json");
    fs::write(&path, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("writing {}", path.display()))?;
    println!("\n{}rows: {}", table::render(&report.sections), path.display());
    if !failed.is_empty() {
        bail!("not everything could be measured:\n{}", failed.join("\n"));
    }
    Ok(())
}

/// Measures what a pass of a proof takes, alone.
pub(crate) fn proof(quick: bool) -> Result<()> {
    go::build_programs(&[program_of(WITH_PROFILE, "heaps")?])?;
    alone(PROOF, quick)
}

/// Measures how often proofs are false.
pub(crate) fn false_proofs(quick: bool) -> Result<()> {
    let mut programs = vec![program_of(WITH_PROFILE, "leaks")?];
    for release in ["1.22", "1.24", WITH_PROFILE] {
        programs.push(program_of(release, "busy")?);
    }
    go::build_programs(&programs)?;
    alone(FALSE_PROOFS.0, quick)
}

/// Measures the uplink alone, which needs neither root nor Go programs.
pub(crate) fn uplink(quick: bool) -> Result<()> {
    setup::ensure(&[Component::Broker])?;
    alone(UPLINK, quick)
}

fn alone(wanted: &str, quick: bool) -> Result<()> {
    setup::ensure(&[Component::Bpf])?;
    build::bpf()?;
    build_bench()?;
    let all = SECTIONS.iter().chain([&FALSE_PROOFS]).filter(|(argument, ..)| *argument == wanted);
    let measured = all.map(|(argument, heading, remark)| measure(argument, heading, remark, quick));
    println!("\n{}", table::render(&measured.collect::<Result<Vec<_>>>()?));
    Ok(())
}

fn build_bench() -> Result<()> {
    cmd::step("building the bench", bench().arg("--no-run"), "mend what the compiler names")
}

/// A Go test program of this machine.
fn program(name: &str) -> Result<go::Build> {
    program_of(GO, name)
}

fn program_of(release: &str, name: &str) -> Result<go::Build> {
    Ok(go::Build {
        version: go::version(release)?,
        program: name.to_owned(),
        arch: Arch::host(),
        variant: Variant::Plain,
    })
}

/// `cargo bench` of `agent/benches/cost`.
fn bench() -> std::process::Command {
    let mut cargo = rust::host_cargo();
    cargo.args(["bench", "--quiet", "--locked", "--package", "goleakguard", "--bench", "cost"]);
    cargo.env("CARGO_TARGET_DIR", paths::host_target());
    cargo.env("GOLEAKGUARD_BPF_DIR", paths::bpf_objects());
    cargo.env("GLG_GO_PROGRAMS", paths::target().join("go-programs"));
    cargo.env("GLG_AGENT", build::host_agent());
    cargo.current_dir(paths::repo());
    cargo
}

fn measure(argument: &str, heading: &str, remark: &str, quick: bool) -> Result<Section> {
    let mut cargo = bench();
    cargo.args(["--", argument]).args(quick.then_some("--quick"));
    let (ok, output) = cmd::try_step(&format!("measuring: {argument}"), &mut cargo, |_| true)?;
    if !ok {
        bail!("{heading}:\n{output}");
    }
    let (mut rows, mut left_out) = (Vec::new(), Vec::new());
    for line in output.lines().filter(|line| line.starts_with('{')) {
        match serde_json::from_str(line).with_context(|| format!("the bench wrote {line}"))? {
            Line::Row(row) => rows.push(row),
            Line::LeftOut { left_out: what } => left_out.push(what),
        }
    }
    Ok(Section { heading: heading.into(), remark: remark.into(), rows, left_out })
}
