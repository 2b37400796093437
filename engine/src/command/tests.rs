use super::*;
use glg_proto::command::{Request, Setting, Which, sign_command};
use glg_proto::wire::head;

/// Good signatures are those that begin with the sum of what is signed and of the key.
struct Sums;

fn signature(key: &PublicKey, signed: &[u8]) -> Signature {
    let mut out = [0; 64];
    let mut all = key.to_vec();
    all.extend_from_slice(signed);
    out[..4].copy_from_slice(&crate::crc::of(&all).to_le_bytes());
    out
}

impl Crypto for Sums {
    fn sha256(&self, _: &[&[u8]]) -> [u8; 32] {
        [0; 32]
    }

    fn verify(&self, key: &PublicKey, signed: &[u8], given: &Signature) -> bool {
        *given == signature(key, signed)
    }
}

const ALL: Roles = Roles { look: true, dump: true, set: true, audit: true };
const KEY: PublicKey = [7; 32];
const OTHER: PublicKey = [8; 32];
const BOOT: [u8; 8] = [1; 8];
const NOW: u64 = 1_795_000_000_000;
const VAN: Device<'static> = Device { name: "van-7", boot: BOOT };

fn keys() -> [CommandKey; 2] {
    let pings = Roles::default();
    [CommandKey { key: KEY, roles: ALL }, CommandKey { key: OTHER, roles: pings }]
}

fn at(wall_ms: u64, clock: ClockQuality) -> Timestamp {
    Timestamp { mono_ms: 60_000, wall_ms, clock }
}

fn now() -> Timestamp {
    at(NOW, ClockQuality::Free)
}

fn command(counter: u64, action: Action) -> Command {
    Command { device: head("van-7"), counter, until: Until::Wall(NOW + 1000), action }
}

fn signed(key: &PublicKey, command: &Command) -> Vec<u8> {
    sign_command(command, KeyId::of(key), |signed| signature(key, signed)).unwrap().to_vec()
}

fn judge(commands: &mut Commands, bytes: &[u8]) -> Judged {
    commands.judge(now(), VAN, bytes, &Sums)
}

