//! The board config: TOML files that inherit from each other, turned once into values that cannot be wrong.
//!
//! `board-configs/base.toml` is built in and holds every key with its default, unit and range. Whatever
//! leaves [`Config::load`] has been checked: ranges, words, keys, windows against rings, memory against
//! its budget.

mod commands;
mod error;
mod memory;
mod prove;
mod read;
mod reader;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;

use glg_engine::history::{HistoryConfig, Resolution};
use glg_engine::locks::scan::LockLimits;
use glg_engine::outbox::OutboxConfig;

pub use commands::{Commands, NamedKey};
pub use error::ConfigError;
pub use memory::MemorySum;
pub use prove::Prove;
pub use rules::{Action, Rule};

use error::Problem;
use source::Tree;

/// Everything a board can decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who this device is.
    pub device: Device,
    /// Where the broker is.
    pub mqtt: Mqtt,
    /// What is watched, and how often.
    pub watch: Watch,
    /// How much is remembered of each target.
    pub history: History,
    /// What counts as growth.
    pub growth: Growth,
    /// Limits of a walk over all goroutines.
    pub census: Census,
    /// Limits of the creation and exit probes.
    pub attribute: Attribute,
    /// Threads that wait in C.
    pub locks: Locks,
    /// Who may send commands.
    pub commands: Commands,
    /// What waits for the broker.
    pub outbox: Outbox,
    /// What is kept on flash.
    pub spool: Spool,
    /// Limits of a dump.
    pub dump: Dump,
    /// How leaks are proven.
    pub prove: Prove,
    /// What the service leaves for others.
    pub service: Service,
    /// The budget for all of it.
    pub memory: Memory,
    /// What is logged.
    pub log: Log,
}

/// `[device]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Fit for a topic ([`glg_proto::topics::is_device_name`]); "auto" has become the host name.
    pub name: String,
}

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// Host name or address.
    pub host: String,
    /// TCP port, not 0.
    pub port: u16,
    /// Seconds, 5..=1200.
    pub keep_alive_s: u16,
    /// Seconds, 0..=604800.
    pub session_expiry_s: u32,
    /// User name, if the broker wants one.
    pub username: Option<String>,
    /// File with the password; only with a user name.
    pub password_file: Option<String>,
    /// Milliseconds before the first new attempt.
    pub backoff_min_ms: u32,
    /// Milliseconds between attempts at most; not below `backoff_min_ms`.
    pub backoff_max_ms: u32,
    /// KiB a day past which only critical messages are sent; 0 for no limit.
    pub airtime_kib: u32,
    /// TLS, if the broker is to be spoken to with it.
    pub tls: Option<glg_tls::Settings>,
}

/// `[watch]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Milliseconds between counts, 100..=60000.
    pub interval_ms: u32,
    /// Seconds between scans of /proc, 5..=3600.
    pub rescan_s: u32,
    /// 1..=64.
    pub max_targets: u32,
    /// In order; the first that fits decides.
    pub rules: Vec<Rule>,
}

impl Watch {
    /// Whether the Go process whose executable is at `path` is to be watched.
    #[must_use]
    pub fn wants(&self, path: &str) -> bool {
        self.rules.iter().find(|rule| rule.fits(path)).is_none_or(|rule| rule.action == Action::Watch)
    }
}

/// `[history.*]`: three rings per target, each step a multiple of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Seconds.
    pub fine: Ring,
    /// Minutes.
    pub middle: Ring,
    /// Hours and days.
    pub coarse: Ring,
}

impl History {
    /// As the engine takes it.
    #[must_use]
    pub fn to_engine(&self) -> HistoryConfig {
        let [fine, middle, coarse] =
            [self.fine, self.middle, self.coarse].map(|Ring { step_s, keep }| Resolution { step_s, keep });
        HistoryConfig { fine, middle, coarse }
    }
}

/// One ring of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Seconds between entries.
    pub step_s: u32,
    /// Entries.
    pub keep: u32,
}

impl Ring {
    /// Seconds from the oldest entry's beginning to now.
    #[must_use]
    pub fn span_s(self) -> u32 {
        self.step_s.saturating_mul(self.keep)
    }
}

/// `[growth]`: each trend's window fits into its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Over the fine ring.
    pub fast: Trend,
    /// Over the middle ring.
    pub medium: Trend,
    /// Over the coarse ring.
    pub slow: Trend,
    /// Seconds between first and second census.
    pub confirm_s: u32,
    /// Seconds before an unchanged alert is said again.
    pub remind_s: u32,
}

/// How much growth within a window is suspicious: both measures at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trend {
    /// Seconds.
    pub window_s: u32,
    /// Goroutines.
    pub min_rise: u32,
    /// Per cent of the count at the start of the window.
    pub min_ratio_percent: u32,
}

/// `[census]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Goroutines per walk.
    pub max_goroutines: u32,
    /// Sites told apart.
    pub max_sites: u32,
    /// Goroutines of which is remembered since when they wait.
    pub max_ages: u32,
    /// Bytes per read.
    pub chunk_bytes: u32,
}

