//! Runs other programs: quietly, or as a step with a progress line whose output appears only on failure.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a running child is looked at; also the resolution of the seconds shown.
const POLL: Duration = Duration::from_millis(20);
/// A log that cannot redraw its line gets a sign of life this often.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How much of a failed step's output is shown.
const SHOWN_LINES: usize = 120;

/// A progress line, `==> building eBPF programs …  (12 s)`. Dropped without [`Progress::done`] it ends as failed.
pub(crate) struct Progress {
    label: String,
    start: Instant,
    shown: Instant,
    terminal: bool,
    finished: bool,
}

impl Progress {
    /// Opens the line.
    pub(crate) fn start(label: &str) -> Self {
        let now = Instant::now();
        let terminal = std::io::stdout().is_terminal();
        print!("==> {label} …");
        flush();
        Self { label: label.to_owned(), start: now, shown: now, terminal, finished: false }
    }

    /// Shows that the step is still at work; call it as often as you like.
    pub(crate) fn tick(&mut self) {
        let every = if self.terminal { Duration::from_secs(1) } else { HEARTBEAT };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        let seconds = self.start.elapsed().as_secs();
        if self.terminal {
            print!("\r==> {} …  {seconds} s", self.label);
        } else {
            print!(" {seconds} s …");
        }
        flush();
    }

    /// Closes the line with its time.
    pub(crate) fn done(mut self) -> Duration {
        self.close("");
        self.start.elapsed()
    }

    /// Closes the line with its time and a remark.
    pub(crate) fn done_with(mut self, remark: &str) {
        self.close(&format!(" {remark}"));
    }

    fn close(&mut self, remark: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let head = if self.terminal { format!("\r==> {} …", self.label) } else { String::new() };
        println!("{head} {remark} ({seconds:.1} s)");
        self.finished = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.finished {
            self.close("FAILED");
        }
    }
}

fn flush() {
    // A closed standard output must not fail the build that reports on it.
    let _ = std::io::stdout().flush();
}

/// Runs a step: progress line, captured output. On failure shows that output and the command;
/// `advice` says what the reader can do about it.
pub(crate) fn step(label: &str, command: &mut Command, advice: &str) -> Result<()> {
    let progress = Progress::start(label);
    step_in(progress, label, command, advice)
}

fn step_in(mut progress: Progress, label: &str, command: &mut Command, advice: &str) -> Result<()> {
    let (status, output) = captured(command, &mut progress)?;
    if status.success() {
        progress.done();
        return Ok(());
    }
    drop(progress);
    eprintln!("{}", tail(&output));
    bail!("{label}: {status}\n  command: {}\n  what to do: {advice}", shown(command));
}

/// Like [`step`], but hands back whether it worked and its output, for callers with a second way. `sound` looks
/// for failures in the output that the exit code does not tell.
pub(crate) fn try_step(
    label: &str,
    command: &mut Command,
    sound: impl Fn(&str) -> bool,
) -> Result<(bool, String)> {
    let mut progress = Progress::start(label);
    let (status, output) = captured(command, &mut progress)?;
    let ok = status.success() && sound(&output);
    if ok {
        progress.done();
    } else {
        progress.done_with("no");
    }
    Ok((ok, output))
}

/// Runs to the end with standard output and error in one temporary file.
fn captured(command: &mut Command, progress: &mut Progress) -> Result<(ExitStatus, String)> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let log = std::env::temp_dir().join(format!("xtask-{}-{serial}.log", std::process::id()));
    let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
    let status = child
        .with_context(|| format!("starting {}", shown(command)))
        .and_then(|mut child| finish(&mut child, progress));
    let output = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let _ = fs::remove_file(&log);
    Ok((status?, output))
}

fn finish(child: &mut Child, progress: &mut Progress) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        progress.tick();
        std::thread::sleep(POLL);
    }
}

/// Runs quietly and returns standard output; fails with the program's own words.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", shown(command)))?;
    if !out.status.success() {
        bail!("{}: {}\n{}", shown(command), out.status, tail(&String::from_utf8_lossy(&out.stderr)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs quietly for at most `limit`; whether it ended well within it. A program over time is killed.
pub(crate) fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    let start = Instant::now();
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = quiet.spawn() else {
        return false;
    };
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if start.elapsed() < limit => std::thread::sleep(POLL),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

/// Whether the program starts at all: found, loadable, ended by itself. Its exit code is its own affair
/// (`mosquitto -h` ends with 3), except the shell's and loader's 126 and 127.
pub(crate) fn starts(line: &[&str]) -> bool {
    let Some((program, args)) = line.split_first() else {
        return false;
    };
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    out.is_ok_and(|status| !matches!(status.code(), None | Some(126 | 127)))
}

/// Finds a program on `PATH`; system folders are searched too, since root shells often lack them.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process is root: the owner of `/proc/self` is the effective user.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The command as one would type it, its own environment first.
pub(crate) fn shown(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(key, value)| {
            let value = value?.to_string_lossy().replace('\x1f', " ");
            Some(format!("{}={value:?}", key.to_string_lossy()))
        })
        .collect();
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}
