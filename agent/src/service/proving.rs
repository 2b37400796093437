//! Observations for leaks: a child of ours looks at one target at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use glg_engine::memory::Addr;
use glg_engine::reach::proof::moments;
use glg_engine::step::{Input, TargetId};
use glg_proto::proof::{PROOF_MAX, Proof};
use log::warn;
use tokio::process::Child;
use tokio::time::{Instant, timeout_at};

use super::{Service, child};
use crate::config::Prove;
use crate::prove::Order;

/// What describing the findings may take beside the passes.
const DESCRIBING: Duration = Duration::from_secs(30);

/// The child, while there is one.
pub(super) struct Proving {
    /// The board's file, for the child.
    board: PathBuf,
    /// How long one may take.
    most: Duration,
    child: Option<(TargetId, Child, Instant)>,
}

impl Proving {
    pub(super) fn new(config: &Prove, board: &Path) -> Proving {
        let plan = config.plan(None);
        let last = moments(plan, 0).last().map_or(0, |(millis, _)| *millis);
        let passes = u64::from(config.passes) * u64::from(config.max_seconds);
        let most = Duration::from_millis(last) + Duration::from_secs(passes) + DESCRIBING;
        Proving { board: board.to_owned(), most, child: None }
    }

    fn begin(&mut self, id: TargetId, growing: &[Addr]) -> io::Result<()> {
        let order = Order { id, growing: growing.to_vec(), board: self.board.clone() };
        let child = child::begin("prove", order.words())?;
        self.child = Some((id, child, Instant::now() + self.most));
        Ok(())
    }

    /// Ends the child that observes this target.
    pub(super) fn end(&mut self, id: TargetId) {
        // It is killed, and the runtime sees to it that it does not stay as a zombie.
        self.child.take_if(|(other, ..)| *other == id);
    }

    /// Waits for the child; for ever where there is none. Nothing is lost when nobody waits any more.
    pub(super) async fn proved(&mut self) -> (TargetId, Option<Proof>) {
        let Some((id, child, until)) = &mut self.child else { return std::future::pending().await };
        let id = *id;
        // What it says fits into the pipes: it ends whether that is read or not.
        let ended = timeout_at(*until, child.wait()).await;
        let Some((_, child, _)) = self.child.take() else { return std::future::pending().await };
        let proof = match ended {
            Err(_) => Err("took too long".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(status)) => {
                let said = child::said(child, status, PROOF_MAX as u64);
                Proof::decode(&said.stdout).ok_or_else(|| child::last_words(&said))
            }
        };
        let proof = proof.inspect_err(|why| warn!("process {}: not observed for leaks: {why}", id.pid));
        (id, proof.ok())
    }
}

impl Service {
    /// Begins to observe a target.
    pub(super) fn prove(&mut self, id: TargetId, growing: &[Addr]) {
        if let Err(error) = self.proving.begin(id, growing) {
            warn!("process {}: not observed for leaks: {error}", id.pid);
            self.proved(id, None);
        }
    }

    pub(super) fn proved(&mut self, id: TargetId, proof: Option<&Proof>) {
        self.input(Input::Proved { id, proof });
    }
}
