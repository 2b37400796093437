//! GoKer's kernels: built, held alive one by one, observed, and asked what Go's own profile says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::go::{Arch, Go};
use crate::{cmd, paths};

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
	for tries := 0; tries < 150 && busy(); tries++ {
		time.Sleep(200 * time.Millisecond)
	}
	fmt.Println("READY")
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		if profile := pprof.Lookup("goroutineleak"); profile != nil {
			profile.WriteTo(os.Stdout, 2)
		} else {
			fmt.Println("NONE")
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

/// A goroutine that is told of.
#[derive(Clone, Deserialize)]
pub(super) struct Leak {
    pub(super) goid: u64,
    grade: String,
    pub(super) wait: String,
}

impl Leak {
    pub(super) fn is_proven(&self) -> bool {
        self.grade == "proven"
    }
}

/// What is known of one kernel.
pub(super) struct Observed {
    pub(super) name: String,
    pub(super) told: BTreeMap<u64, Leak>,
    pub(super) abstained: Option<String>,
    /// Whom Go's profile names, if it has one.
    pub(super) named: Option<BTreeSet<u64>>,
}

impl Observed {
    /// Those proven whom Go's profile does not name, if there is one, and whether that can be because of a lock. Small
    /// locks share 16 bytes with other objects (runtime/malloc.go, mallocgcTiny), and a pointer to one of these keeps all
    /// of them for Go, with who waits for the lock and whom that one could wake; from outside it is seen that it points
    /// behind the lock.
    pub(super) fn unnamed(&self) -> (usize, bool) {
        let Some(named) = &self.named else { return (0, false) };
        let unnamed = || self.told.values().filter(|leak| leak.is_proven() && !named.contains(&leak.goid));
        let locks = unnamed().any(|leak| leak.wait.starts_with("sync.") || leak.wait == "semacquire");
        (unnamed().count(), locks)
    }
}

/// Copies the kernels, without the calls of the profile, and builds them.
pub(super) fn compile(go: &Go, sources: &Path) -> Result<PathBuf> {
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

/// A program that is held alive.
pub(super) struct Held {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Held {
    /// Starts one, and returns when it says that it is ready.
    pub(super) fn start(program: &Path, args: &[&str]) -> Result<Held> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { bail!("it has no pipes") };
        let mut held = Held { child, input, output: BufReader::new(output) };
        held.lines_until(|line| line.starts_with("READY"))?;
        Ok(held)
    }

    fn lines_until(&mut self, end: fn(&str) -> bool) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "it has ended");
            if end(&line) {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    /// Whom Go's profile names: `goroutine 7 [chan send (leaked)]:`. `None` where there is none.
    fn named(&mut self) -> Result<Option<Vec<u64>>> {
        writeln!(self.input, "leaked")?;
        let lines = self.lines_until(|line| line == "END\n")?;
        if lines.iter().any(|line| line == "NONE\n") {
            return Ok(None);
        }
        let leaked = lines.iter().filter(|line| line.contains("(leaked)"));
        let number = |line: &String| line.strip_prefix("goroutine ")?.split(' ').next()?.parse().ok();
        Ok(Some(leaked.filter_map(number).collect()))
    }

    fn told(&self, agent: &Path) -> Result<Told> {
        let pid = self.child.id().to_string();
        let mut agent = Command::new(agent);
        agent.args(["leaks", "--pid", &pid, "--json", "--observe", OBSERVE]);
        Ok(serde_json::from_str(&cmd::output(&mut agent)?)?)
    }

    /// Goroutines that are told of.
    pub(super) fn reported(&self, agent: &Path) -> Result<usize> {
        let told = self.told(agent)?;
        ensure!(told.abstained.is_none(), "nothing was proven: {:?}", told.abstained);
        Ok(told.leaked.len())
    }

    /// Observes a kernel, and then asks it, again and again: a profile of a running program misses some, and one of
    /// the next names them.
    pub(super) fn observe(mut self, name: &str, agent: &Path) -> Result<Observed> {
        let told = self.told(agent)?;
        let mut named = Some(BTreeSet::new());
        for _ in 0..PROFILES {
            match (self.named()?, &mut named) {
                (Some(more), Some(named)) => named.extend(more),
                _ => named = None,
            }
        }
        let leaked = told.leaked.into_iter().map(|leak| (leak.goid, leak)).collect();
        Ok(Observed { name: name.to_owned(), told: leaked, abstained: told.abstained, named })
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
