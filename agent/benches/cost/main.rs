//! Measures what watching costs, against the alternatives: `cargo xtask bench` runs it and prints its rows as
//! a table.
//!
//! `cost SECTION [--quick]` prints one JSON object per row. Whatever is compared takes turns within one run, so
//! that a busy machine slows all sides; nothing here asserts a time.

mod count;
mod crowd;
mod dump;
mod falsely;
mod hit;
mod locks;
mod look;
mod program;
mod proof;
mod row;
mod service;
mod spawn;
mod stall;
mod tick;
mod uplink;
mod walk;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// How much time to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Some seconds a section: whether it works, and the orders of magnitude.
    Quick,
    /// Enough rounds for figures to be quoted.
    Full,
}

impl Effort {
    /// One of two values.
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }
}

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let effort = if args.iter().any(|arg| arg == "--quick") { Effort::Quick } else { Effort::Full };
    let section = args.iter().find(|arg| !arg.starts_with("--")).map_or("", String::as_str);
    let made = match args.as_slice() {
        [what, numbers @ ..] if what == "one-pass" => proof::make_one_pass(numbers),
        _ => run(section, effort),
    };
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(section: &str, effort: Effort) -> Result<()> {
    match section {
        "spawn" => spawn::tight_loop(effort),
        "churn" => spawn::realistic(effort),
        "count" => count::measure(effort),
        "crowd" => crowd::measure(effort),
        "false-proofs" => falsely::measure(effort),
        "hit" => hit::measure(effort),
        "locks" => locks::measure(effort),
        "look" => look::measure(effort),
        "proof" => proof::measure(effort),
        "tick" => tick::measure(effort),
        "uplink" => uplink::measure(effort),
        _ => bail!(
            "which section? spawn, churn, count, crowd, false-proofs, hit, locks, look, proof, tick or uplink; \
             `cargo xtask bench` runs them"
        ),
    }
}
