//! Commands as the engine carries them out, and what it does when that cannot be written down.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use glg_engine::command::{CommandKey, Crypto, Roles};
use glg_engine::flash::{File, Flash, FlashError, Kind};
use glg_engine::step::{Effect, Event, Input};
use glg_proto::command::{
    Action, Command, CommandId, DocumentKind, Failure, KeyId, Outcome, PublicKey, Refusal, Request, Setting,
    Signature, Until, Which, Window, sign_command,
};
use glg_proto::wire::{ClockQuality, Timestamp, head};

use crate::stand::{ID, Stand, config, growing};

const KEY: PublicKey = [3; 32];

/// Believes a signature that is all zeroes.
struct Credulous;

impl Crypto for Credulous {
    fn verify(&self, _: &PublicKey, _: &[u8], signature: &Signature) -> bool {
        *signature == [0; 64]
    }

    fn sha256(&self, _: &[&[u8]]) -> [u8; 32] {
        [0; 32]
    }
}

/// Files in memory, which may refuse to be written.
#[derive(Clone, Default)]
struct Files(Rc<RefCell<Content>>);

/// The files, and whether they refuse to be written.
type Content = (BTreeMap<File, Vec<u8>>, bool);

impl Files {
    fn write(&self, file: File, change: impl FnOnce(&mut Vec<u8>)) -> Result<(), FlashError> {
        let mut files = self.0.borrow_mut();
        match files.1 {
            true => Err(FlashError::NoSpace),
            false => {
                change(files.0.entry(file).or_default());
                Ok(())
            }
        }
    }
}

impl Flash for Files {
    fn list(&mut self, each: &mut dyn FnMut(File, u64)) -> Result<(), FlashError> {
        self.0.borrow().0.iter().for_each(|(file, bytes)| each(*file, bytes.len() as u64));
        Ok(())
    }

