//! Long-running children of the demo and of the QEMU run. Their output goes line by line into a log file and
//! to whoever listens; they are killed when their owner is dropped, and when xtask itself is killed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write, pipe};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How often a wait looks for Ctrl-C and for the end of a child.
const POLL: Duration = Duration::from_millis(50);
/// Lines of a log that are shown when something failed.
const SHOWN_LINES: usize = 25;

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The MQTT broker.
    Broker,
    /// The leaking program.
    Leaky,
    /// The program that does not leak.
    Healthy,
    /// The program that locks itself up.
    Stuck,
    /// The agent.
    Agent,
    /// `glg watch --json`.
    Json,
    /// `glg watch`, for people.
    Text,
    /// The serial console of the emulated machine.
    Console,
}

/// What a child did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It wrote this line.
    Line(String),
    /// It closed its output: it has ended or is about to.
    Ended,
}

/// What a child did, and when it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The child.
    pub(crate) from: Source,
    /// When.
    pub(crate) at: Instant,
    /// What.
    pub(crate) what: What,
}

/// The events of all children, in the order in which they were seen.
pub(crate) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    interrupted: Arc<AtomicBool>,
}

impl Events {
    /// From here on Ctrl-C and SIGTERM no longer end xtask; they make [`Events::next`] fail, so that the
    /// children are cleaned up.
    pub(crate) fn new() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("watching for Ctrl-C")?;
        }
        let (sender, receiver) = channel();
        Ok(Self { sender, receiver, interrupted })
    }

    /// The next event, or `None` at `until`. Fails when the user wants to stop.
    pub(crate) fn next(&self, until: Instant) -> Result<Option<Event>> {
        loop {
            self.check_interrupt()?;
            let left = until.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left.min(POLL)) {
                Ok(event) => return Ok(Some(event)),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    /// Fails when the user wants to stop.
    pub(crate) fn check_interrupt(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; everything that was started is being stopped");
        }
        Ok(())
    }
}

/// A running child.
pub(crate) struct Child {
    name: &'static str,
    process: std::process::Child,
    reader: Option<JoinHandle<()>>,
    log: PathBuf,
}

impl Child {
    /// Starts `command`, whose output goes to `<dir>/<name>.log` and, if wanted, to `events`.
    ///
    /// Call it on the main thread: the kernel kills the child when the thread that started it ends
    /// (`PR_SET_PDEATHSIG` in prctl(2)), which covers an xtask that is itself killed.
    pub(crate) fn start(
        name: &'static str,
        from: Source,
        command: &Command,
        dir: &Path,
        events: Option<&Events>,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let (output, input) = pipe().context("creating a pipe")?;
        let mut bound = die_with_xtask(command);
        bound.stdin(Stdio::piped()).stdout(input.try_clone()?).stderr(input).process_group(0);
        let process =
            bound.spawn().with_context(|| format!("starting {name}: {}", crate::cmd::shown(command)))?;
        // `bound` holds the writing ends; the reader sees the end of the output only without them.
        drop(bound);
        let sender = events.map(|events| events.sender.clone());
        let reader = std::thread::spawn(move || forward(output, file, from, sender.as_ref()));
        Ok(Self { name, process, reader: Some(reader), log })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Writes one line to its standard input.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        let name = self.name;
        let input = self.process.stdin.as_mut().with_context(|| format!("{name} has no standard input"))?;
        writeln!(input, "{line}").and_then(|()| input.flush()).with_context(|| format!("writing to {name}"))
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().with_context(|| format!("waiting for {}", self.name))
    }

    /// Waits at most `limit` for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("{} has not ended after {} s", self.name, limit.as_secs());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends it at once, as a power cut does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        ended.map(|_| ()).with_context(|| format!("killing {}", self.name))
    }

    /// Asks it to end with SIGTERM and waits at most `limit`.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGTERM);
        }
        self.wait(limit)
    }

    /// The end of its output, headed by the file that holds all of it.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut tail = VecDeque::with_capacity(SHOWN_LINES);
        for line in text.lines() {
            if tail.len() == SHOWN_LINES {
                tail.pop_front();
            }
            tail.push_back(format!("    {line}\n"));
        }
        format!("--- {}, the end of {}:\n{}", self.name, self.log.display(), String::from_iter(tail))
    }

    /// To its whole process group. A group that has gone is what was wanted.
    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(Some(_))) {
            self.signal(Signal::SIGKILL);
            let _ = self.process.wait();
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The same command through setpriv(1), which keeps this crate free of unsafe code between fork and exec.
fn die_with_xtask(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(key, value),
            None => bound.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        bound.current_dir(dir);
    }
    bound
}

/// Copies the output line by line until it ends. A listener that has gone does not stop the log.
fn forward(output: PipeReader, mut log: File, from: Source, sender: Option<&Sender<Event>>) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    let tell = |what| {
        if let Some(sender) = sender {
            let _ = sender.send(Event { from, at: Instant::now(), what });
        }
    };
    while output.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
        let _ = log.write_all(&bytes);
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        tell(What::Line(line));
        bytes.clear();
    }
    tell(What::Ended);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Another checkout may be tested at the same time.
    fn own_dir() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("glg-child-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn lines_of_both_outputs_then_the_end() {
        let events = Events::new().unwrap();
        let dir = own_dir();
        let script = "echo one; read line; echo \"$line\" >&2";
        let mut child =
            Child::start("child-lines", Source::Leaky, &shell(script), &dir, Some(&events)).unwrap();
        child.say("two").unwrap();
        let seen: Vec<What> = (0..3).map(|_| events.next(soon()).unwrap().unwrap().what).collect();
        assert_eq!(seen, [What::Line("one".into()), What::Line("two".into()), What::Ended]);
        assert!(child.wait(Duration::from_secs(60)).unwrap().success());
        assert!(child.log_tail().contains("    one\n    two\n"));
    }

    #[test]
    fn dropping_kills_the_child_and_its_children() {
        let events = Events::new().unwrap();
        let dir = own_dir();
        let script = "sleep 1000 & echo $!; wait";
        let child = Child::start("child-drop", Source::Leaky, &shell(script), &dir, Some(&events)).unwrap();
        let What::Line(grandchild) = events.next(soon()).unwrap().unwrap().what else { panic!("no line") };
        drop(child);
        // It stays a zombie until whoever adopted it has reaped it.
        let status = || std::fs::read_to_string(format!("/proc/{grandchild}/status")).unwrap_or_default();
        let deadline = soon();
        while !status().is_empty() && !status().contains("State:\tZ") {
            assert!(Instant::now() < deadline, "{}", status());
            std::thread::yield_now();
        }
    }
}
