//! `cargo xtask test`: every check there is, in order, with times. Nothing is skipped: what cannot run fails
//! and says what is missing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::go::Arch;
use crate::setup::kernel::KERNELS;
use crate::setup::rust::host_cargo;
use crate::{bench, build, cmd, go, layouts, paths, qemu, setup};

/// One row of the test table.
struct Step {
    name: &'static str,
    run: fn() -> Result<Count>,
    /// Whether the steps after it make sense without it.
    needed: bool,
}

/// What a step checked: cargo's own count for its tests, one for everything else.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and what kept tests from running.
    pub(crate) failed: u64,
}

/// A check that is one check.
const ONE: Count = Count { passed: 1, failed: 0 };

const STEPS: &[Step] = &[
    needed("this machine", preflight),
    needed("tools", || setup::ensure(setup::ALL).map(|()| ONE)),
    other("formatting", formatting),
    needed("eBPF programs", || build::bpf().map(|()| ONE)),
    other("lints", lints),
    needed("Go test programs", || go_programs().map(|()| ONE)),
    other("runtime layouts", || layouts::check().map(|()| ONE)),
    other("unit tests", unit_tests),
    other("fuzzing, a short run", fuzz),
    other("real-process tests", live_tests),
    needed("vehicle binary", || build::vehicle().map(|()| ONE)),
    needed("host binaries", || build::host().map(|()| ONE)),
    other("leaks of GoKer, a third", bench::accuracy::check_third),
    other("arm64 kernel in QEMU", || qemu::run(KERNELS[0].name).map(|()| ONE)),
    other("agent's tests on arm64", || qemu::agent_tests::run_on_three(&KERNELS[0], None)),
];

const fn needed(name: &'static str, run: fn() -> Result<Count>) -> Step {
    Step { name, run, needed: true }
}

const fn other(name: &'static str, run: fn() -> Result<Count>) -> Step {
    Step { name, run, needed: false }
}

/// `cargo xtask test --live`: the tests on real processes alone, with all that they need.
pub(crate) fn live(only: Option<&str>) -> Result<()> {
    let start = Instant::now();
    preflight()?;
    setup::ensure(setup::ALL)?;
    build::bpf()?;
    go_programs()?;
    let count = on_real_processes(only)?;
    summary(
        &[Outcome { name: "real-process tests", seconds: start.elapsed().as_secs_f64(), count }],
        &[],
        start,
    )
}

/// What became of a step.
struct Outcome {
    name: &'static str,
    seconds: f64,
    count: Count,
}

/// `cargo xtask test`.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (index, step) in STEPS.iter().enumerate() {
        println!("\n### {}/{} {}", index + 1, STEPS.len(), step.name);
        let began = Instant::now();
        let count = (step.run)().unwrap_or_else(|error| {
            eprintln!("error: {}: {error:#}", step.name);
            remember(&format!("{} ... FAILED", step.name));
            Count { passed: 0, failed: 1 }
        });
        outcomes.push(Outcome { name: step.name, seconds: began.elapsed().as_secs_f64(), count });
        if step.needed && count.failed > 0 {
            break;
        }
    }
    summary(&outcomes, STEPS.get(outcomes.len()..).unwrap_or_default(), start)
}

/// The table of steps, and the closing line that cargo test prints.
fn summary(outcomes: &[Outcome], not_reached: &[Step], start: Instant) -> Result<()> {
    println!();
    for outcome in outcomes {
        let Count { passed, failed } = outcome.count;
        let word = if failed == 0 { "ok" } else { "FAILED" };
        println!(
            "{:<24} {:>7.1} s  {passed:>4} passed  {failed:>3} failed  {word}",
            outcome.name, outcome.seconds
        );
    }
    for step in not_reached {
        println!("{:<24} not reached", step.name);
    }
    for line in FAILED.lock().iter().flat_map(|failed| failed.iter()) {
        println!("    {line}");
    }
    let passed: u64 = outcomes.iter().map(|o| o.count.passed).sum();
    let failed: u64 = outcomes.iter().map(|o| o.count.failed).sum();
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; \
         finished in {seconds:.2}s\n"
    );
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

/// Names everything at once that this machine lacks and setup cannot give it. The network is needed only while
/// something has to be fetched, and setup says then what could not be.
fn preflight() -> Result<Count> {
    let mut lacks: Vec<&str> = Vec::new();
    if !cmd::is_root() {
        lacks.push("root: loading eBPF programs and reading other processes needs it; run this as root");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").is_file() {
        lacks.push(
            "kernel type information, /sys/kernel/btf/vmlinux: run a kernel with CONFIG_DEBUG_INFO_BTF=y",
        );
    }
    if !Path::new("/sys/bus/event_source/devices/uprobe/type").is_file() {
        lacks.push("uprobes: run a kernel with CONFIG_UPROBE_EVENTS=y");
    }
    if !lacks.is_empty() {
        bail!("this machine lacks\n  - {}", lacks.join("\n  - "));
    }
    println!("root, BTF and uprobes are there");
    Ok(ONE)
}

