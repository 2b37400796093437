//! `cargo xtask bench accuracy`: what `goleakguard leaks` finds of the leaks in GoKer, real bugs of real programs cut
//! down to kernels, which come with Go's own sources and are the test of Go's own leak profile.
//!
//! Each kernel is held alive in a process of its own, is observed from outside, and then asked what Go's profile says
//! of it, where there is one: since Go 1.27. Nothing of those sources is kept: they are copied from the toolchain, the
//! calls of the profile in them replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::go::{self, Arch, Go};
use crate::{build, cmd, paths};

/// Below the GOROOT of the newest release.
const SOURCES: &str = "src/runtime/testdata/testgoroutineleakprofile/goker";
/// Whose kernels these are.
const NEWEST: &str = "1.27";
/// The releases that they are built with.
const RELEASES: [&str; 4] = ["1.19", "1.22", "1.24", NEWEST];
/// Passes of each observation take so long.
const OBSERVE: &str = "2s";
/// Times that Go's own profile is asked.
const PROFILES: u32 = 4;
/// The program around the kernels: holds one alive, and says what Go's profile says of it.
const HOLD: &str = r#"package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"time"
)

var kernels = map[string]func(){}

func register(name string, f func()) { kernels[name] = f }

func registerInit(name string, f func()) {
	if len(os.Args) == 2 && os.Args[1] == name {
		f()
	}
}

// noProfile stands where the kernels ask for the profile: it would leave its verdict in them.
type noProfile struct{}

func (noProfile) WriteTo(io.Writer, int) {}

const yieldCount = 10

// busy tells whether a goroutine but this one has something to do.
func busy() bool {
	var all bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&all, 2)
	return bytes.Count(all.Bytes(), []byte("[run"))+bytes.Count(all.Bytes(), []byte("[sleep")) > 1
}

func main() {
	if len(os.Args) < 2 {
		for name := range kernels {
			fmt.Println(name)
		}
		return
	}
	go kernels[os.Args[1]]()
	// As long as the rarest of them take to show, and longer where the machine is slow.
	time.Sleep(2 * time.Second)
	for tries := 0; tries < 50 && busy(); tries++ {
		time.Sleep(200 * time.Millisecond)
	}
	fmt.Println("READY")
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		if profile := pprof.Lookup("goroutineleak"); profile != nil {
			profile.WriteTo(os.Stdout, 2)
		}
		fmt.Println("END")
	}
}
"#;

/// What `goleakguard leaks --json` says.
#[derive(Deserialize)]
struct Told {
    leaked: Vec<Leak>,
    abstained: Option<String>,
}

#[derive(Deserialize)]
struct Leak {
    goid: u64,
    grade: String,
}

/// Goroutines, added up over kernels.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    kernels: u32,
    /// Named by Go's profile.
    named: usize,
    proven: usize,
    stuck: usize,
    /// Proven, or either, among those named.
    named_proven: usize,
    named_found: usize,
    /// Proven and not named, however often the profile was asked.
    unnamed: usize,
    /// Kernels that leak, and those of them of which at least one goroutine was proven.
    leaking: u32,
    caught: u32,
    abstained: u32,
}

/// Builds the kernels with each release, observes them, and prints the table.
pub(crate) fn run() -> Result<()> {
    ensure!(cmd::is_root(), "reading other processes' memory takes root");
    let agent = agent()?;
    let newest = go::toolchain(&go::version(NEWEST)?)?;
    let sources = newest.root.join(SOURCES);
    println!(
        "| Go | kernels | named by Go | proven of them | proven or stuck | proven | not named | leaking, caught |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for release in RELEASES {
        let go = go::toolchain(&go::version(release)?)?;
        let program = compile(&go, &sources)?;
        let sums = observe_all(&agent, &program)?;
        println!("{}", row(release, &sums));
        if release == NEWEST {
            check(&sums)?;
        }
    }
    Ok(())
}

/// This machine's agent, or the one that `GLG_BIN` names.
fn agent() -> Result<PathBuf> {
    match env::var_os("GLG_BIN") {
        Some(path) => Ok(path.into()),
        None => build::host().map(|()| build::host_agent()),
    }
}

/// What must hold: Go's own recall, and nobody proven whom Go does not name.
fn check(sums: &Sums) -> Result<()> {
    ensure!(sums.unnamed == 0, "{} goroutines are proven that Go does not name", sums.unnamed);
    let share = |part: usize| part * 10_000 / sums.named.max(1);
    ensure!(share(sums.named_proven) >= 9800, "only {} of {} are proven", sums.named_proven, sums.named);
    ensure!(share(sums.named_found) >= 9903, "only {} of {} are found", sums.named_found, sums.named);
    ensure!(sums.caught == sums.leaking, "{} of {} kernels are caught", sums.caught, sums.leaking);
    Ok(())
}

fn row(release: &str, sums: &Sums) -> String {
    let Sums { kernels, named, proven, stuck, named_proven, named_found, unnamed, .. } = sums;
    let found = proven + stuck;
    let (leaking, caught, abstained) = (sums.leaking, sums.caught, sums.abstained);
    let abstained = if abstained > 0 { format!(" (abstained: {abstained})") } else { String::new() };
    if *named == 0 {
        return format!("| {release} | {kernels} | | | {found} | {proven} | | {caught}{abstained} |");
    }
    format!(
        "| {release} | {kernels} | {named} | {named_proven} | {named_found} | {proven} | {unnamed} | \
         {leaking}, {caught}{abstained} |"
    )
}

