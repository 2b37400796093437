//! The agent's real-process tests on a real arm64 kernel: cross-compiled, with the vehicle's binary and Go programs
//! of every way to be linked in one guest.

use std::fmt::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::errand::{self, Errand};
use crate::go::{self, Arch, Build, Version};
use crate::setup::kernel::{self, Kernel};
use crate::setup::{self, Component};
use crate::test::{Count, remember, result_line};
use crate::{build, cmd};

/// What is not run in the guest.
struct NotThere {
    /// The test program, a file in `agent/tests`.
    program: &'static str,
    /// One test of it, else all.
    test: Option<&'static str>,
    why: &'static str,
}

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let test = self.test.map(|test| format!("::{test}")).unwrap_or_default();
        write!(f, "{}{test}: {}", self.program, self.why)
    }
}

const fn all_of(program: &'static str, why: &'static str) -> NotThere {
    NotThere { program, test: None, why }
}

const fn one_of(program: &'static str, test: &'static str, why: &'static str) -> NotThere {
    NotThere { program, test: Some(test), why }
}

const FILES_ONLY: &str = "it reads files of both architectures and no process: done on this machine";

const TOO_SLOW: &str = "what an emulator runs is still there when it is looked at";
const TOO_DEAR: &str = "what an emulated processor takes for each switch is over every budget";
const BUSYBOX: &str = "busybox's unshare does not end what it has started";

const NO_BROKER: &str =
    "mosquitto is not in the guest: `cargo xtask qemu` has the service and a broker outside";

const NOT_THERE: &[NotThere] = &[
    all_of("service", NO_BROKER),
    all_of("alerts", NO_BROKER),
    all_of("link", NO_BROKER),
    all_of("rounds", NO_BROKER),
    all_of("commands", NO_BROKER),
    all_of("thin", NO_BROKER),
    all_of("verdicts", NO_BROKER),
    all_of("daemons", "Debian's daemons need more memory and time than an emulated machine has"),
    all_of("native", "it compiles programs: there is no C compiler in the guest"),
    one_of("power", "an_alert_outlives_a_killed_agent", NO_BROKER),
    one_of(
        "silence",
        "the_service_says_nothing_of_healthy_rhythms_and_tells_the_leak_beside_them",
        NO_BROKER,
    ),
    one_of("contention", "commands::the_service_finds_contention_and_tells_it_once", NO_BROKER),
    one_of("contention", "storm::the_service_stands_a_storm", NO_BROKER),
    one_of("contention", "commands::the_command_keeps_to_its_budget", TOO_DEAR),
    one_of("contention", "commands::the_command_says_who_waited_for_what", TOO_DEAR),
    one_of("hostile", "processes_that_are_gone_before_they_are_looked_at_do_no_harm", TOO_SLOW),
    one_of("places", "a_program_in_a_container", BUSYBOX),
    one_of(
        "places",
        "a_program_in_an_overlay",
        "the cloud kernel's overlay is a module that the guest lacks",
    ),
    one_of("stripped", "instructions_say_the_same_as_symbols", FILES_ONLY),
    one_of("stripped", "words_that_stand_only_in_relocations_are_found", FILES_ONLY),
    one_of("stripped", "stripped_files_of_both_architectures_open", FILES_ONLY),
];

const MINUTES: &str = "it takes an emulator many minutes";

/// What is run only when it is asked for by its name, as in `cargo xtask qemu --tests=locks` or
/// `--tests=locks::a_healthy_program_has_no_deadlock`, and why.
const BY_NAME: &[NotThere] = &[
    all_of("capture", "`cargo xtask capture` runs it when images are taken"),
    all_of("locks", MINUTES),
    one_of("locks", "a_healthy_program_has_no_deadlock", MINUTES),
    one_of("silence", "nothing_is_told_of_healthy_rhythms", MINUTES),
    one_of("silence", "no_release_makes_healthy_rhythms_look_leaked", MINUTES),
];
/// Test programs that run but one of the Go programs.
const RUN_ONE: &[(&str, &str)] = &[("locks", "locks")];
/// `common::GO` of the tests.
const MIDDLE: &str = "1.24";
/// Everything, in an emulator on two cores that others use, too.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Some of the tests, and what they need.
pub(crate) struct Tests<'a> {
    /// Names the folder of this run.
    pub(crate) name: &'a str,
    /// Only this file of `agent/tests`, or `FILE::TEST`.
    pub(crate) only: Option<&'a str>,
    /// Go programs for arm64. The tests run with their releases.
    pub(crate) programs: &'a [Build],
    /// What else the tests find in their environment. What they write below `/out` comes back.
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

