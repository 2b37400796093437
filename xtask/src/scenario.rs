//! The one scenario of the demo and of the QEMU run, judged by what `glg watch --json` says: the leaking
//! program is reported in time with the right `go` statement, the healthy one is not reported.

mod message;

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{Event, Events, Source, What};
use message::{Kind, Leak, Message, Site};

/// The leak has to be reported within this time of its start.
pub(crate) const LEAK_WITHIN: Duration = Duration::from_secs(60);

/// The programs run for this long before the leak, so that the agent has seen them well.
const SETTLE: Duration = Duration::from_secs(12);
/// How often a sign of life is printed.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The comment that marks the `go` statement which leaks.
const MARKER: &str = "// LEAK";
const LEAK_FILE: &str = "gateway.go";
const LEAK_FUNCTION: &str = "main.(*Gateway).forward";

/// The `go` statement that has to be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    function: &'static str,
    file: &'static str,
    line: u32,
}

impl Expected {
    /// Looks the marked `go` statement up in the source of `leaky`.
    pub(crate) fn from_source(go_programs: &Path) -> Result<Self> {
        let path = go_programs.join("leaky").join(LEAK_FILE);
        let source = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let marked: Vec<usize> =
            source.lines().zip(1..).filter(|(text, _)| text.contains(MARKER)).map(|(_, line)| line).collect();
        let [line] = marked[..] else {
            bail!("{} has {} lines with {MARKER:?} instead of one", path.display(), marked.len())
        };
        Ok(Self { function: LEAK_FUNCTION, file: LEAK_FILE, line: u32::try_from(line)? })
    }

    fn is(&self, site: &Site) -> bool {
        site.function == self.function && site.file.ends_with(self.file) && site.line == self.line
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.function, self.file, self.line)
    }
}

/// The report of the leak.
struct Report {
    leak: Leak,
    after: Duration,
    bytes: u64,
}

/// Sees every event before it is judged.
pub(crate) type Shown<'a> = dyn FnMut(&Event) + 'a;

/// What has been seen so far.
pub(crate) struct Scenario {
    device: &'static str,
    expected: Expected,
    subscribed: [bool; 2],
    ready: [bool; 2],
    /// Whether the agent has said that it watches them.
    watched: [bool; 2],
    online: u32,
    offline: u32,
    began: Option<Instant>,
    may_end: Vec<Source>,
    report: Option<Report>,
    wrong: Vec<String>,
    /// What the guest said of the agent's memory.
    memory: Vec<String>,
    messages: u32,
    bytes: u64,
}

