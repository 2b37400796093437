//! The one scenario of the demo and of the QEMU run, judged by what `glg watch` says: the leaking program is reported
//! in time with the right `go` statement, and proven, the one in a deadlock with the right calls into C, the healthy one is not
//! reported.

mod deadlock;
mod leak;
mod message;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{Event, Events, Source, What};
use deadlock::Locking;
use leak::Leaking;
use message::{Kind, Message};

/// The programs of the scenario.
pub(crate) const PROGRAMS: [&str; 3] = [leak::PROGRAM, "healthy", deadlock::PROGRAM];

/// The programs run for this long before anything goes wrong, so that the agent has seen them well.
const SETTLE: Duration = Duration::from_secs(12);
/// How often a sign of life is printed.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Sees every event before it is judged.
pub(crate) type Shown<'a> = dyn FnMut(&Event) + 'a;

/// What has been seen so far.
pub(crate) struct Scenario {
    device: &'static str,
    leak: Leaking,
    deadlock: Locking,
    subscribed: [bool; 2],
    /// Which of [`PROGRAMS`] are up.
    ready: [bool; PROGRAMS.len()],
    /// Whether the agent has said that it watches them.
    watched: [bool; PROGRAMS.len()],
    online: u32,
    offline: u32,
    may_end: Vec<Source>,
    wrong: Vec<String>,
    /// What the guest said of the agent's memory.
    memory: Vec<String>,
    messages: u32,
    bytes: u64,
}

impl Scenario {
    /// Nothing seen yet. What is to be named stands in the programs' sources. Messages of devices other than `device`
    /// are an error.
    pub(crate) fn new(device: &'static str, go_programs: &Path) -> Result<Self> {
        let leak = leak::Expected::from_source(go_programs)?;
        Ok(Self::of(device, leak, deadlock::Expected::from_source(go_programs)?))
    }

    fn of(device: &'static str, leak: leak::Expected, deadlock: deadlock::Expected) -> Self {
        Self {
            device,
            leak: Leaking::new(leak),
            deadlock: Locking::new(deadlock),
            subscribed: [false; 2],
            ready: [false; PROGRAMS.len()],
            watched: [false; PROGRAMS.len()],
            online: 0,
            offline: 0,
            may_end: Vec::new(),
            wrong: Vec::new(),
            memory: Vec::new(),
            messages: 0,
            bytes: 0,
        }
    }

    /// How many times the agent has announced itself.
    pub(crate) fn online(&self) -> u32 {
        self.online
    }

    /// What the guest said of the agent's memory, a figure an entry.
    pub(crate) fn memory(&self) -> &[String] {
        &self.memory
    }

    /// How many times the agent was said to be gone.
    pub(crate) fn offline(&self) -> u32 {
        self.offline
    }

    /// How many times the deadlock was reported.
    pub(crate) fn deadlocks(&self) -> u32 {
        self.deadlock.reports
    }

    /// From here on this child's end is no failure.
    pub(crate) fn may_end(&mut self, child: Source) {
        self.may_end.push(child);
    }

    /// Waits until all programs are up and the agent has announced itself.
    pub(crate) fn start(&mut self, events: &Events, limit: Duration, shown: &mut Shown<'_>) -> Result<()> {
        println!("==> waiting for the programs and the agent");
        self.until(events, "glg has subscribed", limit, shown, |s| s.subscribed == [true; 2])?;
        self.until(events, "the programs are up", limit, shown, |s| s.ready == [true; PROGRAMS.len()])?;
        self.until(events, "the agent has announced itself", limit, shown, |s| s.online > 0)?;
        self.until(events, "the agent watches them", limit, shown, |s| s.watched == [true; PROGRAMS.len()])
    }

    /// Lets the programs run, makes one leak and one lock itself up, and watches for `time` from then on, or longer,
    /// until both are reported.
    pub(crate) fn misbehave(
        &mut self,
        events: &Events,
        time: Duration,
        shown: &mut Shown<'_>,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        println!("==> all programs run well for {} s", SETTLE.as_secs());
        self.watch_for(events, SETTLE, shown)?;
        begin()?;
        self.until(events, "leak and deadlock begin", Duration::from_secs(60), shown, |s| {
            s.leak.began.is_some() && s.deadlock.began.is_some()
        })?;
        println!("==> {} leaks now; expected: {}", leak::PROGRAM, self.leak.expected);
        println!("==> {} locks itself up now; expected: {}", deadlock::PROGRAM, self.deadlock.expected);
        let began = Instant::now();
        loop {
            let since = began.elapsed();
            let left = self.left(since, time)?;
            let told = self.leak.is_reported() && self.leak.is_proven() && self.deadlock.is_reported();
            if told && left.is_zero() {
                return Ok(());
            }
            self.watch_for(events, HEARTBEAT.min(left), shown)?;
            let state = |reported| if reported { "reported" } else { "not reported yet" };
            println!(
                "    {:.0} s after their begin: leak {}{}, deadlock {}",
                began.elapsed().as_secs_f64(),
                state(self.leak.is_reported()),
                if self.leak.is_proven() { " and proven" } else { "" },
                state(self.deadlock.is_reported())
            );
        }
    }

