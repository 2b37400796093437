//! Proofs of running daemons, one after the other, as `goleakguard leaks` makes them by default.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cmd;

/// What `goleakguard leaks --json` says.
#[derive(Deserialize)]
struct Told {
    go: String,
    goroutines: u64,
    leaked: Vec<Leak>,
    abstained: Option<String>,
}

#[derive(Deserialize)]
struct Leak {
    grade: String,
    wait: String,
    created_by: String,
    created_at: String,
    waited_s: u64,
    grows: bool,
    orphan: bool,
    stack: Vec<String>,
}

/// What all proofs of a daemon have said.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) go: String,
    /// The fewest and the most.
    pub(super) goroutines: Option<(u64, u64)>,
    pub(super) proofs: u32,
    /// Those that were not made to their end, by their reason.
    pub(super) abstained: BTreeMap<String, u32>,
    /// Goroutines in the proof in which there were most of them.
    pub(super) proven: usize,
    pub(super) stuck: usize,
    /// Everyone who was told, as one reads it.
    pub(super) stories: BTreeMap<String, u32>,
}

impl Tally {
    /// Observes process `pid` with this config until it is over; at least once.
    pub(super) fn take(agent: &Path, config: &Path, pid: u32, over: &AtomicBool) -> Result<Tally> {
        let mut tally = Tally::default();
        while tally.proofs == 0 || !over.load(Ordering::Relaxed) {
            let mut command = Command::new(agent);
            command.args(["leaks", "--json", "--pid", &pid.to_string(), "--config"]).arg(config);
            let text = cmd::output(&mut command)?;
            tally.add(serde_json::from_str(&text).with_context(|| format!("leaks wrote {text}"))?);
        }
        Ok(tally)
    }

    fn add(&mut self, told: Told) {
        let (least, most) = self.goroutines.unwrap_or((u64::MAX, 0));
        self.goroutines = Some((least.min(told.goroutines), most.max(told.goroutines)));
        self.go = told.go;
        self.proofs += 1;
        if let Some(why) = told.abstained {
            *self.abstained.entry(why).or_default() += 1;
        }
        let count = |grade: &str| told.leaked.iter().filter(|leak| leak.grade == grade).count();
        self.proven = self.proven.max(count("proven"));
        self.stuck = self.stuck.max(count("stuck"));
        for leak in &told.leaked {
            *self.stories.entry(leak.story()).or_default() += 1;
        }
    }
}

impl Leak {
    fn story(&self) -> String {
        let Leak { grade, wait, created_by, created_at, waited_s, grows, orphan, stack } = self;
        // Minutes are the same in many proofs.
        let minutes = waited_s / 60;
        format!(
            "{grade} [{wait}] for {minutes} min or more, grows: {grows}, orphan: {orphan}, created by {created_by} at \
             {created_at}\n    {}",
            stack.join("\n    ")
        )
    }
}
