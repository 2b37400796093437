//! Commands from the cloud: which are believed, and what was answered.
//!
//! A command is believed when a key of the board's has signed it, for this device, with a counter that this key has
//! not used yet, while it is still time, and when the key may do that. Its counter is on flash before anything is
//! done: whatever happens then, it is not done twice. The answer to the last command of each key is remembered, so
//! that the same command, sent again because the answer was lost, is answered and not carried out again.

pub mod audit;
#[cfg(test)]
mod audit_tests;
mod rate;
mod state;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use glg_proto::command::{
    Action, Command, CommandId, DocumentKind, Failure, KeyId, Outcome, PublicKey, Received, Refusal,
    Signature, Until,
};
use glg_proto::wire::{ClockQuality, Timestamp};

use rate::{Rate, Spent};
use state::Slot;

/// Keys that one board may have.
pub const KEYS_MAX: usize = 8;
/// Answers to what nobody has signed that may be given at once, and milliseconds after which one more may; others are
/// counted alone.
const UNSIGNED: Rate = Rate { burst: 8, every_ms: 60_000 };
/// The same of what somebody has signed: who has seen a command may publish it again for ever.
const SIGNED: Rate = Rate { burst: 32, every_ms: 10_000 };
/// No honest counter is further ahead of the clock, in milliseconds: `glg` takes the milliseconds since 1970.
const AHEAD_MAX_MS: u64 = 366 * 86_400_000;
/// A command may come so many milliseconds after the moment it was to begin until, because two clocks are compared.
const LENIENT_MS: u64 = 5_000;

/// What is needed of cryptography.
pub trait Crypto {
    /// Whether `signature` is one of `key` over `signed` (Ed25519, RFC 8032).
    fn verify(&self, key: &PublicKey, signed: &[u8], signature: &Signature) -> bool;

    /// SHA-256 over all parts, one after the other.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];
}

/// A key that may send commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandKey {
    /// Its public half.
    pub key: PublicKey,
    /// What it may do.
    pub roles: Roles,
}

/// What a key may do; every key may ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Ask for locks and leaks.
    pub look: bool,
    /// Ask for dumps.
    pub dump: bool,
    /// Change settings.
    pub set: bool,
    /// Ask for what commands came.
    pub audit: bool,
}

impl Roles {
    fn allow(self, action: &Action) -> bool {
        match action {
            // Whether the document is this key's own is seen where it is.
            Action::Ping | Action::Send(..) => true,
            Action::Make(request) => match request.kind {
                DocumentKind::Grouped | DocumentKind::Full => self.dump,
                DocumentKind::Locks | DocumentKind::Leaks => self.look,
                DocumentKind::Audit => self.audit,
            },
            Action::Set(_) => self.set,
        }
    }
}

/// Who the device is, and since when it runs.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// Its name.
    pub name: &'a str,
    /// First eight bytes of the boot id.
    pub boot: [u8; 8],
}

/// What is to be done about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Carry it out, once [`Commands::state`] is on flash; then say [`Commands::finish`].
    Run(CommandId, Action),
    /// Say this.
    Answer(CommandId, Outcome),
    /// Nothing: it is being carried out, or too much has been answered already.
    Nothing,
}

/// Figures about commands, since the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandFigures {
    /// Carried out.
    pub run: u32,
    /// Answered once more.
    pub repeated: u32,
    /// Refused, by [`Refusal::index`].
    pub refused: [u32; Refusal::COUNT],
}

/// All that is known of commands.
pub struct Commands {
    keys: Vec<(CommandKey, Slot)>,
    /// Counters below this are used up whatever the key: what was written down before is lost.
    floor: Floor,
    running: Option<CommandId>,
    unsigned: Spent,
    signed: Spent,
    figures: CommandFigures,
}

/// Below which counter every command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Floor {
    At(u64),
    /// As high as the clock stands, as soon as that can be believed. `glg` counts in milliseconds since 1970.
    Now,
}

