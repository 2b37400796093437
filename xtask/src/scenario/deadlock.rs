//! The deadlock of `stuck`: which two calls into C have to be named, and what was reported of them.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::message::{Deadlock, Member};
use super::within;

/// It has to be reported within this time of its begin: `locks.deadlock_s` and two looks, on a busy machine. In the
/// demo there is no link until the leak is found, and it may not be asked to come sooner than that.
pub(super) const WITHIN: Duration = Duration::from_secs(90);
/// The program that has it.
pub(super) const PROGRAM: &str = "stuck";

/// The comment that marks a call from Go into C which never returns.
const MARKER: &str = "// DEADLOCK";
const FILE: &str = "main.go";
/// What its report begins with in the text for people; the lines that belong to it are indented.
const HEADLINE: &str = "DEADLOCK in stuck on ";

/// A call from Go into C.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) c_function: String,
    pub(super) go_function: String,
    pub(super) line: u32,
}

impl Call {
    fn is(&self, member: &Member) -> bool {
        let named = member.c_function == self.c_function && member.go_function == self.go_function;
        named && member.line == self.line && member.kind == "mutex" && member.goid.is_some()
    }

    /// As the text for people has it.
    fn lines(&self) -> [String; 2] {
        [format!("in C in {}", self.c_function), format!("in Go in {} line {}", self.go_function, self.line)]
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} {FILE}:{}", self.c_function, self.go_function, self.line)
    }
}

/// The two calls that have to be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected(pub(super) [Call; 2]);

impl Expected {
    /// Looks the marked calls up in the source of `stuck`.
    pub(super) fn from_source(go_programs: &Path) -> Result<Self> {
        let path = go_programs.join(PROGRAM).join(FILE);
        let source = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let calls = marked(&source).with_context(|| format!("{}: a mark without a call", path.display()))?;
        match <[Call; 2]>::try_from(calls) {
            Ok(calls) => Ok(Self(calls)),
            Err(calls) => {
                bail!("{} has {} lines with {MARKER:?} instead of two", path.display(), calls.len())
            }
        }
    }

    /// Whether it is these two calls that wait for each other, on two threads.
    fn is(&self, deadlock: &Deadlock) -> bool {
        let [one, other] = &deadlock.members[..] else { return false };
        let Self([a, b]) = self;
        let named = (a.is(one) && b.is(other)) || (a.is(other) && b.is(one));
        named && deadlock.total == 2 && !deadlock.inferred && one.tid.is_some() && one.tid != other.tid
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b]) = self;
        write!(f, "{a}, and {b}")
    }
}

/// The marked calls of a Go file, in functions of package `main`.
fn marked(source: &str) -> Option<Vec<Call>> {
    let (mut calls, mut function) = (Vec::new(), "");
    for (text, line) in source.lines().zip(1..) {
        if let Some((name, _)) = text.strip_prefix("func ").and_then(|rest| rest.split_once('(')) {
            function = name;
        }
        if text.contains(MARKER) {
            let (_, call) = text.split_once("C.")?;
            let (c_function, _) = call.split_once('(')?;
            calls.push(Call { c_function: c_function.into(), go_function: format!("main.{function}"), line });
        }
    }
    Some(calls)
}

/// The first report.
struct Report {
    deadlock: Deadlock,
    after: Duration,
    bytes: u64,
}

/// The deadlock as far as it has gone.
pub(super) struct Locking {
    pub(super) expected: Expected,
    pub(super) began: Option<Instant>,
    report: Option<Report>,
    /// How many times it was reported: each agent finds it anew.
    pub(super) reports: u32,
    /// The first report as text for people.
    text: Vec<String>,
    in_text: bool,
}

impl Locking {
    /// Not begun yet.
    pub(super) fn new(expected: Expected) -> Self {
        Self { expected, began: None, report: None, reports: 0, text: Vec::new(), in_text: false }
    }

    /// In both forms.
    pub(super) fn is_reported(&self) -> bool {
        self.report.is_some() && self.unsaid().is_none()
    }

    /// Takes a report; says what is wrong with it.
    pub(super) fn take(&mut self, deadlock: Deadlock, bytes: u64, at: Instant) -> Result<(), String> {
        if deadlock.target.name != PROGRAM {
            return Err(format!("a program without a deadlock was reported: {deadlock}"));
        }
        let Some(began) = self.began else {
            return Err(format!("reported before its deadlock: {deadlock}"));
        };
        if !self.expected.is(&deadlock) {
            return Err(format!("expected {} in a deadlock, but got {deadlock}", self.expected));
        }
        self.reports += 1;
        let after = at.saturating_duration_since(began);
        self.report.get_or_insert(Report { deadlock, after, bytes });
        Ok(())
    }

    /// Takes a line of the text for people.
    pub(super) fn take_text(&mut self, line: &str) {
        self.in_text = line.starts_with(HEADLINE) || (self.in_text && line.starts_with(' '));
        if self.in_text {
            self.text.push(line.to_owned());
        }
    }

    /// What the text for people ought to say and does not.
    fn unsaid(&self) -> Option<String> {
        let Expected(calls) = &self.expected;
        let said = |wanted: &String| self.text.iter().any(|line| line.ends_with(wanted));
        calls.iter().flat_map(Call::lines).find(|line| !said(line))
    }

    /// What was reported, or that nothing was, or too late.
    pub(super) fn verdict(&self) -> Result<String> {
        let Some(Report { deadlock, after, bytes }) = &self.report else {
            bail!("the deadlock of {} was not reported", self.expected)
        };
        within("deadlock", *after, WITHIN)?;
        if let Some(line) = self.unsaid() {
            bail!("the deadlock's text does not say {line:?}:\n{}", self.text.join("\n"));
        }
        let seconds = after.as_secs_f64();
        Ok(format!("deadlock reported {seconds:.1} s after it began, in {bytes} bytes:\n  {deadlock}"))
    }
}
