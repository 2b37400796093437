//! What `glg watch --json` writes, as far as the scenario looks at it.

use std::fmt;

use serde::Deserialize;

/// A line of `glg watch --json`, as far as it matters here.
#[derive(Deserialize)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) device: String,
    pub(super) bytes: u64,
    #[serde(flatten)]
    pub(super) leak: Option<Leak>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Online,
    Offline,
    Leak,
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
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Attributed {
    pub(super) created: u32,
    pub(super) exited: u32,
    pub(super) seconds: f64,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target { name, pid, go } = &self.target;
        write!(
            f,
            "{name} (pid {pid}, Go {go}), {}: {} -> {} goroutines in {} s",
            self.grade, self.baseline, self.goroutines, self.window_s
        )?;
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
