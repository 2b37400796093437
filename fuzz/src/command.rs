//! What comes where commands arrive, and what an agent finds written down of earlier ones.

use glg_engine::command::{CommandKey, Commands, Crypto, Device, Judged, Roles};
use glg_engine::crc;
use glg_proto::command::{
    Action, COMMAND_MAX, Command, CommandId, DocumentKind, Failure, KeyId, Made, Outcome, Pong, PublicKey,
    Received, Refusal, Request, Setting, Signature, Until, Which, Window, sign_command,
};
use glg_proto::wire::{ClockQuality, Timestamp, head};

const KEYS: [PublicKey; 2] = [[7; 32], [8; 32]];
const BOOT: [u8; 8] = [1; 8];
const VAN: Device<'static> = Device { name: "van-7", boot: BOOT };
const NOW: Timestamp = Timestamp { mono_ms: 60_000, wall_ms: 1_795_000_000_000, clock: ClockQuality::Synced };

/// Every signature is good: what is behind the signature is what is tried.
pub(crate) struct Anybody;

impl Crypto for Anybody {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }

    fn sha256(&self, _: &[&[u8]]) -> [u8; 32] {
        [0; 32]
    }
}

/// Any bytes are refused or a command, which is run once, by this agent and the next; and an agent begins on any
/// state.
///
/// # Panics
/// When that does not hold.
pub fn check(data: &[u8]) {
    match data.split_first() {
        Some((0, bytes)) => check_frame(bytes),
        Some((_, bytes)) => check_state(bytes),
        None => {}
    }
}

fn check_frame(bytes: &[u8]) {
    let mut commands = Commands::new(&keys(), None);
    let judged = judge(&mut commands, bytes);
    let command = Received::parse(bytes).ok().and_then(|received| Some((received, received.command().ok()?)));
    let Some((received, command)) = command else {
        assert!(!matches!(judged, Judged::Run(..)), "run, and no command");
        return;
    };
    let signed = sign_command(&command, received.key, |_| *received.signature);
    let again = signed.as_deref().map(|bytes| Received::parse(bytes).map(|received| received.command()));
    assert_eq!(again, Ok(Ok(Ok(command.clone()))), "it changes on its way");
    let Judged::Run(id, action) = judged else { return };
    assert_eq!((id.key, id.counter, &action), (received.key, command.counter, &command.action));
    assert_eq!(judge(&mut commands, bytes), Judged::Nothing, "run twice at a time");
    let mut next = Commands::new(&keys(), Some(&commands.state()));
    let interrupted = Outcome::Failed(Failure::Interrupted);
    assert_eq!(judge(&mut next, bytes), Judged::Answer(id, interrupted), "run by the next agent, too");
    commands.finish(id, &Outcome::Set);
    let mut next = Commands::new(&keys(), Some(&commands.state()));
    for commands in [&mut commands, &mut next] {
        assert_eq!(judge(commands, bytes), Judged::Answer(id, Outcome::Set), "run, and run again");
    }
}

/// The sum is made good: what is behind it is what is tried.
fn check_state(bytes: &[u8]) {
    let mut commands = Commands::new(&keys(), Some(bytes));
    let _ = judge(&mut commands, &last_of_all(KEYS[0]));
    let written = [bytes, &crc::of(bytes).to_le_bytes()].concat();
    let mut commands = Commands::new(&keys(), Some(&written));
    let state = commands.state();
    assert_eq!(Commands::new(&keys(), Some(&state)).state(), state, "it changes from agent to agent");
    for key in KEYS {
        let bytes = last_of_all(key);
        let first = judge(&mut commands, &bytes);
        if let Judged::Run(id, _) = &first {
            commands.finish(*id, &Outcome::Set);
        }
        let mut next = Commands::new(&keys(), Some(&commands.state()));
        assert!(!matches!(judge(&mut next, &bytes), Judged::Run(..)), "run, and run again");
    }
}

/// No counter is larger.
fn last_of_all(key: PublicKey) -> Vec<u8> {
    frame(key, &Command { counter: u64::MAX, ..command(Action::Ping) })
}

