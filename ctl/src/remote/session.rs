//! One command and its answer: signed, published until it is answered, and the answer held against the device's key.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use glg_proto::command::{
    Action, Command, CommandId, Outcome, Receipt, Refusal, SignedReceipt, Until, sign_command,
};
use glg_proto::topics::Topic;
use glg_proto::wire::{self, Body, ClockQuality, Envelope, head};
use ring::signature::{ED25519, UnparsedPublicKey};
use tokio::time::Instant;

use super::link::{Incoming, Link};
use super::words;
use crate::connect::Connect;
use crate::console::{now_ms, say};
use crate::devices::Devices;
use crate::keys::Key;
use crate::text::{hex, span};

/// How long the broker may take to hand over what it keeps of the device's state.
const STATE: Duration = Duration::from_secs(2);
/// The longest wait before a command is published again, as a multiple of the first.
const AGAIN_MAX: u32 = 6;

/// What is asked for with every command.
pub(crate) struct Terms {
    /// Whom.
    pub(crate) device: String,
    /// How long a command may wait for the device.
    pub(crate) valid: Duration,
    /// How long we wait for its answer.
    pub(crate) patience: Duration,
    /// Without an answer for so long the same bytes are published again: the device does not do it twice.
    pub(crate) again: Duration,
    /// Silence after which missing parts are asked for.
    pub(crate) silence: Duration,
}

/// Where the device's own clock stands, by its signed word.
struct Position {
    boot: [u8; 8],
    mono_ms: u64,
    seen: Instant,
    clock: ClockQuality,
}

/// An answer that is believed.
pub(crate) struct Answer {
    pub(crate) id: CommandId,
    pub(crate) receipt: Receipt,
    /// As it came, with its signature.
    pub(crate) bytes: Vec<u8>,
    /// From the first time the command was published.
    pub(crate) took: Duration,
}

/// A conversation with one device.
pub(crate) struct Session<'k> {
    link: Link,
    key: &'k Key,
    devices: &'k Devices,
    terms: Terms,
    state: Option<Envelope>,
    position: Option<Position>,
    /// What has been said already, and is not said again.
    nobody_said: bool,
}

/// What happened.
pub(crate) enum Event {
    /// Subscribed, for the first time or again.
    Ready,
    /// A receipt as it came.
    Receipt(Vec<u8>),
    /// A part as it came.
    Part(Vec<u8>),
    /// The device's state has come.
    State,
    /// Nothing by then.
    Nothing,
}