impl Commands {
    /// Bytes it takes.
    pub const BYTES: usize = KEYS_MAX * size_of::<(CommandKey, Slot)>();

    /// Begins with what [`Commands::state`] was when it was last written; `None` where nothing ever was. Keys beyond
    /// [`KEYS_MAX`] are left out.
    #[must_use]
    pub fn new(keys: &[CommandKey], written: Option<&[u8]>) -> Commands {
        let (slots, floor) = match written.map(state::read) {
            None => (Vec::new(), Floor::At(0)),
            Some(Some((floor, slots))) => (slots, floor.map_or(Floor::Now, Floor::At)),
            Some(None) => (Vec::new(), Floor::Now),
        };
        let slot = |id: KeyId| {
            let known = slots.iter().find(|slot| slot.key == id);
            known.cloned().unwrap_or_else(|| Slot::new(id))
        };
        // What is remembered of a key that the board no longer has is about to be forgotten.
        let ours = |id: KeyId| keys.iter().any(|key| KeyId::of(&key.key) == id);
        let forgotten = slots.iter().filter(|slot| !ours(slot.key)).map(|slot| slot.counter).max();
        let floor = match floor {
            Floor::At(floor) => Floor::At(floor.max(forgotten.unwrap_or(0))),
            Floor::Now => Floor::Now,
        };
        Commands {
            keys: keys.iter().take(KEYS_MAX).map(|key| (*key, slot(KeyId::of(&key.key)))).collect(),
            floor,
            running: None,
            unsigned: Spent::default(),
            signed: Spent::default(),
            figures: CommandFigures::default(),
        }
    }

    /// Whether there is a key at all; without one commands are off.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Its figures.
    #[must_use]
    pub fn figures(&self) -> CommandFigures {
        self.figures
    }

    /// What has to be on flash before a command is carried out, and after.
    #[must_use]
    pub fn state(&self) -> Vec<u8> {
        let floor = match self.floor {
            Floor::At(floor) => Some(floor),
            Floor::Now => None,
        };
        state::write(floor, self.keys.iter().map(|(_, slot)| slot))
    }

    /// Judges what came.
    pub fn judge(&mut self, now: Timestamp, device: Device<'_>, bytes: &[u8], crypto: &dyn Crypto) -> Judged {
        let (received, index) = match self.signer(bytes, crypto) {
            Ok(found) => found,
            Err((id, refusal)) => {
                let answer = self.refuse(id, refusal);
                return if self.unsigned.may(now.mono_ms, UNSIGNED) { answer } else { Judged::Nothing };
            }
        };
        match self.judge_signed(now, device, &received, index) {
            Judged::Answer(..) if !self.signed.may(now.mono_ms, SIGNED) => Judged::Nothing,
            judged => judged,
        }
    }

    /// Judges what one of the keys has signed.
    fn judge_signed(
        &mut self,
        now: Timestamp,
        device: Device<'_>,
        received: &Received<'_>,
        index: usize,
    ) -> Judged {
        let mut id = CommandId { key: received.key, counter: 0 };
        let command = match received.command() {
            Ok(command) => command,
            Err((refusal, head)) => {
                id.counter = head.map_or(0, |head| head.counter);
                return self.refuse(id, refusal);
            }
        };
        id.counter = command.counter;
        if command.device != device.name {
            return self.refuse(id, Refusal::OtherDevice);
        }
        if let Some(again) = self.again(index, id, received.signature) {
            return again;
        }
        match self.timely(now, device.boot, index, &command) {
            Err(refusal) => self.refuse(id, refusal),
            Ok(()) => self.accept(index, id, received.signature, command.action),
        }
    }