impl Scenario {
    /// Nothing seen yet. Messages of devices other than `device` are an error.
    pub(crate) fn new(device: &'static str, expected: Expected) -> Self {
        Self {
            device,
            expected,
            subscribed: [false; 2],
            ready: [false; 2],
            watched: [false; 2],
            online: 0,
            offline: 0,
            began: None,
            may_end: Vec::new(),
            report: None,
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

    /// From here on this child's end is no failure.
    pub(crate) fn may_end(&mut self, child: Source) {
        self.may_end.push(child);
    }

    /// Waits until both programs are up and the agent has announced itself.
    pub(crate) fn start(&mut self, events: &Events, limit: Duration, shown: &mut Shown<'_>) -> Result<()> {
        println!("==> waiting for the programs and the agent");
        self.until(events, "glg has subscribed", limit, shown, |s| s.subscribed == [true; 2])?;
        self.until(events, "the programs are up", limit, shown, |s| s.ready == [true; 2])?;
        self.until(events, "the agent has announced itself", limit, shown, |s| s.online > 0)?;
        self.until(events, "the agent watches both programs", limit, shown, |s| s.watched == [true; 2])
    }

    /// Lets the programs run, makes one of them leak, and watches for `time` from then on, or longer, until
    /// the leak is reported.
    pub(crate) fn leak(
        &mut self,
        events: &Events,
        time: Duration,
        shown: &mut Shown<'_>,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        println!("==> both programs run without a leak for {} s", SETTLE.as_secs());
        self.watch_for(events, SETTLE, shown)?;
        begin()?;
        self.until(events, "the leak has begun", Duration::from_secs(10), shown, |s| s.began.is_some())?;
        let began = self.began.unwrap_or_else(Instant::now);
        println!("==> leaky leaks now; expected: {}", self.expected);
        loop {
            let since = began.elapsed();
            if self.report.is_none() && since > LEAK_WITHIN {
                bail!("the leak of {} was not reported within {} s", self.expected, LEAK_WITHIN.as_secs());
            }
            let end = if self.report.is_some() { time } else { time.max(LEAK_WITHIN) };
            let left = end.saturating_sub(since);
            if self.report.is_some() && left.is_zero() {
                return Ok(());
            }
            self.watch_for(events, HEARTBEAT.min(left), shown)?;
            let state = if self.report.is_some() { "reported" } else { "not reported yet" };
            println!("    {:.0} s after its begin: {state}", began.elapsed().as_secs_f64());
        }
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
            for (watched, name) in self.watched.iter_mut().zip(["leaky (", "healthy ("]) {
                *watched |= line.contains(name);
            }
        }
        match event.from {
            Source::Json | Source::Text if line == "SUBSCRIBED" => {
                let [text, json] = &mut self.subscribed;
                *if event.from == Source::Json { json } else { text } = true;
            }
            Source::Json => self.message(line, event.at)?,
            Source::Leaky => self.program(0, line, event.at),
            Source::Healthy => self.program(1, line, event.at),
            // In the machine both programs share the console; their lines carry their names (guest/program).
            Source::Console => {
                if let Some(figure) = line.trim().strip_prefix("agent ") {
                    self.memory.push(figure.to_owned());
                }
                for (index, name) in ["leaky: ", "healthy: "].into_iter().enumerate() {
                    if let Some((_, line)) = line.split_once(name) {
                        self.program(index, line, event.at);
                    }
                }
            }
            Source::Agent | Source::Broker | Source::Text => {}
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
            self.began.get_or_insert(at);
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
        match (message.kind, message.leak) {
            (Kind::Online, _) => self.online += 1,
            (Kind::Offline, _) => self.offline += 1,
            (Kind::Leak, Some(leak)) => self.judge(leak, message.bytes, at),
            (Kind::Leak, None) => bail!("`glg watch --json` wrote a leak without its particulars: {line}"),
            (Kind::Other, _) => {}
        }
        Ok(())
    }

    fn judge(&mut self, leak: Leak, bytes: u64, at: Instant) {
        if leak.target.name != "leaky" {
            self.wrong.push(format!("a program that does not leak was reported: {leak}"));
            return;
        }
        let Some(began) = self.began else {
            self.wrong.push(format!("reported before it leaked: {leak}"));
            return;
        };
        if !leak.sites.first().is_some_and(|site| self.expected.is(site)) {
            self.wrong.push(format!("expected {} as the first site, but got {leak}", self.expected));
            return;
        }
        // The leaked ones never end, and the probes saw every one of them begin.
        let evidence = leak.sites.first().and_then(|site| site.attributed.as_ref());
        if !evidence.is_some_and(|counted| counted.created > 0 && counted.exited == 0) {
            self.wrong.push(format!("reported without the probes' evidence: {leak}"));
            return;
        }
        if self.report.is_none() {
            self.report = Some(Report { leak, after: at.saturating_duration_since(began), bytes });
        }
    }

    /// What was seen, or what is missing from it.
    pub(crate) fn verdict(&self) -> Result<String> {
        if let Some(wrong) = self.wrong.first() {
            bail!("{wrong}");
        }
        let Some(Report { leak, after, bytes }) = &self.report else {
            bail!("the leak of {} was not reported", self.expected)
        };
        let seconds = after.as_secs_f64();
        if *after > LEAK_WITHIN {
            bail!("the leak was reported only after {seconds:.1} s (allowed: {} s)", LEAK_WITHIN.as_secs());
        }
        Ok(format!(
            "leak reported {seconds:.1} s after it began, in {bytes} bytes:\n  {leak}\n\
             healthy not reported\n\
             {} messages, {} bytes on the wire in all",
            self.messages, self.bytes
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAK: &str = r#"{"kind":"leak","device":"d","bytes":140,"grade":"stuck","goroutines":500,
        "baseline":43,"window_s":24,"target":{"name":"leaky","pid":7,"go":"1.24.11"},
        "sites":[{"function":"main.(*Gateway).forward","file":"leaky/gateway.go","line":88,"wait":"chan send",
        "count":450,"grew":200,"attributed":{"created":160,"exited":0,"seconds":8.0}}]}"#;

    fn scenario() -> Scenario {
        let expected = Expected { function: LEAK_FUNCTION, file: LEAK_FILE, line: 88 };
        Scenario::new("d", expected)
    }

    fn event(from: Source, at: Instant, line: &str) -> Event {
        Event { from, at, what: What::Line(line.replace('\n', " ")) }
    }

    /// The leak begins, and after so many seconds this message comes.
    fn verdict_on(message: &str, seconds: u64) -> Result<String> {
        let start = Instant::now();
        let mut scenario = scenario();
        scenario.take(&event(Source::Leaky, start, "LEAKING 1795307916701"))?;
        scenario.take(&event(Source::Json, start + Duration::from_secs(seconds), message))?;
        scenario.verdict()
    }

    #[test]
    fn the_marked_line_is_the_go_statement() {
        let programs = crate::paths::repo().join("go-programs");
        let expected = Expected::from_source(&programs).unwrap();
        let source = std::fs::read_to_string(programs.join("leaky/gateway.go")).unwrap();
        let line = source.lines().nth(expected.line as usize - 1).unwrap();
        assert!(line.trim_start().starts_with("go func()"), "{line}");
    }

    #[test]
    fn the_right_report_in_time() {
        let text = verdict_on(LEAK, 31).unwrap();
        assert!(text.contains("31.0 s after it began, in 140 bytes"), "{text}");
        assert!(text.contains("main.(*Gateway).forward leaky/gateway.go:88 [chan send]"), "{text}");
        assert!(text.contains("in 8.0 s 160 created, 0 ended"), "{text}");
    }

    #[test]
    fn reports_that_are_wrong() {
        for (message, seconds, complaint) in [
            (LEAK.to_owned(), 61, "only after 61.0 s"),
            (LEAK.replace("\"line\":88", "\"line\":89"), 30, "as the first site"),
            (LEAK.replace("forward", "forward.func1"), 30, "as the first site"),
            (LEAK.replace("gateway.go", "main.go"), 30, "as the first site"),
            (LEAK.replace("leaky\",", "healthy\","), 30, "does not leak"),
            (LEAK.replace("\"created\":160", "\"created\":0"), 30, "without the probes' evidence"),
            (LEAK.replace("\"exited\":0", "\"exited\":9"), 30, "without the probes' evidence"),
            (LEAK.replace("\"d\"", "\"e\""), 30, "device \"e\""),
            (r#"{"kind":"leak","device":"d","bytes":9}"#.to_owned(), 30, "without its particulars"),
            (r#"{"kind":"online","device":"d","bytes":9}"#.to_owned(), 30, "was not reported"),
            ("{".to_owned(), 30, "wrote {"),
            ("glg/v1/d/state: skipped: 3 bytes too many".to_owned(), 30, "3 bytes too many"),
        ] {
            let error = verdict_on(&message, seconds).expect_err(&message);
            assert!(format!("{error:#}").contains(complaint), "{error:#}");
        }
    }

    #[test]
    fn a_report_before_the_leak_is_false() {
        let mut scenario = scenario();
        let error = scenario.take(&event(Source::Json, Instant::now(), LEAK)).unwrap_err();
        assert!(error.to_string().contains("before it leaked"), "{error}");
    }

    #[test]
    fn the_console_speaks_for_both_programs() {
        let mut scenario = scenario();
        for line in ["rc: up", "leaky: READY 77", "healthy: READY 78"] {
            assert_ne!(scenario.ready, [true; 2]);
            scenario.take(&event(Source::Console, Instant::now(), line)).unwrap();
        }
        assert!(scenario.ready == [true; 2] && scenario.began.is_none());
    }
}