/// The tests on the oldest, a middle and the newest Go.
pub(crate) fn run_on_three(kernel: &Kernel, only: Option<&str>) -> Result<Count> {
    for not in NOT_THERE {
        println!("    not in the guest: {not}");
    }
    for not in BY_NAME.iter().filter(|_| only.is_none()) {
        println!("    only when it is named: {not}");
    }
    let mut programs = programs()?;
    let runs = RUN_ONE.iter().find(|(program, _)| only.is_some_and(|only| named(only).0 == *program));
    programs.retain(|build| runs.is_none_or(|(_, run)| build.program == *run));
    let tests = Tests { name: "tests", only, programs: &programs, environment: &[] };
    let (count, _) = run_some(kernel, &tests)?;
    Ok(count)
}

/// Runs tests in a guest and shows what they say. Returns the count, and the folder with what they have left in
/// the guest's `/out`: that is how a test hands files to this machine.
pub(crate) fn run_some(kernel: &Kernel, tests: &Tests<'_>) -> Result<(Count, PathBuf)> {
    setup::ensure(&[Component::Bpf, Component::Vehicle, Component::Qemu, Component::CCrossArm64])?;
    kernel::ensure(kernel)?;
    build::vehicle()?;
    go::build_programs(tests.programs)?;
    let mut binaries = build::vehicle_tests()?;
    binaries.sort();
    binaries.retain(|(name, _)| {
        let there = !NOT_THERE.iter().any(|not| not.program == name && not.test.is_none());
        let by_name = BY_NAME.iter().any(|not| not.program == name && not.test.is_none());
        there && tests.only.map_or(!by_name, |only| named(only).0 == name)
    });
    if binaries.is_empty() {
        bail!("no such tests are run in the guest");
    }
    let names: Vec<&str> = binaries.iter().map(|(name, _)| name.as_str()).collect();
    let script = script(&names, tests)?;
    let errand = Errand { name: tests.name, files: &files(&binaries, tests)?, script: &script, limit: LIMIT };
    let (mut said, begin) = (Said::default(), Instant::now());
    let out = errand::run(kernel, &errand, &mut |line| {
        println!("{:>7.1} s  {line}", begin.elapsed().as_secs_f64());
        said.line(line);
    })?;
    Ok((said.verdict(&names), out))
}

/// A file of `agent/tests`, and perhaps one test of it: `FILE::TEST`.
pub(crate) fn named(only: &str) -> (&str, Option<&str>) {
    only.split_once("::").map_or((only, None), |(program, test)| (program, Some(test)))
}

/// Of three releases; the middle one is that of the tests for which one is enough.
fn programs() -> Result<Vec<Build>> {
    let versions = go::versions()?;
    let chosen = [versions.first().cloned(), Some(go::version(MIDDLE)?), versions.last().cloned()];
    let mut builds = go::tested(Arch::Arm64)?;
    builds.retain(|build| chosen.contains(&Some(build.version.clone())));
    Ok(builds)
}