fn formatting() -> Result<Count> {
    for dir in [paths::repo(), paths::repo().join("ebpf")] {
        cmd::step(
            &format!("checking the formatting of {}", dir.display()),
            host_cargo().args(["fmt", "--all", "--check"]).current_dir(dir),
            "cargo fmt --all, here and in ebpf/",
        )?;
    }
    Ok(ONE)
}

fn lints() -> Result<Count> {
    let mut clippy = cargo("clippy");
    clippy.args(["--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    cmd::step("checking with clippy", &mut clippy, "mend what clippy names")?;
    Ok(ONE)
}

/// What the tests run here, and what they only read the files of.
fn go_programs() -> Result<()> {
    let mut builds = go::tested(Arch::host())?;
    for arch in Arch::ALL.into_iter().filter(|arch| *arch != Arch::host()) {
        builds.extend(go::variants("kinds", arch)?);
    }
    go::build_programs(&builds)
}

/// Everything that needs neither root nor a running target.
fn unit_tests() -> Result<Count> {
    let mut most = cargo("test");
    most.args([
        "--locked",
        "--workspace",
        "--exclude",
        "goleakguard",
        "--exclude",
        "glg-proto",
        "--no-fail-fast",
    ]);
    // These print what a message takes on the wire.
    let mut wire = cargo("test");
    wire.args(["--locked", "--package", "glg-proto", "--", "--show-output"]);
    let mut agent = cargo("test");
    agent.args(["--locked", "--package", "goleakguard", "--lib", "--bins"]);
    let counts = [cargo_test(&mut wire)?, cargo_test(&mut most)?, cargo_test(&mut agent)?];
    let sum = |of: fn(&Count) -> u64| counts.iter().map(of).sum();
    Ok(Count { passed: sum(|c| c.passed), failed: sum(|c| c.failed) })
}

/// A fixed number of hostile inputs for every parser of foreign bytes. In the dev profile, which checks for
/// overflows and can say which input made it panic.
fn fuzz() -> Result<Count> {
    let mut fuzz = cargo("run");
    fuzz.args(["--locked", "--package", "glg-fuzz"]);
    cmd::step(
        "fuzzing the parsers of foreign bytes",
        &mut fuzz,
        "mend the parser; the input is kept, see above",
    )?;
    Ok(ONE)
}

/// The agent on real Go processes with real eBPF.
fn live_tests() -> Result<Count> {
    on_real_processes(None)
}

/// All of them, one file, or `FILE::TEST`. One at a time: the kernel's probes are shared.
fn on_real_processes(only: Option<&str>) -> Result<Count> {
    let (file, test) = only.map_or(("*", None), qemu::agent_tests::named);
    let mut live = cargo("test");
    live.args(["--locked", "--package", "goleakguard", "--test", file, "--no-fail-fast"]);
    live.args(["--", "--test-threads", "1"]).args(test);
    cargo_test(&mut live)
}

/// This machine's cargo on the workspace, with what the tests need to know in the environment.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut cargo = host_cargo();
    cargo.arg(subcommand).current_dir(paths::repo());
    cargo.env("CARGO_TARGET_DIR", paths::host_target());
    cargo.env("GOLEAKGUARD_BPF_DIR", paths::bpf_objects());
    cargo.env("GLG_GO_PROGRAMS", paths::target().join("go-programs"));
    cargo.env("GLG_DAEMONS", setup::daemons::dir());
    cargo
}

/// Runs a cargo test, shows its output as it comes and adds up its result lines. A cargo that fails without a
/// failed test (it did not compile, a test binary crashed) counts as one failure.
fn cargo_test(command: &mut Command) -> Result<Count> {
    println!("==> {}", cmd::shown(command));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("no output of cargo test")?;
    let mut total = Count { passed: 0, failed: 0 };
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(count) = result_line(&line) {
            total.passed += count.passed;
            total.failed += count.failed;
        }
        remember(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    if total.failed == 0 && (!status.success() || total.passed == 0) {
        total.failed = 1;
    }
    Ok(total)
}

/// What has failed, in the tests' own words: it is said once more at the end, where everybody looks first.
static FAILED: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Lines of that at most.
const FAILED_MAX: usize = 60;

/// Takes note of a line of a test's output that tells of a failure.
pub(crate) fn remember(line: &str) {
    let Ok(mut failed) = FAILED.lock() else { return };
    let behind_panic = failed.last().is_some_and(|last| last.contains("panicked at "));
    let tells = line.ends_with("... FAILED") || line.contains("panicked at ") || behind_panic;
    if tells && failed.len() < FAILED_MAX {
        failed.push(line.to_owned());
    }
}

/// `test result: ok. 12 passed; 0 failed; 0 ignored; …`.
pub(crate) fn result_line(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let before = rest.split(word).next()?;
        before.split_whitespace().next_back()?.parse().ok()
    };
    // A test that is ignored is a test that nobody sees fail.
    Some(Count { passed: number(" passed")?, failed: number(" failed")? + number(" ignored")? })
}

#[cfg(test)]
mod tests {
    use super::result_line;

    #[test]
    fn counts_come_from_cargos_result_line() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        let count = result_line(line).map(|count| (count.passed, count.failed));
        assert_eq!(count, Some((12, 3)));
        assert!(result_line("test a_test ... ok").is_none());
    }
}
