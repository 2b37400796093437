//! A Go program under measurement: started, asked, read from outside and probed.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use glg_engine::census::Census;
use glg_engine::goroutines::{Counter, Walker};
use glg_engine::memory::Va;
use glg_engine::probe_point::{self, CODE_BYTES, HitClass, ProbePoint, Probed};
use glg_engine::runtime::Runtime;
use glg_proto::probe::AttributeTarget;
use goleakguard::probes::{AttachId, AttachPoints, FilePoint, ProbeError, ProbeLimits, Probes};
use goleakguard::remote::Remote;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

/// The Go release all figures are about that do not name another one.
const GO: &str = "1.24.11";
/// As small as the programs under measurement need.
const LIMITS: ProbeLimits = ProbeLimits { sites: 64, targets: 1, event_bytes: 4096 };

#[cfg(target_arch = "x86_64")]
const GOARCH: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const GOARCH: &str = "arm64";

/// Where the probes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Where the agent puts them: an instruction that the kernel emulates.
    Emulated,
    /// At the functions' first instruction, as common tools do.
    Entry,
}

/// A running program that is read from outside. It ends when this is dropped.
pub(crate) struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub(crate) remote: Remote,
    pub(crate) runtime: Runtime,
    counter: Counter,
}

impl Program {
    /// Starts one of the test programs and returns when it is ready.
    pub(crate) fn start(name: &str, args: &[&str]) -> Result<Program> {
        Program::start_of(GO, name, args)
    }

    /// Starts one of the test programs, built with another release.
    pub(crate) fn start_of(release: &str, name: &str, args: &[&str]) -> Result<Program> {
        let path = programs().join(release).join(GOARCH).join(name);
        let mut command = Command::new(&path);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {}", path.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{name} has no pipes")
        };
        let mut stdout = BufReader::new(stdout);
        let ready = line(&mut stdout)?;
        if ready != format!("READY {}", child.id()) {
            bail!("{name} said {ready:?} instead of READY");
        }
        let mut remote = Remote::open(child.id())?.with_context(|| format!("{name} has ended"))?;
        let entry = remote.entry;
        let mut runtime = Runtime::open(remote.process().image, entry)?;
        runtime.confirm(remote.process().memory)?;
        Ok(Program { child, stdin, stdout, remote, runtime, counter: Counter::default() })
    }

    /// Writes a command and returns the JSON it answers.
    pub(crate) fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.stdin, "{command}")?;
        let answer = line(&mut self.stdout)?;
        serde_json::from_str(&answer).with_context(|| format!("{command}: {answer:?}"))
    }

    /// Counts its goroutines as the agent does on every tick.
    pub(crate) fn count(&mut self) -> Result<u32> {
        Ok(self.counter.count(&self.runtime, self.remote.process().memory)?)
    }

    /// Groups its goroutines by site as the agent does when it suspects something.
    pub(crate) fn census(&mut self, census: &mut Census, walker: &mut Walker) -> Result<()> {
        let process = self.remote.process();
        Ok(census.take(walker, &self.runtime, process.memory, process.image, u64::MAX)?)
    }

    /// CPU time it has used so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(clock_gettime(ClockId::pid_cpu_clock_id(pid)?)?.into())
    }

    /// Attaches the creation and the exit probe; also says what class of instruction they are on.
    pub(crate) fn attach(&mut self, probes: &mut Probes, at: At) -> Result<(AttachId, [HitClass; 2])> {
        let lifecycle = self.runtime.lifecycle.context("the program has no newproc1 or goexit0")?;
        let create = self.point(lifecycle.create, Probed::Newproc1, at)?;
        let exit = self.point(lifecycle.exit, Probed::Goexit0, at)?;
        let exe = format!("/proc/{}/exe", self.child.id());
        let target = AttributeTarget { gopc_offset: self.runtime.layout.g.gopc.into(), reserved: 0 };
        let id = probes.attach(self.child.id(), Path::new(&exe), &AttachPoints { create, exit }, target)?;
        Ok((id, [create.class, exit.class]))
    }

    fn point(&mut self, entry: Va, function: Probed, at: At) -> Result<FilePoint> {
        let mut code = [0; CODE_BYTES];
        let start = self.runtime.code(self.remote.process().image, entry, &mut code)?;
        let ProbePoint { offset, class } = match at {
            At::Emulated => probe_point::find(self.runtime.layout.arch, function, &code),
            At::Entry => ProbePoint { offset: 0, class: HitClass::Stepped },
        };
        Ok(FilePoint { offset: start + u64::from(offset), class })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent's probes.
pub(crate) fn load_probes() -> Result<Probes, ProbeError> {
    Probes::load(&LIMITS)
}

fn line(stdout: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    if stdout.read_line(&mut line)? == 0 {
        bail!("the program has ended");
    }
    Ok(line.trim_end().to_owned())
}

fn programs() -> PathBuf {
    env::var_os("GLG_GO_PROGRAMS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/go-programs"), PathBuf::from)
}