    /// Whoever has signed it, by place in the list of keys.
    fn signer<'b>(
        &self,
        bytes: &'b [u8],
        crypto: &dyn Crypto,
    ) -> Result<(Received<'b>, usize), (CommandId, Refusal)> {
        let received = Received::parse(bytes).map_err(|refusal| (CommandId::default(), refusal))?;
        let id = CommandId { key: received.key, counter: 0 };
        let mut known = false;
        for (index, (key, _)) in self.keys.iter().enumerate() {
            if KeyId::of(&key.key) == received.key {
                known = true;
                if crypto.verify(&key.key, &received.signed(), received.signature) {
                    return Ok((received, index));
                }
            }
        }
        Err((id, if known { Refusal::Forged } else { Refusal::UnknownKey }))
    }

    /// The same command as the last one of this key.
    fn again(&mut self, index: usize, id: CommandId, signature: &Signature) -> Option<Judged> {
        let (_, slot) = self.keys.get(index)?;
        if slot.counter != id.counter || !slot.is_of(signature) {
            return None;
        }
        if self.running == Some(id) {
            return Some(Judged::Nothing);
        }
        self.figures.repeated = self.figures.repeated.saturating_add(1);
        // Begun, and no end was written down.
        let outcome = slot.outcome.clone().unwrap_or(Outcome::Failed(Failure::Interrupted));
        Some(Judged::Answer(id, outcome))
    }

    fn timely(
        &mut self,
        now: Timestamp,
        boot: [u8; 8],
        index: usize,
        command: &Command,
    ) -> Result<(), Refusal> {
        let believed = now.clock != ClockQuality::Wrong;
        if self.floor == Floor::Now {
            if !believed {
                return Err(Refusal::NoClock);
            }
            self.floor = Floor::At(now.wall_ms);
        }
        let Floor::At(floor) = self.floor else { return Err(Refusal::NoClock) };
        // That of a key which is gone must not spoil the others for ever.
        let floor = match believed && floor > now.wall_ms.saturating_add(AHEAD_MAX_MS) {
            true => now.wall_ms,
            false => floor,
        };
        self.floor = Floor::At(floor);
        let used = self.keys.get(index).map_or(u64::MAX, |(_, slot)| slot.counter).max(floor);
        if command.counter <= used {
            return Err(Refusal::Replayed(used));
        }
        let late = match command.until {
            Until::Wall(_) if !believed => return Err(Refusal::NoClock),
            Until::Wall(until) => now.wall_ms > until.saturating_add(LENIENT_MS),
            Until::Boot(of, until) => of != boot || now.mono_ms > until.saturating_add(LENIENT_MS),
        };
        if late { Err(Refusal::Expired) } else { Ok(()) }
    }

    fn accept(&mut self, index: usize, id: CommandId, signature: &Signature, action: Action) -> Judged {
        let Some((key, slot)) = self.keys.get_mut(index) else { return Judged::Nothing };
        if !key.roles.allow(&action) {
            return self.refuse(id, Refusal::NotAllowed);
        }
        if self.running.is_some() {
            return self.refuse(id, Refusal::Busy);
        }
        slot.begin(id.counter, signature);
        self.running = Some(id);
        self.figures.run = self.figures.run.saturating_add(1);
        Judged::Run(id, action)
    }

    /// That it came could not be written down: it is not carried out, and may be sent again.
    pub fn not_recorded(&mut self, id: CommandId) -> Judged {
        self.finish(id, &Outcome::Refused(Refusal::NotRecorded));
        self.refuse(id, Refusal::NotRecorded)
    }

    /// A command has come to its end. The answer is to be said when [`Commands::state`] is on flash.
    pub fn finish(&mut self, id: CommandId, outcome: &Outcome) {
        self.running = self.running.filter(|running| *running != id);
        let slot = self.keys.iter_mut().find(|(_, slot)| slot.key == id.key && slot.counter == id.counter);
        if let Some((_, slot)) = slot {
            slot.outcome = Some(outcome.clone());
        }
    }

    fn refuse(&mut self, id: CommandId, refusal: Refusal) -> Judged {
        if let Some(count) = self.figures.refused.get_mut(refusal.index()) {
            *count = count.saturating_add(1);
        }
        Judged::Answer(id, Outcome::Refused(refusal))
    }
}