/// `[attribute]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribute {
    /// Whether probes may be attached at all.
    pub enabled: bool,
    /// Seconds.
    pub seconds: u32,
    /// Per cent of one core, 0.01..=100.0.
    pub budget_percent: f64,
    /// Creation sites counted.
    pub max_sites: u32,
}

/// `[outbox]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// Messages kept in memory, where flash cannot be used.
    pub alerts: u32,
}

/// `[spool]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// Directory; empty for none.
    pub dir: String,
    /// KiB of messages.
    pub max_kib: u32,
    /// Messages.
    pub messages: u32,
    /// Seconds.
    pub max_age_s: u32,
    /// KiB that may be written in a day.
    pub write_kib_per_day: u32,
    /// Minutes between checkpoints of the history; 0 for only when the agent ends.
    pub checkpoint_min: u32,
    /// Seconds between messages about the agent's own health; 0 for never.
    pub health_s: u32,
}

/// `[locks]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locks {
    /// Whether threads are looked at.
    pub enabled: bool,
    /// Threads of one process looked at.
    pub max_threads: u32,
    /// Seconds of waiting after which a deadlock is searched for.
    pub deadlock_s: u32,
    /// Seconds of waiting after which it is told in any case.
    pub wait_s: u32,
    /// Goroutines looked at to conclude who could end a wait in Go.
    pub max_goroutines: u32,
    /// Seconds for which it is measured how locks are waited for, on suspicion; 0 for never.
    pub contention_s: u32,
    /// Per cent of that time for which a lock has to be waited for to be told.
    pub contended_percent: u32,
    /// When threads that do not come back are more and more.
    pub threads: Trend,
}

impl Locks {
    /// As the engine wants it.
    #[must_use]
    pub fn limits(&self) -> LockLimits {
        let threads = usize::try_from(self.max_threads).unwrap_or(usize::MAX);
        LockLimits { threads, goroutines: u64::from(self.max_goroutines) }
    }
}

/// `[dump]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Goroutines looked at.
    pub max_goroutines: u32,
    /// KiB of one stack.
    pub max_stack_kib: u32,
    /// Frames of one stack.
    pub max_frames: u32,
    /// Different stacks told apart when they are grouped.
    pub max_stacks: u32,
    /// Places in the program whose meaning is remembered.
    pub max_places: u32,
    /// KiB of text that go with them.
    pub text_kib: u32,
}

/// `[service]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// File that says on which rung each target is; empty for none.
    pub state: String,
}

/// `[memory]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// KiB.
    pub budget_kib: u32,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least severe level that is printed.
    pub level: log::LevelFilter,
}

impl Config {
    /// The board file at `path`, over what it inherits, over the built-in base.
    ///
    /// # Errors
    /// [`ConfigError`] names file, line, key, what was found and what is allowed, for every mistake; for a
    /// config over its memory budget, the table of what takes how much.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let tree = Tree::load(path)?;
        read::config(&tree)?.check_memory(&tree)
    }

    /// The built-in base alone.
    ///
    /// # Errors
    /// None as shipped: a test loads it.
    pub fn builtin() -> Result<Config, ConfigError> {
        let tree = Tree::builtin()?;
        read::config(&tree)?.check_memory(&tree)
    }

    /// The MQTT client id: one session per device.
    #[must_use]
    pub fn client_id(&self) -> String {
        format!("glg-{}", self.device.name)
    }

    /// What may wait for the broker.
    #[must_use]
    pub fn outbox_limits(&self) -> OutboxConfig {
        let in_memory = usize::try_from(self.outbox.alerts).unwrap_or(usize::MAX);
        let spool = &self.spool;
        let messages = if spool.dir.is_empty() { 0 } else { spool.messages };
        OutboxConfig {
            messages: usize::try_from(messages).unwrap_or(usize::MAX),
            in_memory,
            max_bytes: spool.max_kib.saturating_mul(1024),
            // What is given up at a time, when room is needed.
            segment_bytes: spool.max_kib.saturating_mul(1024) / 32,
            max_age_ms: u64::from(spool.max_age_s) * 1000,
            write_bytes_per_day: spool.write_kib_per_day.saturating_mul(1024),
        }
    }

    /// Whether the kernel may be asked to measure waits for locks.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.locks.enabled && self.locks.contention_s > 0
    }

    /// Itself, if it fits into its budget.
    fn check_memory(self, tree: &Tree) -> Result<Config, ConfigError> {
        let sum = self.memory_sum();
        if sum.fits() {
            return Ok(self);
        }
        let file = tree.files.get(1).or(tree.files.first()).map_or("", String::as_str);
        let text = format!(
            "memory.budget_kib: found {}, but this config takes {} KiB:\n{sum}",
            self.memory.budget_kib,
            sum.total().div_ceil(1024)
        );
        Err(ConfigError::one(Problem::of(file, text)))
    }
}