/// Copies the kernels, without the calls of the profile, and builds them.
fn compile(go: &Go, sources: &Path) -> Result<PathBuf> {
    let dir = paths::target().join("goker").join(go.version.to_string());
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    for entry in fs::read_dir(sources).with_context(|| format!("read {}", sources.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.path().extension().is_some_and(|end| end == "go") && name != "main.go" {
            let text = fs::read_to_string(entry.path())?;
            fs::write(dir.join(name), without_profile(&text))?;
        }
    }
    fs::write(dir.join("hold.go"), HOLD)?;
    fs::write(dir.join("go.mod"), "module goker\n\ngo 1.19\n")?;
    let program = dir.join("goker");
    let mut command = go.command(Arch::host());
    command.current_dir(&dir).args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(".");
    cmd::output(&mut command).with_context(|| format!("build GoKer with Go {}", go.version))?;
    Ok(program)
}

fn without_profile(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.trim_start_matches("import ").trim().eq("\"runtime/pprof\""));
    let replaced = kept.map(|line| line.replace("pprof.Lookup(\"goroutineleak\")", "noProfile{}"));
    replaced.collect::<Vec<_>>().join("\n") + "\n"
}

fn observe_all(agent: &Path, program: &Path) -> Result<Sums> {
    let names = cmd::output(&mut Command::new(program))?;
    let names: Vec<&str> = names.split_whitespace().collect();
    ensure!(!names.is_empty(), "{} has no kernels", program.display());
    let sums = Mutex::new(Sums::default());
    go::two_at_a_time(&format!("observing {} kernels", names.len()), &names, |name| {
        let one = Kernel::start(program, name)?.observe(agent).with_context(|| (*name).to_owned())?;
        if let Ok(mut sums) = sums.lock() {
            *sums = sums.with(&one);
        }
        Ok(())
    })?;
    sums.into_inner().map_err(|_| anyhow::anyhow!("an observer has failed"))
}

impl Sums {
    fn with(self, other: &Sums) -> Sums {
        Sums {
            kernels: self.kernels + other.kernels,
            named: self.named + other.named,
            proven: self.proven + other.proven,
            stuck: self.stuck + other.stuck,
            named_proven: self.named_proven + other.named_proven,
            named_found: self.named_found + other.named_found,
            unnamed: self.unnamed + other.unnamed,
            leaking: self.leaking + other.leaking,
            caught: self.caught + other.caught,
            abstained: self.abstained + other.abstained,
        }
    }
}

/// A kernel that is held alive.
struct Kernel {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Kernel {
    fn start(program: &Path, name: &str) -> Result<Kernel> {
        let mut command = Command::new(program);
        command.arg(name).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { bail!("{name} has no pipes") };
        let mut kernel = Kernel { child, input, output: BufReader::new(output) };
        kernel.lines_until("READY")?;
        Ok(kernel)
    }

    fn lines_until(&mut self, end: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "the kernel has ended");
            if line.trim_end() == end {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    /// Whom Go's profile names: `goroutine 7 [chan send (leaked)]:`.
    fn named(&mut self) -> Result<Vec<u64>> {
        writeln!(self.input, "leaked")?;
        let lines = self.lines_until("END")?;
        let leaked = lines.iter().filter(|line| line.contains("(leaked)"));
        let number = |line: &String| line.strip_prefix("goroutine ")?.split(' ').next()?.parse().ok();
        Ok(leaked.filter_map(number).collect())
    }

    fn observe(mut self, agent: &Path) -> Result<Sums> {
        let pid = self.child.id().to_string();
        let mut agent = Command::new(agent);
        agent.args(["leaks", "--pid", &pid, "--json", "--observe", OBSERVE]);
        let told: Told = serde_json::from_str(&cmd::output(&mut agent)?)?;
        let grades: BTreeMap<u64, &str> =
            told.leaked.iter().map(|leak| (leak.goid, leak.grade.as_str())).collect();
        // A profile of a running program misses some; one of the next names them.
        let mut named = BTreeSet::new();
        for _ in 0..PROFILES {
            named.extend(self.named()?);
        }
        let is_proven = |goid: &u64| grades.get(goid) == Some(&"proven");
        let proven = grades.keys().filter(|goid| is_proven(goid)).count();
        let leaking = !named.is_empty();
        Ok(Sums {
            kernels: 1,
            named: named.len(),
            proven,
            stuck: grades.len() - proven,
            named_proven: named.iter().filter(|goid| is_proven(goid)).count(),
            named_found: named.iter().filter(|goid| grades.contains_key(goid)).count(),
            unnamed: grades.keys().filter(|goid| is_proven(goid) && leaking && !named.contains(goid)).count(),
            leaking: u32::from(leaking),
            caught: u32::from(proven > 0),
            abstained: u32::from(told.abstained.is_some()),
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kernels_do_not_ask_for_the_profile() {
        let text = "import (\n\t\"os\"\n\t\"runtime/pprof\"\n)\n\tprof := pprof.Lookup(\"goroutineleak\")\n";
        let expected = "import (\n\t\"os\"\n)\n\tprof := noProfile{}\n";
        assert_eq!(super::without_profile(text), expected);
    }
}
