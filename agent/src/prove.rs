//! `goleakguard prove`: the service's child that observes one of its targets for leaks. A process of its own, so that
//! what it takes is given back, and what happens to it happens to nobody else.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::bail;
use glg_engine::memory::Addr;
use glg_engine::step::TargetId;
use glg_proto::proof::{PROOF_MAX, Proof};

use crate::config::Config;
use crate::leaks;

/// Who is to be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The process.
    pub id: TargetId,
    /// Return addresses of `go` statements that are known to have ever more goroutines.
    pub growing: Vec<Addr>,
    /// The board's configuration.
    pub board: PathBuf,
}

/// The order in these words, as [`Order::words`] gives them; `None` for anything else.
#[must_use]
pub fn order(words: &[&str]) -> Option<Order> {
    let [pid, start, board, growing @ ..] = words else { return None };
    let id = TargetId { pid: pid.parse().ok()?, start: start.parse().ok()? };
    let address = |word: &&str| u64::from_str_radix(word, 16).ok().map(Addr);
    Some(Order { id, growing: growing.iter().map(address).collect::<Option<_>>()?, board: board.into() })
}

impl Order {
    /// On the command line.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let number = |number: u64| OsString::from(number.to_string());
        let first = [number(self.id.pid.into()), number(self.id.start), self.board.clone().into()];
        first.into_iter().chain(self.growing.iter().map(|at| format!("{:x}", at.0).into())).collect()
    }
}

/// When memory runs out, a child of the service is to go before anybody else (proc_pid_oom_score_adj(5)).
pub fn go_first() {
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

/// Observes it and writes a [`Proof`].
///
/// # Errors
/// As [`leaks::proof`].
pub fn prove(order: &Order, config: &Config, mut out: impl Write) -> anyhow::Result<()> {
    let limits = leaks::Limits { prove: &config.prove, dump: &config.dump };
    let proof: Proof = leaks::proof(order.id, &order.growing, limits)?;
    let mut buffer = [0; PROOF_MAX];
    let Ok(bytes) = proof.encode(&mut buffer) else { bail!("the proof is too long") };
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // The service has ended.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
