//! Go programs that say of themselves what is read from outside, and a folder of a test's own.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod service;
pub(crate) mod sites;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use glg_engine::goroutines::Counter;
use glg_engine::memory::Error;
use glg_engine::runtime::Runtime;
use goleakguard::remote::Remote;
use serde_json::Value;

/// The release used where one is enough.
pub(crate) const GO: &str = "1.24.11";
/// Nothing that a test waits for takes longer, even on a busy machine or an emulated one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The agent: the one built with these tests, or the one that `GLG_BIN` names.
pub(crate) fn agent() -> PathBuf {
    env::var_os("GLG_BIN").map_or_else(|| env!("CARGO_BIN_EXE_goleakguard").into(), PathBuf::from)
}

/// Every release that the project reads, oldest first: `go-programs/go-versions.txt`; or those that
/// `GLG_GO_RELEASES` names.
pub(crate) fn releases() -> Vec<String> {
    if let Ok(some) = env::var("GLG_GO_RELEASES") {
        let releases: Vec<String> = some.split_whitespace().map(String::from).collect();
        assert!(!releases.is_empty(), "GLG_GO_RELEASES names no release");
        return releases;
    }
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "go-programs", "go-versions.txt"].iter().collect();
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let releases: Vec<String> =
        lines.filter_map(|line| line.split_whitespace().next()).map(String::from).collect();
    assert!(!releases.is_empty(), "{} names no release", file.display());
    releases
}

/// Runs `job` for every release, two at a time; a failure names its release.
pub(crate) fn for_every_release(job: impl Fn(&str) + Sync) {
    let (releases, next) = (releases(), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let worker = || {
            while let Some(release) = releases.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(release)));
                assert!(result.is_ok(), "failed with a program of Go {release}, see above");
            }
        };
        scope.spawn(worker);
        scope.spawn(worker);
    });
}

/// A test program, built with a release for this machine.
pub(crate) fn program(release: &str, name: &str) -> PathBuf {
    assert!(nix::unistd::geteuid().is_root(), "reading other processes takes root: run this test as root");
    let programs = env::var_os("GLG_GO_PROGRAMS").map_or_else(
        || [env!("CARGO_MANIFEST_DIR"), "..", "target", "go-programs"].iter().collect(),
        PathBuf::from,
    );
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let path = programs.join(release).join(arch).join(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask test`, which builds it", path.display());
    path
}

/// A running Go program that answers lines; ended with the test.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Returns once it is up.
    pub(crate) fn start(path: &Path, arguments: &[&str]) -> Program {
        let mut program = Program::begin(path, arguments);
        assert_eq!(program.line(), format!("READY {}", program.pid()));
        program
    }

    /// Returns at once.
    pub(crate) fn begin(path: &Path, arguments: &[&str]) -> Program {
        let mut command = Command::new(path);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Program { child, stdin, stdout }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "the program has ended");
        line.trim_end().to_owned()
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn ask(&mut self, question: &str) -> Value {
        self.say(question);
        serde_json::from_str(&self.line()).unwrap()
    }

    /// Returns once the program waits for its next line, so that nothing in it runs because it was asked.
    pub(crate) fn at_rest(&self) {
        let read = if cfg!(target_arch = "x86_64") { "0 0x0 " } else { "63 0x0 " };
        let tasks = format!("/proc/{}/task", self.pid());
        eventually("a thread that reads the standard input", || {
            let mut threads = fs::read_dir(&tasks).unwrap().flatten();
            let reads = |path| fs::read_to_string(path).is_ok_and(|call| call.starts_with(read));
            threads.any(|thread| reads(thread.path().join("syscall"))).then_some(())
        });
    }

    /// What `runtime.NumGoroutine()` says.
    pub(crate) fn goroutines(&mut self) -> u32 {
        self.ask("count")["goroutines"].as_u64().unwrap().try_into().unwrap()
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process as the agent sees it, and its Go runtime.
pub(crate) struct Seen {
    pub(crate) remote: Remote,
    pub(crate) runtime: Runtime,
    counter: Counter,
}

impl Seen {
    /// Once its variables are confirmed.
    pub(crate) fn open(pid: u32) -> Seen {
        let mut seen = Seen::unconfirmed(pid);
        eventually("variables that the process agrees with", || {
            seen.runtime.confirm(seen.remote.process().memory).ok()
        });
        seen
    }

    /// As the file alone says.
    pub(crate) fn unconfirmed(pid: u32) -> Seen {
        let mut remote = Remote::open(pid).unwrap().expect("the process has ended");
        let entry = remote.entry;
        let runtime = Runtime::open(remote.process().image, entry).unwrap();
        Seen { remote, runtime, counter: Counter::default() }
    }

    pub(crate) fn count(&mut self) -> Result<u32, Error> {
        self.counter.count(&self.runtime, self.remote.process().memory)
    }
}

/// A folder of this test's own, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("glg-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// An executable of its own from these bytes.
    pub(crate) fn executable(&self, name: &str, bytes: &[u8]) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A copy of a test program.
    pub(crate) fn copy_of(&self, release: &str, name: &str) -> PathBuf {
        self.executable(name, &fs::read(program(release, name)).unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
