//! Which processes there are: from the kernel's events, and by looking through /proc.

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use glg_engine::step::{Effects, Input, TargetId};
use glg_proto::probe::ProcessEvent;
use glg_proto::wire::head;
use log::{Level, error, info, log, trace};
use tokio::time::Instant;

use super::{NEWBORN_MAX, Service};
use crate::clock;
use crate::remote::{self, Remote};

/// Process events handled before anything else gets its turn.
const EVENTS_AT_ONCE: u32 = 64;
/// A new program needs a moment before its runtime can be looked at.
const FIRST_LOOK: Duration = Duration::from_millis(50);

impl Service {
    /// Reads all process events that wait; `true` when there may be more.
    pub(super) fn kernel_events(&mut self, newborn: &mut VecDeque<(Instant, u32)>) -> bool {
        let mut events: heapless::Vec<ProcessEvent, { EVENTS_AT_ONCE as usize }> = heapless::Vec::new();
        let Some(probing) = &mut self.probing else { return false };
        let more = probing.drain_events(EVENTS_AT_ONCE, |event| {
            // As many as are asked for, so there is room for each.
            let _ = events.push(event);
        });
        for event in events {
            match event.kind {
                ProcessEvent::EXEC => {
                    self.gone(event.tgid);
                    newborn.retain(|(_, pid)| *pid != event.tgid);
                    newborn.push_back((Instant::now() + FIRST_LOOK, event.tgid));
                }
                _ => {
                    newborn.retain(|(_, pid)| *pid != event.tgid);
                    self.gone(event.tgid);
                }
            }
        }
        // A fork bomb must not become ours; the next scan finds who is left.
        newborn.truncate(NEWBORN_MAX);
        more
    }

    /// The process has ended or runs another program.
    fn gone(&mut self, pid: u32) {
        self.refused.forget(pid);
        if let Some(remote) = self.remotes.iter().find(|remote| remote.id.pid == pid) {
            info!("{} ({pid}): has ended, or runs another program", remote.name());
            let id = remote.id;
            self.input(Input::Gone(id));
            self.refused.forget_all();
        }
    }

    /// Looks through /proc: at the start, and for what the events missed.
    pub(super) fn scan(&mut self) {
        let ended: Vec<TargetId> =
            self.remotes.iter_mut().filter_map(|remote| (!remote.is_same()).then_some(remote.id)).collect();
        for id in ended {
            self.gone(id.pid);
        }
        let entries = match fs::read_dir("/proc") {
            Ok(entries) => entries,
            Err(error) => return error!("/proc cannot be read ({error}): mount it; nothing can be watched"),
        };
        for entry in entries.flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                self.discover(pid);
            }
        }
    }

    /// Opens a process and shows it to the engine, if the board wants it watched.
    pub(super) fn discover(&mut self, pid: u32) {
        let known = self.remotes.iter().any(|remote| remote.id.pid == pid) || pid == std::process::id();
        if known || remote::identify(pid).is_none_or(|who| self.refused.contains(who)) {
            return;
        }
        let mut remote = match Remote::open(pid) {
            Ok(Some(remote)) => remote,
            Ok(None) => return,
            Err(error) => return self.denied(pid, &error),
        };
        if !self.config.watch.wants(&remote.path) {
            trace!("{} ({pid}): ignored by a rule of the board config", remote.name());
            return self.refuse(pid);
        }
        let (id, name, entry) = (remote.id, head(remote.name()), remote.entry);
        let mut effects = Effects::new();
        let input = Input::Found { id, name, entry, process: remote.process() };
        self.engine.step(clock::now(), input, &mut effects);
        remote.keep_name();
        // First its place, so that the effects (it may be unwanted) find it.
        self.remotes.push(remote);
        self.carry_out(effects);
    }

    /// Does not look at this process again as long as it runs this program.
    pub(super) fn refuse(&mut self, pid: u32) {
        if let Some(who) = remote::identify(pid) {
            self.refused.add(who);
        }
    }

    /// Says once that processes cannot be opened: without the right to, every one of them.
    fn denied(&mut self, pid: u32, error: &std::io::Error) {
        let level = if self.said_denied { Level::Trace } else { Level::Warn };
        self.said_denied = true;
        log!(
            level,
            "process {pid} cannot be opened ({error}): where programs of other users are to be watched, run as root \
             or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; further ones are not named"
        );
        self.refuse(pid);
    }
}