fn judge(commands: &mut Commands, bytes: &[u8]) -> Judged {
    commands.judge(NOW, VAN, bytes, &Anybody)
}

fn keys() -> [CommandKey; 2] {
    let roles = Roles { look: true, dump: true, set: true, audit: true };
    KEYS.map(|key| CommandKey { key, roles })
}

fn command(action: Action) -> Command {
    Command { device: head("van-7"), counter: 300, until: Until::Wall(NOW.wall_ms + 1000), action }
}

fn frame(key: PublicKey, command: &Command) -> Vec<u8> {
    let signed = sign_command(command, KeyId::of(&key), |_| [9; 64]);
    signed.map(|bytes| bytes.to_vec()).unwrap_or_default()
}

/// Longest input: a frame that is too long by some bytes, or the state of all keys.
pub const MAX_LEN: usize = 8 * COMMAND_MAX;

/// Each action, and what is written down of some.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let make = |kind, process| Action::Make(Request { kind, process, limit: 500 });
    let id = CommandId { key: KeyId::of(&KEYS[0]), counter: 299 };
    let actions = [
        Action::Ping,
        make(DocumentKind::Grouped, Which::Name(head("ota-gateway"))),
        make(DocumentKind::Audit, Which::Pid(1412)),
        Action::Send(id, 70),
        Action::Set(Setting::Investigate(Which::Name(head("ota-gateway")))),
        Action::Set(Setting::Growth(Window::Slow, 500, 50)),
        Action::Set(Setting::Board),
    ];
    let mut seeds: Vec<Vec<u8>> =
        actions.into_iter().map(|action| [vec![0], frame(KEYS[0], &command(action))].concat()).collect();
    let boot = Command { until: Until::Boot(BOOT, 90_000), ..command(Action::Ping) };
    seeds.push([vec![0], frame(KEYS[1], &boot)].concat());
    seeds.extend(outcomes().into_iter().map(|outcome| {
        let mut commands = Commands::new(&keys(), None);
        if let Judged::Run(id, _) = judge(&mut commands, &frame(KEYS[0], &command(Action::Ping))) {
            commands.finish(id, &outcome);
        }
        let mut state = commands.state();
        state.truncate(state.len().saturating_sub(4));
        [vec![1], state].concat()
    }));
    seeds
}

/// One of each.
pub(crate) fn outcomes() -> Vec<Outcome> {
    let kind = DocumentKind::Full;
    vec![
        Outcome::Pong(Pong { agent: head("0.1.0"), targets: 3, waiting: 12 }),
        Outcome::Made(Made { kind, pid: 1412, bytes: 70_000, part_bytes: 4096, sha256: [5; 32] }),
        Outcome::Sending,
        Outcome::Refused(Refusal::Replayed(1_795_000_000_000)),
        Outcome::Failed(Failure::OutOfRange(1, 1000)),
        Outcome::Failed(Failure::Other(head("the board has no command.audit_recipient to encrypt it to"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::Mutator;

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = Mutator::new(&seeds, 1, MAX_LEN);
        let (mut run, mut kept) = (0, 0);
        for input in (0..10_000).map(|_| mutator.next_input()) {
            let Some((which, bytes)) = input.split_first() else { continue };
            if *which == 0 {
                let judged = judge(&mut Commands::new(&keys(), None), bytes);
                run += usize::from(matches!(judged, Judged::Run(..)));
            } else {
                let written = [bytes, &crc::of(bytes).to_le_bytes()].concat();
                let mut commands = Commands::new(&keys(), Some(&written));
                // Of a state that cannot be read the clock is the floor.
                let refused = judge(&mut commands, &frame(KEYS[1], &command(Action::Ping)));
                let lost = Judged::Answer(
                    CommandId { key: KeyId::of(&KEYS[1]), counter: 300 },
                    Outcome::Refused(Refusal::Replayed(NOW.wall_ms)),
                );
                kept += usize::from(refused != lost);
            }
        }
        assert!((300..5_000).contains(&run), "{run} of 10000 inputs are run");
        assert!((300..5_000).contains(&kept), "{kept} of 10000 inputs are a state");
    }
}
