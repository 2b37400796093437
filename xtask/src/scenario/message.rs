//! What `glg watch --json` writes, as far as the scenario looks at it.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A line of `glg watch --json`, as far as it matters here.
#[derive(Deserialize)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) device: String,
    pub(super) bytes: u64,
    #[serde(flatten)]
    particulars: Map<String, Value>,
}

impl Message {
    /// What is told of this kind only.
    pub(super) fn particulars<T: DeserializeOwned>(self) -> serde_json::Result<T> {
        serde_json::from_value(Value::Object(self.particulars))
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Online,
    Offline,
    Leak,
    Deadlock,
    LockWait,
    StuckThreads,
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Leak {
    pub(super) target: Target,
    pub(super) grade: String,
    pub(super) goroutines: u32,
    pub(super) baseline: u32,
    pub(super) window_s: u32,
    pub(super) observed: Option<Observed>,
    pub(super) sites: Vec<Site>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) go: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Site {
    pub(super) function: String,
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) wait: String,
    pub(super) count: u32,
    pub(super) grew: u32,
    pub(super) attributed: Option<Attributed>,
    /// Not known of a suspicion, and of Go before 1.21.
    pub(super) orphans: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Observed {
    pub(super) passes: u8,
    pub(super) seconds: u16,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Attributed {
    pub(super) created: u32,
    pub(super) exited: u32,
    pub(super) seconds: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Deadlock {
    pub(super) target: Target,
    pub(super) age_s: u32,
    pub(super) inferred: bool,
    pub(super) total: u16,
    pub(super) members: Vec<Member>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Member {
    pub(super) tid: Option<u32>,
    pub(super) goid: Option<u64>,
    pub(super) kind: String,
    pub(super) lock: Option<String>,
    pub(super) c_function: String,
    pub(super) go_function: String,
    pub(super) line: u32,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}, Go {})", self.name, self.pid, self.go)
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}: {} -> {} goroutines in {} s",
            self.target, self.grade, self.baseline, self.goroutines, self.window_s
        )?;
        if let Some(Observed { passes, seconds }) = &self.observed {
            write!(f, ", {passes} passes over {seconds} s")?;
        }
        for site in &self.sites {
            write!(
                f,
                "\n    {} {}:{} [{}]: {} goroutines, {} more than before",
                site.function, site.file, site.line, site.wait, site.count, site.grew
            )?;
            if let Some(Attributed { created, exited, seconds }) = &site.attributed {
                write!(f, "; in {seconds:.1} s {created} created, {exited} ended")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.inferred { "concluded" } else { "certain" };
        write!(f, "{}, {how}: {} wait for each other, for {} s", self.target, self.total, self.age_s)?;
        for Member { tid, goid, kind, lock, c_function, go_function, line } in &self.members {
            let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
            let (thread, goroutine) = (number(tid.map(u64::from)), number(*goid));
            let lock = lock.as_deref().unwrap_or("-");
            write!(f, "\n    thread {thread}, goroutine {goroutine}: {kind} at {lock}, in {c_function}")?;
            write!(f, " from {go_function} line {line}")?;
        }
        Ok(())
    }
}