fn refused(judged: Judged) -> Refusal {
    match judged {
        Judged::Answer(_, Outcome::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn id(counter: u64) -> CommandId {
    CommandId { key: KeyId::of(&KEY), counter }
}

fn dump() -> Action {
    let process = Which::Name(head("gateway"));
    Action::Make(Request { kind: DocumentKind::Grouped, process, limit: 0 })
}

#[test]
fn a_good_command_is_run_once() {
    let mut commands = Commands::new(&keys(), None);
    let bytes = signed(&KEY, &command(5, dump()));
    assert_eq!(judge(&mut commands, &bytes), Judged::Run(id(5), dump()));
    assert_eq!(judge(&mut commands, &bytes), Judged::Nothing, "it is still being carried out");
    let done = Outcome::Failed(Failure::NoSuchProcess);
    commands.finish(id(5), &done);
    assert_eq!(judge(&mut commands, &bytes), Judged::Answer(id(5), done.clone()));
    // Nor by an agent that begins anew.
    let mut commands = Commands::new(&keys(), Some(&commands.state()));
    assert_eq!(judge(&mut commands, &bytes), Judged::Answer(id(5), done));
    assert_eq!(commands.figures().run, 0);
}

#[test]
fn what_was_begun_and_not_ended_is_not_begun_again() {
    let mut commands = Commands::new(&keys(), None);
    let bytes = signed(&KEY, &command(5, dump()));
    assert!(matches!(judge(&mut commands, &bytes), Judged::Run(..)));
    let mut commands = Commands::new(&keys(), Some(&commands.state()));
    let interrupted = Outcome::Failed(Failure::Interrupted);
    assert_eq!(judge(&mut commands, &bytes), Judged::Answer(id(5), interrupted));
}

#[test]
fn every_reason_to_refuse() {
    let mut commands = Commands::new(&keys(), None);
    let mut refusal = |bytes: &[u8]| refused(judge(&mut commands, bytes));
    let good = command(9, Action::Ping);
    assert_eq!(refusal(&[1; 300]), Refusal::Oversized);
    assert_eq!(refusal(&[]), Refusal::Malformed);
    assert_eq!(refusal(&[9; 90]), Refusal::Malformed);
    assert_eq!(refusal(&signed(&[9; 32], &good)), Refusal::UnknownKey);
    let mut forged = signed(&KEY, &good);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(refusal(&forged), Refusal::Forged);
    let elsewhere = Command { device: head("van-8"), ..good.clone() };
    assert_eq!(refusal(&signed(&KEY, &elsewhere)), Refusal::OtherDevice);
    let late = Command { until: Until::Wall(NOW - 6000), ..good.clone() };
    assert_eq!(refusal(&signed(&KEY, &late)), Refusal::Expired);
    let other_boot = Command { until: Until::Boot([2; 8], u64::MAX), ..good.clone() };
    assert_eq!(refusal(&signed(&KEY, &other_boot)), Refusal::Expired);
    assert_eq!(refusal(&signed(&OTHER, &command(1, dump()))), Refusal::NotAllowed);
    assert_eq!(refusal(&signed(&OTHER, &command(1, Action::Set(Setting::Board)))), Refusal::NotAllowed);
    assert_eq!(refusal(&signed(&KEY, &Command { counter: 0, ..good })), Refusal::Replayed(0));
}

#[test]
fn actions_of_later_versions_are_unknown_and_not_malformed() {
    let mut commands = Commands::new(&keys(), None);
    let mut buf = [0; 200];
    let head = glg_proto::command::Head { device: head("van-7"), counter: 3, until: Until::Wall(NOW) };
    let len = postcard::to_slice(&head, &mut buf).unwrap().len();
    let send = |action: &[u8], commands: &mut Commands| {
        let payload = [&buf[..len], action].concat();
        let key = KeyId::of(&KEY);
        let words = [b"glg command 1:", &key.0[..], &payload].concat();
        let frame = [&[1], &key.0[..], &signature(&KEY, &words), &payload].concat();
        judge(commands, &frame)
    };
    assert_eq!(
        send(&[glg_proto::command::ACTIONS, 1, 2, 3], &mut commands),
        Judged::Answer(id(3), Outcome::Refused(Refusal::Unknown))
    );
    assert_eq!(
        send(&[0, 1], &mut commands),
        Judged::Answer(id(3), Outcome::Refused(Refusal::Malformed)),
        "a byte too many"
    );
    assert_eq!(send(&[0], &mut commands), Judged::Run(id(3), Action::Ping));
}

#[test]
fn counters_are_used_up_by_each_key_for_itself() {
    let mut commands = Commands::new(&keys(), None);
    let run = |commands: &mut Commands, key: &PublicKey, counter| {
        let judged = judge(commands, &signed(key, &command(counter, Action::Ping)));
        if let Judged::Run(id, _) = judged {
            commands.finish(id, &Outcome::Set);
        }
        judged
    };
    assert!(matches!(run(&mut commands, &KEY, 100), Judged::Run(..)));
    assert!(matches!(run(&mut commands, &OTHER, 50), Judged::Run(..)));
    assert_eq!(refused(run(&mut commands, &KEY, 99)), Refusal::Replayed(100));
    // The same counter with other words is another command.
    let same = Command { device: head("van-7"), until: Until::Wall(NOW + 2), ..command(100, dump()) };
    assert_eq!(refused(judge(&mut commands, &signed(&KEY, &same))), Refusal::Replayed(100));
    // A key that the board loses and gets back has not got its counters back.
    let without = Commands::new(&keys()[1..], Some(&commands.state()));
    let mut again = Commands::new(&keys(), Some(&without.state()));
    assert_eq!(refused(run(&mut again, &KEY, 100)), Refusal::Replayed(100));
    assert!(matches!(run(&mut again, &KEY, 101), Judged::Run(..)));
}

#[test]
fn one_at_a_time() {
    let mut commands = Commands::new(&keys(), None);
    assert!(matches!(judge(&mut commands, &signed(&KEY, &command(1, dump()))), Judged::Run(..)));
    let ping = signed(&KEY, &command(2, Action::Ping));
    assert_eq!(refused(judge(&mut commands, &ping)), Refusal::Busy);
    commands.finish(id(1), &Outcome::Set);
    assert!(matches!(judge(&mut commands, &ping), Judged::Run(..)), "busy has used no counter up");
}

#[test]
fn without_a_clock_only_commands_of_this_boot() {
    let mut commands = Commands::new(&keys(), None);
    let wrong = at(1000, ClockQuality::Wrong);
    let bytes = signed(&KEY, &command(1, Action::Ping));
    assert_eq!(refused(commands.judge(wrong, VAN, &bytes, &Sums)), Refusal::NoClock);
    let of_boot = Command { until: Until::Boot(BOOT, 60_000), ..command(1, Action::Ping) };
    let bytes = signed(&KEY, &of_boot);
    assert!(matches!(commands.judge(wrong, VAN, &bytes, &Sums), Judged::Run(..)));
}

#[test]
fn damage_uses_up_everything_that_was_issued_before() {
    let state = {
        let mut commands = Commands::new(&keys(), None);
        let _ = judge(&mut commands, &signed(&KEY, &command(NOW - 10, Action::Ping)));
        commands.state()
    };
    for flip in 0..state.len() * 8 {
        let mut damaged = state.clone();
        damaged[flip / 8] ^= 1 << (flip % 8);
        let mut commands = Commands::new(&keys(), Some(&damaged));
        let old = signed(&KEY, &command(NOW - 10, Action::Ping));
        assert_eq!(refused(judge(&mut commands, &old)), Refusal::Replayed(NOW));
        let new = signed(&KEY, &command(NOW + 1, Action::Ping));
        assert!(matches!(judge(&mut commands, &new), Judged::Run(..)));
        // Written down as well.
        let mut commands = Commands::new(&keys(), Some(&commands.state()));
        assert_eq!(
            refused(judge(&mut commands, &signed(&OTHER, &command(NOW, Action::Ping)))),
            Refusal::Replayed(NOW)
        );
    }
    for cut in 0..state.len() {
        let mut commands = Commands::new(&keys(), Some(&state[..cut]));
        let wrong = at(5, ClockQuality::Wrong);
        let of_boot = Command { until: Until::Boot(BOOT, 60_000), ..command(NOW - 10, Action::Ping) };
        assert_eq!(refused(commands.judge(wrong, VAN, &signed(&KEY, &of_boot), &Sums)), Refusal::NoClock);
    }
}

#[test]
fn rubbish_is_not_answered_for_ever() {
    let mut commands = Commands::new(&keys(), None);
    let mut answered = 0;
    for minute in 0..10 {
        for _ in 0..1000 {
            let now = Timestamp { mono_ms: minute * 60_000, ..now() };
            let judged = commands.judge(now, VAN, b"rubbish", &Sums);
            answered += usize::from(judged != Judged::Nothing);
        }
    }
    assert_eq!(answered, 8 + 9);
    assert_eq!(commands.figures().refused[Refusal::Malformed.index()], 10_000);
    assert!(matches!(judge(&mut commands, &signed(&KEY, &command(1, Action::Ping))), Judged::Run(..)));
}

#[test]
fn what_was_seen_once_is_not_answered_for_ever() {
    let mut commands = Commands::new(&keys(), None);
    let bytes = signed(&KEY, &command(5, Action::Ping));
    assert!(matches!(judge(&mut commands, &bytes), Judged::Run(..)));
    commands.finish(id(5), &Outcome::Set);
    let answered = (0..1000).filter(|_| judge(&mut commands, &bytes) != Judged::Nothing).count();
    assert_eq!(answered, 32);
    // A new one is carried out all the same.
    assert!(matches!(judge(&mut commands, &signed(&KEY, &command(6, Action::Ping))), Judged::Run(..)));
}

#[test]
fn a_key_that_is_gone_does_not_lock_out_the_others() {
    let mut commands = Commands::new(&keys(), None);
    assert!(matches!(judge(&mut commands, &signed(&KEY, &command(u64::MAX, Action::Ping))), Judged::Run(..)));
    let mut without = Commands::new(&keys()[1..], Some(&commands.state()));
    let honest = signed(&OTHER, &command(NOW + 1, Action::Ping));
    assert!(matches!(judge(&mut without, &honest), Judged::Run(..)));
}

#[test]
fn the_state_of_eight_keys_with_the_longest_answers_fits() {
    let keys: Vec<CommandKey> =
        (0..8).map(|i| CommandKey { key: [i; 32], roles: Roles::default() }).collect();
    let mut commands = Commands::new(&keys, None);
    for (_, slot) in &mut commands.keys {
        slot.counter = u64::MAX;
        slot.outcome = Some(Outcome::Failed(Failure::Other(head(&"x".repeat(96)))));
    }
    let state = commands.state();
    assert!(state.len() <= state::STATE_MAX + 4, "{}", state.len());
    let again = Commands::new(&keys, Some(&state));
    assert_eq!(again.state(), state);
    assert!(again.keys.iter().all(|(_, slot)| slot.counter == u64::MAX));
}
