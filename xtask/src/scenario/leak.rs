//! The leak of `leaky`: which `go` statement has to be named, and what was reported of it.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::message::{Leak, Site};
use super::within;

/// It has to be reported within this time of its begin.
pub(super) const WITHIN: Duration = Duration::from_secs(60);
/// And proven within this.
pub(super) const PROVEN_WITHIN: Duration = Duration::from_secs(120);
/// The program that leaks.
pub(super) const PROGRAM: &str = "leaky";

/// The comment that marks the `go` statement which leaks.
const MARKER: &str = "// LEAK";
const FILE: &str = "gateway.go";
const FUNCTION: &str = "main.(*Gateway).forward";

/// The `go` statement that has to be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) function: &'static str,
    pub(super) file: &'static str,
    pub(super) line: u32,
}

impl Expected {
    /// Looks the marked `go` statement up in the source of `leaky`.
    pub(super) fn from_source(go_programs: &Path) -> Result<Self> {
        let path = go_programs.join(PROGRAM).join(FILE);
        let source = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let marked: Vec<usize> =
            source.lines().zip(1..).filter(|(text, _)| text.contains(MARKER)).map(|(_, line)| line).collect();
        let [line] = marked[..] else {
            bail!("{} has {} lines with {MARKER:?} instead of one", path.display(), marked.len())
        };
        Ok(Self { function: FUNCTION, file: FILE, line: u32::try_from(line)? })
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

/// The first report.
struct Report {
    leak: Leak,
    after: Duration,
    bytes: u64,
}

/// The leak as far as it has gone.
pub(super) struct Leaking {
    pub(super) expected: Expected,
    pub(super) began: Option<Instant>,
    report: Option<Report>,
    /// The first with a proof.
    proof: Option<Report>,
}

impl Leaking {
    /// Not begun yet.
    pub(super) fn new(expected: Expected) -> Self {
        Self { expected, began: None, report: None, proof: None }
    }

    pub(super) fn is_reported(&self) -> bool {
        self.report.is_some()
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proof.is_some()
    }

    /// Takes a report; says what is wrong with it.
    pub(super) fn take(&mut self, leak: Leak, bytes: u64, at: Instant) -> Result<(), String> {
        if leak.target.name != PROGRAM {
            return Err(format!("a program that does not leak was reported: {leak}"));
        }
        let Some(began) = self.began else { return Err(format!("reported before it leaked: {leak}")) };
        let Some(site) = leak.sites.first().filter(|site| self.expected.is(site)) else {
            return Err(format!("expected {} as the first site, but got {leak}", self.expected));
        };
        let after = at.saturating_duration_since(began);
        if leak.grade == "proven" {
            if site.orphans == Some(0) || leak.observed.is_none() {
                return Err(format!("proven without its evidence: {leak}"));
            }
            self.proof.get_or_insert(Report { leak, after, bytes });
            return Ok(());
        }
        // The leaked ones never end, and the probes saw every one of them begin.
        if !site.attributed.as_ref().is_some_and(|counted| counted.created > 0 && counted.exited == 0) {
            return Err(format!("reported without the probes' evidence: {leak}"));
        }
        self.report.get_or_insert(Report { leak, after, bytes });
        Ok(())
    }

    /// What was reported, or that nothing was, or too late.
    pub(super) fn verdict(&self) -> Result<String> {
        let Some(Report { leak, after, bytes }) = &self.report else {
            bail!("the leak of {} was not reported", self.expected)
        };
        within("leak", *after, WITHIN)?;
        let Some(proof) = &self.proof else { bail!("the leak of {} was not proven", self.expected) };
        within("proof", proof.after, PROVEN_WITHIN)?;
        let (seconds, proven_s) = (after.as_secs_f64(), proof.after.as_secs_f64());
        Ok(format!(
            "leak reported {seconds:.1} s after it began, in {bytes} bytes:\n  {leak}\n\
             leak proven {proven_s:.1} s after it began, in {} bytes:\n  {}",
            proof.bytes, proof.leak
        ))
    }
}