fn files(binaries: &[(String, PathBuf)], tests: &Tests<'_>) -> Result<Vec<(String, PathBuf)>> {
    let mut files = vec![("usr/sbin/goleakguard".to_owned(), build::vehicle_agent())];
    files.extend(binaries.iter().map(|(name, path)| (format!("tests/{name}"), path.clone())));
    for build in tests.programs {
        let path = build.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("programs/{}/{}/{name}", build.version, build.arch.as_str());
        if !files.iter().any(|(other, _)| *other == name) {
            files.push((name, path));
        }
    }
    // What programs with C in them are linked with.
    for library in ["ld-linux-aarch64.so.1", "libc.so.6"] {
        let mut cc = Command::new(go::c_compiler(Arch::Arm64));
        let path = PathBuf::from(cmd::output(cc.arg(format!("-print-file-name={library}")))?.trim());
        files.push((format!("lib/{library}"), path));
    }
    Ok(files)
}

/// Runs one test program after the other and says how each ended.
fn script(names: &[&str], tests: &Tests<'_>) -> Result<String> {
    let mut releases: Vec<&Version> = tests.programs.iter().map(|build| &build.version).collect();
    releases.sort();
    releases.dedup();
    let releases: Vec<String> = releases.into_iter().map(Version::to_string).collect();
    let mut script = String::from("export GLG_BIN=/usr/sbin/goleakguard GLG_GO_PROGRAMS=/programs\n");
    writeln!(script, "export GLG_GO_RELEASES='{}'", releases.join(" "))?;
    for (name, value) in tests.environment {
        writeln!(script, "export {name}='{value}'")?;
    }
    for name in names {
        // The kernel's probes are shared: one test at a time.
        write!(script, "echo 'tests: {name}'\n/tests/{name} --test-threads 1 --exact")?;
        match tests.only.and_then(|only| named(only).1) {
            Some(test) => write!(script, " --nocapture {test}")?,
            None => {
                let skipped = NOT_THERE.iter().chain(BY_NAME).filter(|not| not.program == *name);
                for test in skipped.filter_map(|not| not.test) {
                    write!(script, " --skip {test}")?;
                }
            }
        }
        writeln!(script, "\necho \"tests: {name} ended with $?\"")?;
    }
    Ok(script)
}

/// What the guest has said of its tests.
#[derive(Default)]
struct Said {
    count: Count,
    /// Test programs that ended well.
    sound: Vec<String>,
}

impl Said {
    fn line(&mut self, line: &str) {
        remember(line);
        if let Some(count) = result_line(line) {
            self.count.passed += count.passed;
            self.count.failed += count.failed;
        }
        let ended = line.strip_prefix("tests: ").and_then(|rest| rest.strip_suffix(" ended with 0"));
        self.sound.extend(ended.map(str::to_owned));
    }

    /// A test program that ended otherwise without a failed test is a failure, too.
    fn verdict(mut self, names: &[&str]) -> Count {
        let sound = names.iter().all(|name| self.sound.iter().any(|other| other == name));
        if self.count.failed == 0 && (!sound || self.count.passed == 0) {
            self.count.failed = 1;
        }
        self.count
    }
}

/// `cargo xtask qemu --tests`.
pub(crate) fn run_alone(kernel: &str, only: Option<&str>) -> Result<()> {
    let count = run_on_three(Kernel::named(kernel)?, only).context("the agent's tests on arm64")?;
    println!("==> {} passed, {} failed", count.passed, count.failed);
    if count.failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&str]) -> (u64, u64) {
        let mut said = Said::default();
        lines.iter().for_each(|line| said.line(line));
        let count = said.verdict(&["live", "dump"]);
        (count.passed, count.failed)
    }

    #[test]
    fn every_test_program_has_to_end_well() {
        let result =
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        let failed = result.replace("0 failed", "2 failed");
        assert_eq!(judged(&[result, "tests: live ended with 0", result, "tests: dump ended with 0"]), (8, 0));
        assert_eq!(judged(&[result, "tests: live ended with 0", "tests: dump ended with 139"]), (4, 1));
        assert_eq!(judged(&[result, "tests: live ended with 0"]), (4, 1));
        assert_eq!(judged(&[&failed, "tests: live ended with 101", "tests: dump ended with 0"]), (4, 2));
        assert_eq!(judged(&["tests: live ended with 0", "tests: dump ended with 0"]), (0, 1));
    }
}
