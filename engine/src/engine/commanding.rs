//! What the engine does about commands: writes down that they came, carries out what it can itself, and has
//! the rest carried out.

use alloc::boxed::Box;

use glg_proto::audit::{Ending, Event as Happened};
use glg_proto::command::{
    Action, CommandId, DocumentKind, Failure, Outcome, Pong, Request, Setting, Which, Window,
};
use glg_proto::wire::{Timestamp, head};

use super::Engine;
use crate::command::audit::Audit;
use crate::command::{CommandFigures, CommandKey, Commands, Crypto, Device, Judged};
use crate::detector::GrowthConfig;
use crate::flash::{File, Flash, FlashError, Kind};
use crate::locks::watching::LockConfig;
use crate::step::{Effect, Effects, EngineConfig, TargetId};
use crate::watch::act;

/// The file of the counters.
const COUNTERS: File = File { kind: Kind::Counter, number: 0 };
/// Longest file of counters that is read.
const COUNTERS_MAX: usize = 4096;

/// What may be set from far away: as board-configs/base.toml has it.
const RISE: (u32, u32) = (1, 1_000_000);
const PERCENT: (u32, u32) = (1, 100_000);
const REMIND_S: (u32, u32) = (60, 604_800);
const DEADLOCK_S: (u32, u32) = (2, 600);
const LOCK_WAIT_S: (u32, u32) = (10, 86_400);

/// Everything about commands.
pub(super) struct Commanding {
    commands: Commands,
    /// Nothing where it could not be opened.
    audit: Option<Audit>,
    flash: Box<dyn Flash>,
    crypto: Box<dyn Crypto>,
    board: Settings,
}

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Settings {
    growth: GrowthConfig,
    remind_s: u32,
    locks: Option<LockConfig>,
}

impl Settings {
    fn of(config: &EngineConfig) -> Settings {
        Settings { growth: config.growth, remind_s: config.remind_s, locks: config.locks }
    }
}

impl Commanding {
    fn record(&mut self, now: Timestamp, boot: [u8; 8], id: CommandId, event: Happened) {
        if let Some(audit) = &mut self.audit {
            // What cannot be written down is done all the same: the counter is what protects.
            let _ = audit.add(&mut *self.flash, &*self.crypto, (now, boot), id, event);
        }
    }

    fn keep_counters(&mut self) -> Result<(), FlashError> {
        self.flash.replace(COUNTERS, &self.commands.state())
    }
}

impl Engine {
    /// Obeys commands of these keys from now on. Counters and records are kept in `flash`.
    ///
    /// # Errors
    /// [`FlashError`] when the counters cannot be read: without them commands stay off.
    pub fn obey(
        &mut self,
        now: Timestamp,
        keys: &[CommandKey],
        mut flash: Box<dyn Flash>,
        crypto: Box<dyn Crypto>,
    ) -> Result<(), FlashError> {
        let mut written = alloc::vec![0; COUNTERS_MAX];
        let commands = match flash.read(COUNTERS, 0, &mut written) {
            Ok(len) => Commands::new(keys, written.get(..len)),
            Err(FlashError::Missing) => Commands::new(keys, None),
            Err(error) => return Err(error),
        };
        let audit = Audit::open(&mut *flash, &*crypto).ok();
        let board = Settings::of(&self.config);
        let mut commanding = Commanding { commands, audit, flash, crypto, board };
        commanding.record(now, self.config.boot, CommandId::default(), Happened::Started);
        self.commanding = Some(commanding);
        Ok(())
    }

    /// Figures about commands; `None` while they are off.
    #[must_use]
    pub fn command_figures(&self) -> Option<CommandFigures> {
        self.commanding.as_ref().map(|commanding| commanding.commands.figures())
    }

    pub(super) fn command(&mut self, now: Timestamp, bytes: &[u8], effects: &mut Effects) {
        let (boot, device) = (self.config.boot, self.config.device.clone());
        let Some(commanding) = &mut self.commanding else { return };
        let device = Device { name: &device, boot };
        let mut judged = commanding.commands.judge(now, device, bytes, &*commanding.crypto);
        if let Judged::Run(id, _) = judged
            && commanding.keep_counters().is_err()
        {
            judged = commanding.commands.not_recorded(id);
        }
        match judged {
            Judged::Nothing => {}
            Judged::Answer(id, outcome) => {
                if let Outcome::Refused(refusal) = &outcome {
                    commanding.record(now, boot, id, Happened::Refused(*refusal));
                }
                act(effects, Effect::Answer { id, outcome });
            }
            Judged::Run(id, action) => {
                commanding.record(now, boot, id, Happened::Begun(number(&action)));
                if let Some(outcome) = self.run(id, action, effects) {
                    self.command_done(now, id, outcome, effects);
                }
            }
        }
    }