    fn read(&mut self, file: File, at: u64, into: &mut [u8]) -> Result<usize, FlashError> {
        let files = self.0.borrow();
        let bytes = &files.0.get(&file).ok_or(FlashError::Missing)?[at as usize..];
        let len = bytes.len().min(into.len());
        into[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn append(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        self.write(file, |content| content.extend(bytes))
    }

    fn sync(&mut self, _: File) -> Result<(), FlashError> {
        Ok(())
    }

    fn replace(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        self.write(file, |content| *content = bytes.to_vec())
    }

    fn remove(&mut self, file: File) -> Result<(), FlashError> {
        self.0.borrow_mut().0.remove(&file);
        Ok(())
    }
}

fn obedient(files: &Files) -> Stand {
    let mut stand = Stand::watched(config());
    let roles = Roles { look: true, dump: true, set: true, audit: true };
    let now = Timestamp { mono_ms: stand.now_ms, wall_ms: 0, clock: ClockQuality::Wrong };
    let key = CommandKey { key: KEY, roles };
    stand.engine.obey(now, &[key], Box::new(files.clone()), Box::new(Credulous)).unwrap();
    stand
}

fn id(counter: u64) -> CommandId {
    CommandId { key: KeyId::of(&KEY), counter }
}

/// Sends a command; the effects that are about it.
fn send(stand: &mut Stand, counter: u64, action: Action) -> Vec<Effect> {
    let command = Command { device: head("van-7"), counter, until: Until::Boot([7; 8], u64::MAX), action };
    let bytes = sign_command(&command, KeyId::of(&KEY), |_| [0; 64]).unwrap();
    stand.effects.clear();
    stand.plain(Input::Command(&bytes));
    std::mem::take(&mut stand.effects)
}

fn answer(effects: &[Effect]) -> &Outcome {
    match effects {
        [Effect::Answer { outcome, .. }] => outcome,
        other => panic!("no answer: {other:?}"),
    }
}

fn make(process: Which) -> Action {
    Action::Make(Request { kind: DocumentKind::Full, process, limit: 9 })
}

#[test]
fn a_document_is_asked_of_the_agent_and_its_end_is_answered() {
    let files = Files::default();
    let mut stand = obedient(&files);
    let effects = send(&mut stand, 1, make(Which::Name(head("gateway"))));
    let wanted = Effect::Make { id: id(1), kind: DocumentKind::Full, target: ID, limit: 9 };
    assert_eq!(effects, [wanted]);
    // Its counter is on flash before anything is done, and the answer before it is said.
    let counters = File { kind: Kind::Counter, number: 0 };
    let begun = files.0.borrow().0[&counters].clone();
    let outcome = Outcome::Failed(Failure::TookTooLong(3));
    stand.plain(Input::CommandDone { id: id(1), outcome: outcome.clone() });
    assert_eq!(*answer(&std::mem::take(&mut stand.effects)), outcome);
    assert_ne!(files.0.borrow().0[&counters], begun);
    for (counter, which, failure) in [
        (2, Which::Pid(ID.pid + 1), Failure::NoSuchProcess),
        (3, Which::Name(head("gatewa")), Failure::NoSuchProcess),
    ] {
        assert_eq!(*answer(&send(&mut stand, counter, make(which))), Outcome::Failed(failure));
    }
    // A document belongs to the key that asked for it.
    let other = CommandId { key: KeyId([9; 8]), counter: 1 };
    let again = send(&mut stand, 4, Action::Send(other, 0));
    assert_eq!(*answer(&again), Outcome::Failed(Failure::NoDocument));
    let again = send(&mut stand, 5, Action::Send(id(1), 7));
    assert_eq!(again, [Effect::SendAgain { id: id(5), document: id(1), from: 7 }]);
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let files = Files::default();
    let mut stand = obedient(&files);
    files.0.borrow_mut().1 = true;
    let refused = send(&mut stand, 1, make(Which::Pid(ID.pid)));
    assert_eq!(*answer(&refused), Outcome::Refused(Refusal::NotRecorded));
    files.0.borrow_mut().1 = false;
    let done = send(&mut stand, 2, make(Which::Pid(ID.pid)));
    assert!(matches!(done[..], [Effect::Make { .. }]), "{done:?}");
}

#[test]
fn settings_hold_until_the_board_is_asked_for_again() {
    let files = Files::default();
    let mut stand = obedient(&files);
    // 60 more within the fast window, where the board wants 200.
    let few = |second: u32| 100 + 4 * second.min(30);
    stand.run(60, few);
    assert!(!stand.events.iter().any(growing), "{:?}", stand.events);
    let set =
        |stand: &mut Stand, counter, setting| answer(&send(stand, counter, Action::Set(setting))).clone();
    let too_low = set(&mut stand, 1, Setting::Growth(Window::Fast, 0, 10));
    assert_eq!(too_low, Outcome::Failed(Failure::OutOfRange(1, 1_000_000)));
    assert_eq!(set(&mut stand, 2, Setting::Growth(Window::Fast, 20, 10)), Outcome::Set);
    stand.run(60, |second| 220 + 4 * second);
    assert!(stand.events.iter().any(growing), "{:?}", stand.events);
    for (counter, setting) in [
        (3, Setting::RemindS(60)),
        (4, Setting::DeadlockS(2)),
        (5, Setting::LockWaitS(10)),
        (6, Setting::Board),
    ] {
        assert_eq!(set(&mut stand, counter, setting), Outcome::Set);
    }
    let mut stand = obedient(&files);
    assert_eq!(set(&mut stand, 7, Setting::Growth(Window::Fast, 20, 10)), Outcome::Set);
    assert_eq!(set(&mut stand, 8, Setting::Board), Outcome::Set);
    stand.run(60, few);
    assert!(!stand.events.iter().any(growing), "{:?}", stand.events);
}

#[test]
fn a_process_is_looked_at_because_somebody_asks() {
    let files = Files::default();
    let mut stand = obedient(&files);
    let investigate = Action::Set(Setting::Investigate(Which::Pid(ID.pid)));
    assert_eq!(*answer(&send(&mut stand, 1, investigate)), Outcome::Set);
    stand.run(20, |_| 100);
    assert!(stand.events.iter().any(growing), "{:?}", stand.events);
    // The probes that would count creations are attached as for growth.
    assert!(matches!(stand.effects[..], [Effect::Attach { .. }]), "{:?}", stand.effects);
    stand.plain(Input::NotAttached(ID));
    stand.run(20, |_| 100);
    assert!(stand.events.contains(&Event::NotConfirmed), "{:?}", stand.events);
}