    /// How long to watch on: for `time` in all, and until nothing is missing. Fails when something is overdue.
    fn left(&self, since: Duration, time: Duration) -> Result<Duration> {
        let mut end = time;
        if !self.leak.is_reported() {
            end = end.max(leak::WITHIN);
            if since > leak::WITHIN {
                self.leak.verdict()?;
            }
        }
        if !self.leak.is_proven() {
            end = end.max(leak::PROVEN_WITHIN);
            if since > leak::PROVEN_WITHIN {
                self.leak.verdict()?;
            }
        }
        if !self.deadlock.is_reported() {
            end = end.max(deadlock::WITHIN);
            if since > deadlock::WITHIN {
                self.deadlock.verdict()?;
            }
        }
        Ok(end.saturating_sub(since))
    }

    /// Takes events until `done`, for at most `limit`. Fails also when a child ends, and on the first report
    /// that is wrong. `shown` sees every event first.
    pub(crate) fn until(
        &mut self,
        events: &Events,
        what: &str,
        limit: Duration,
        shown: &mut Shown<'_>,
        done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !done(self) {
            let Some(event) = events.next(deadline)? else {
                bail!("{what}: not within {} s", limit.as_secs())
            };
            shown(&event);
            self.take(&event).with_context(|| what.to_owned())?;
        }
        Ok(())
    }

    /// Takes events for `time`, failing as [`Scenario::until`] does.
    fn watch_for(&mut self, events: &Events, time: Duration, shown: &mut Shown<'_>) -> Result<()> {
        let deadline = Instant::now() + time;
        while let Some(event) = events.next(deadline)? {
            shown(&event);
            self.take(&event)?;
        }
        Ok(())
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        let What::Line(line) = &event.what else {
            if self.may_end.contains(&event.from) {
                return Ok(());
            }
            bail!("{:?} has ended", event.from)
        };
        if matches!(event.from, Source::Agent | Source::Console) && line.contains(": watching, Go ") {
            for (watched, name) in self.watched.iter_mut().zip(PROGRAMS) {
                *watched |= line.contains(&format!("{name} ("));
            }
        }
        match event.from {
            Source::Json | Source::Text if line == "SUBSCRIBED" => {
                let [text, json] = &mut self.subscribed;
                *if event.from == Source::Json { json } else { text } = true;
            }
            Source::Json => self.message(line, event.at)?,
            Source::Text => self.deadlock.take_text(line),
            Source::Leaky => self.program(0, line, event.at),
            Source::Healthy => self.program(1, line, event.at),
            Source::Stuck => self.program(2, line, event.at),
            // In the machine the programs share the console; their lines carry their names (guest/program).
            Source::Console => {
                if let Some(figure) = line.trim().strip_prefix("agent ") {
                    self.memory.push(figure.to_owned());
                }
                for (index, name) in PROGRAMS.into_iter().enumerate() {
                    if let Some((_, line)) = line.split_once(&format!("{name}: ")) {
                        self.program(index, line, event.at);
                    }
                }
            }
            Source::Agent | Source::Broker => {}
        }
        match self.wrong.first() {
            Some(wrong) => bail!("{wrong}"),
            None => Ok(()),
        }
    }

    fn program(&mut self, index: usize, line: &str, at: Instant) {
        if line.starts_with("READY ")
            && let Some(ready) = self.ready.get_mut(index)
        {
            *ready = true;
        } else if line.starts_with("LEAKING ") {
            self.leak.began.get_or_insert(at);
        } else if line.starts_with("CROSSING ") {
            self.deadlock.began.get_or_insert(at);
        }
    }

    fn message(&mut self, line: &str, at: Instant) -> Result<()> {
        // glg's own log lines come the same way.
        if !line.starts_with('{') {
            if line.contains(": skipped: ") {
                self.wrong.push(line.to_owned());
            }
            return Ok(());
        }
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("`glg watch --json` wrote {line}"))?;
        self.messages += 1;
        self.bytes += message.bytes;
        if message.device != self.device {
            self.wrong.push(format!("a message of device {:?} instead of {:?}", message.device, self.device));
        }
        let incomplete = || format!("`glg watch --json` wrote an alert without its particulars: {line}");
        let bytes = message.bytes;
        let judged = match message.kind {
            Kind::Online => {
                self.online += 1;
                Ok(())
            }
            Kind::Offline => {
                self.offline += 1;
                Ok(())
            }
            Kind::Leak => self.leak.take(message.particulars().with_context(incomplete)?, bytes, at),
            Kind::Deadlock => self.deadlock.take(message.particulars().with_context(incomplete)?, bytes, at),
            Kind::LockWait | Kind::StuckThreads => Err(format!("nothing of the kind is there: {line}")),
            Kind::Other => Ok(()),
        };
        self.wrong.extend(judged.err());
        Ok(())
    }

    /// What was seen, or what is missing from it.
    pub(crate) fn verdict(&self) -> Result<String> {
        if let Some(wrong) = self.wrong.first() {
            bail!("{wrong}");
        }
        Ok(format!(
            "{}\n{}\nhealthy not reported\n{} messages, {} bytes on the wire in all",
            self.leak.verdict()?,
            self.deadlock.verdict()?,
            self.messages,
            self.bytes
        ))
    }
}

/// Fails if that was too late.
fn within(what: &str, after: Duration, limit: Duration) -> Result<()> {
    if after > limit {
        let seconds = after.as_secs_f64();
        bail!("the {what} was reported only after {seconds:.1} s (allowed: {} s)", limit.as_secs());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