impl<'k> Session<'k> {
    /// Connects, and learns from the broker how the device was last.
    pub(crate) async fn open(
        connect: Connect,
        terms: Terms,
        key: &'k Key,
        devices: &'k Devices,
    ) -> Result<Session<'k>> {
        let link = Link::open(connect, &terms.device)?;
        let mut session =
            Session { link, key, devices, terms, state: None, position: None, nobody_said: false };
        let deadline = Instant::now() + session.terms.patience;
        while !matches!(session.next(deadline).await?, Event::Ready) {
            if Instant::now() >= deadline {
                bail!("no connection to the broker within {}", span(session.terms.patience.as_secs()));
            }
        }
        let deadline = Instant::now() + STATE;
        while session.state.is_none() && !matches!(session.next(deadline).await?, Event::Nothing) {}
        session.tell_state();
        Ok(session)
    }

    pub(crate) fn device(&self) -> &str {
        &self.terms.device
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(crate) async fn close(self) {
        self.link.close().await;
    }

    /// Only when the device does not seem to be there: its absence is why one waits.
    fn tell_state(&self) {
        let device = &self.terms.device;
        let keeps = span(self.terms.valid.as_secs());
        match self.state.as_ref().map(|state| &state.body) {
            None => {
                say(&format!("The broker knows nothing of {device}. Is the name right, and was it ever on?"));
            }
            Some(Body::Offline | Body::Vanished) => say(&format!(
                "{device} is offline. The command waits for it at the broker for {keeps}, if the broker keeps its session."
            )),
            Some(_) => {}
        }
    }

    /// The next event that matters.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Event> {
        loop {
            let Some(incoming) = self.link.next(deadline).await else { return Ok(Event::Nothing) };
            match incoming {
                Incoming::Ready(_) => return Ok(Event::Ready),
                Incoming::Lost(reason) => say(&format!("broker: {}; trying again", words::one_line(&reason))),
                Incoming::Forbidden(reason) => bail!(reason),
                Incoming::Nobody if !self.nobody_said => {
                    self.nobody_said = true;
                    say(&format!(
                        "Nobody takes commands for {} at this broker now: it is off, or has no [[command.key]].",
                        self.terms.device
                    ));
                }
                Incoming::Message(Topic::Receipt, bytes) => return Ok(Event::Receipt(bytes)),
                Incoming::Message(Topic::Document, bytes) => return Ok(Event::Part(bytes)),
                Incoming::Message(Topic::State, bytes) => {
                    let envelope = wire::decode(&bytes).ok();
                    self.state =
                        envelope.filter(|state| *state.device == *self.terms.device).or(self.state.take());
                    return Ok(Event::State);
                }
                Incoming::Message(..) | Incoming::Nobody => {}
            }
        }
    }

    /// Asks until it is answered or patience ends. Parts of documents that come meanwhile go to `on_part`.
    pub(crate) async fn ask(
        &mut self,
        action: &Action,
        mut on_part: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Answer> {
        let deadline = Instant::now() + self.terms.patience;
        if let Some(boot) = self.boot_of_wrong_clock() {
            // How long the device has been running is known to itself alone; a ping does no harm whenever it comes.
            let until = Until::Boot(boot, u64::MAX);
            self.ask_once(&Action::Ping, until, deadline, &mut on_part).await?;
        }
        let answer = self.ask_once(action, self.until(), deadline, &mut on_part).await?;
        let begin_anew = match answer.receipt.outcome {
            Outcome::Refused(Refusal::NoClock) => true,
            Outcome::Refused(Refusal::Replayed(used)) => self.passed_by(used)?,
            _ => false,
        };
        match begin_anew {
            true => self.ask_once(action, self.until(), deadline, &mut on_part).await,
            false => Ok(answer),
        }
    }

    /// The boot of a device whose clock was wrong at its birth, as long as it has not told us more.
    fn boot_of_wrong_clock(&self) -> Option<[u8; 8]> {
        let state = self.state.as_ref().filter(|_| self.position.is_none())?;
        let online = matches!(state.body, Body::Online(_));
        (online && state.at.clock == ClockQuality::Wrong).then_some(state.boot)
    }

    /// The key has been used with this counter, by another computer: whether to go on from there. A counter far in the
    /// future would spoil the key.
    fn passed_by(&self, used: u64) -> Result<bool> {
        const YEAR_MS: u64 = 366 * 86_400_000;
        let sane = used < now_ms().saturating_add(YEAR_MS);
        if sane {
            self.key.raise_to(used)?;
        }
        Ok(sane)
    }

    fn until(&self) -> Until {
        let valid = u64::try_from(self.terms.valid.as_millis()).unwrap_or(u64::MAX);
        match &self.position {
            Some(position) if position.clock == ClockQuality::Wrong => {
                let since = u64::try_from(position.seen.elapsed().as_millis()).unwrap_or(u64::MAX);
                let now = position.mono_ms.saturating_add(since);
                Until::Boot(position.boot, now.saturating_add(valid))
            }
            _ => Until::Wall(now_ms().saturating_add(valid)),
        }
    }

    async fn ask_once(
        &mut self,
        action: &Action,
        until: Until,
        deadline: Instant,
        on_part: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Answer> {
        let id = CommandId { key: self.key.id(), counter: self.key.counter(now_ms())? };
        let command =
            Command { device: head(&self.terms.device), counter: id.counter, until, action: action.clone() };
        let frame = sign_command(&command, id.key, |signed| self.key.sign(signed));
        let frame = frame.ok().context("the command does not fit")?;
        let (began, mut wait) = (Instant::now(), self.terms.again);
        self.publish(&frame, began);
        let mut next = began + wait;
        loop {
            match self.next(next.min(deadline)).await? {
                Event::Ready => self.publish(&frame, began),
                Event::Part(bytes) => on_part(&bytes)?,
                Event::Receipt(bytes) => {
                    if let Some(receipt) = self.believe(&bytes, id)? {
                        return Ok(Answer { id, receipt, bytes, took: began.elapsed() });
                    }
                }
                Event::State | Event::Nothing => {}
            }
            let now = Instant::now();
            if now >= deadline {
                let keeps = self.terms.valid.saturating_sub(began.elapsed());
                bail!(words::no_answer(&self.terms.device, self.terms.patience, keeps));
            }
            if now >= next {
                self.publish(&frame, began);
                wait = (wait * 3 / 2).min(self.terms.again * AGAIN_MAX);
                next = now + wait;
            }
        }
    }

    fn publish(&self, frame: &[u8], began: Instant) {
        self.link.publish(frame, self.terms.valid.saturating_sub(began.elapsed()));
    }

    /// The receipt, when it is this device's and answers this command; what pretends to be is told.
    fn believe(&mut self, bytes: &[u8], id: CommandId) -> Result<Option<Receipt>> {
        let Ok(signed) = SignedReceipt::parse(bytes) else {
            say(&format!("An answer cannot be read, and is passed over: it begins with {}", hex(bytes, 16)));
            return Ok(None);
        };
        let answers = signed.receipt.command;
        // Of what cannot be read or is signed by nobody it knows, the device cannot tell the counter.
        let names_none = answers == CommandId { counter: 0, ..id };
        if answers != id && !names_none || *signed.receipt.device != *self.terms.device {
            return Ok(None);
        }
        if !is_signed(&signed) {
            say("An answer bears a FORGED signature, and is passed over: somebody else is on this topic.");
            return Ok(None);
        }
        if names_none {
            // Anybody can have one made, and send it again: nothing is learnt of the device from it.
            let known = self.devices.known(&self.terms.device)?;
            let may_be_its = known.is_none_or(|known| known == *signed.device_key);
            return Ok(may_be_its.then_some(signed.receipt));
        }
        if self.devices.check(&self.terms.device, signed.device_key)? {
            say(&format!(
                "{} is new here: its key {} is remembered in {}",
                self.terms.device,
                hex(signed.device_key, 32),
                self.devices.file().display()
            ));
        }
        let receipt = signed.receipt;
        let (mono_ms, clock) = (receipt.at.mono_ms, receipt.at.clock);
        self.position = Some(Position { boot: receipt.boot, mono_ms, seen: Instant::now(), clock });
        Ok(Some(receipt))
    }
}

/// Whether a receipt bears a signature of the key it names.
pub(crate) fn is_signed(receipt: &SignedReceipt<'_>) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, receipt.device_key);
    key.verify(&receipt.signed(), receipt.signature).is_ok()
}