    /// A command has come to its end: that is written down, and answered.
    pub(super) fn command_done(
        &mut self,
        now: Timestamp,
        id: CommandId,
        outcome: Outcome,
        effects: &mut Effects,
    ) {
        let boot = self.config.boot;
        let Some(commanding) = &mut self.commanding else { return };
        commanding.commands.finish(id, &outcome);
        // Were that lost, the same command would be answered as one that was interrupted.
        let _ = commanding.keep_counters();
        commanding.record(now, boot, id, Happened::Ended(Ending::of(&outcome)));
        act(effects, Effect::Answer { id, outcome });
    }

    /// Carries out what needs nobody else; has the rest carried out, and answers nothing yet.
    fn run(&mut self, id: CommandId, action: Action, effects: &mut Effects) -> Option<Outcome> {
        match action {
            Action::Ping => Some(Outcome::Pong(Pong {
                agent: head(env!("CARGO_PKG_VERSION")),
                targets: u16::try_from(self.watches.len()).unwrap_or(u16::MAX),
                waiting: u32::try_from(self.outbox.len()).unwrap_or(u32::MAX),
            })),
            Action::Make(request) => self.make(id, &request, effects).err().map(Outcome::Failed),
            // A document belongs to the key that asked for it.
            Action::Send(document, _) if document.key != id.key => Some(Outcome::Failed(Failure::NoDocument)),
            Action::Send(document, from) => {
                act(effects, Effect::SendAgain { id, document, from });
                None
            }
            Action::Set(setting) => Some(match self.set(&setting) {
                Ok(()) => Outcome::Set,
                Err(failure) => Outcome::Failed(failure),
            }),
        }
    }

    fn make(&mut self, id: CommandId, request: &Request, effects: &mut Effects) -> Result<(), Failure> {
        let (kind, limit) = (request.kind, request.limit);
        if kind == DocumentKind::Audit {
            let Some(commanding) = &mut self.commanding else { return Err(Failure::NoDocument) };
            let Some(audit) = &commanding.audit else { return Err(Failure::NoDocument) };
            let bytes = audit.export(&mut *commanding.flash);
            let bytes = bytes.map_err(|_| Failure::Other(head("the records cannot be read")))?;
            act(effects, Effect::MakeAudit { id, bytes });
            return Ok(());
        }
        let target = self.which(&request.process)?;
        act(effects, Effect::Make { id, kind, target, limit });
        Ok(())
    }

    /// The one target that is meant.
    fn which(&self, which: &Which) -> Result<TargetId, Failure> {
        let mut found = self.watches.iter().filter(|watch| match which {
            Which::Pid(pid) => watch.id.pid == *pid,
            Which::Name(name) => watch.name == *name,
        });
        let first = found.next().ok_or(Failure::NoSuchProcess)?.id;
        match found.count() {
            0 => Ok(first),
            more => Err(Failure::Several(u16::try_from(more + 1).unwrap_or(u16::MAX))),
        }
    }

    fn set(&mut self, setting: &Setting) -> Result<(), Failure> {
        let within = |value: u32, (from, to): (u32, u32)| match (from..=to).contains(&value) {
            true => Ok(value),
            false => Err(Failure::OutOfRange(from, to)),
        };
        let off = || Failure::Other(head("[locks] is off in the board's configuration"));
        match setting {
            Setting::Investigate(which) => {
                let id = self.which(which)?;
                if let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) {
                    watch.asked = true;
                }
            }
            Setting::Growth(window, rise, percent) => {
                let (rise, percent) = (within(*rise, RISE)?, within(*percent, PERCENT)?);
                let growth = &mut self.config.growth;
                let rule = match window {
                    Window::Fast => &mut growth.fast,
                    Window::Medium => &mut growth.medium,
                    Window::Slow => &mut growth.slow,
                };
                (rule.min_rise, rule.min_ratio_percent) = (rise, percent);
            }
            Setting::RemindS(seconds) => {
                self.config.remind_s = within(*seconds, REMIND_S)?;
                if let Some(locks) = &mut self.config.locks {
                    locks.remind_ms = u64::from(*seconds) * 1000;
                }
            }
            Setting::DeadlockS(seconds) => {
                let millis = u64::from(within(*seconds, DEADLOCK_S)?) * 1000;
                self.config.locks.as_mut().ok_or_else(off)?.deadlock_ms = millis;
            }
            Setting::LockWaitS(seconds) => {
                let millis = u64::from(within(*seconds, LOCK_WAIT_S)?) * 1000;
                self.config.locks.as_mut().ok_or_else(off)?.wait_ms = millis;
            }
            Setting::Board => {
                let Some(Commanding { board, .. }) = &self.commanding else { return Ok(()) };
                let Settings { growth, remind_s, locks } = *board;
                (self.config.growth, self.config.remind_s, self.config.locks) = (growth, remind_s, locks);
            }
        }
        Ok(())
    }
}

/// Its place among the variants, as it travels.
fn number(action: &Action) -> u8 {
    match action {
        Action::Ping => 0,
        Action::Make(_) => 1,
        Action::Send(..) => 2,
        Action::Set(_) => 3,
    }
}
