//! Bytes of commands, receipts and parts are pinned, and everything else is refused without a panic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use glg_proto::command::{
    ACTIONS, Action, COMMAND_MAX, Command, CommandId, DocumentKind, Failure, KeyId, Made, Outcome,
    PART_HEAD_MAX, Part, Pong, RECEIPT_MAX, Receipt, Received, Refusal, Request, Setting, SignedReceipt,
    Until, Which, Window, sign_command, sign_receipt,
};
use glg_proto::wire::{ClockQuality, DecodeError, Timestamp, head};

const KEY: KeyId = KeyId([0xaa; 8]);
const AT: Timestamp = Timestamp { mono_ms: 1, wall_ms: 2, clock: ClockQuality::Synced };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ping() -> Command {
    Command { device: head("van-7"), counter: 300, until: Until::Wall(301), action: Action::Ping }
}

fn every_action() -> Vec<(Action, &'static str)> {
    let process = Which::Name(head("ota"));
    let request = |kind| Request { kind, process: process.clone(), limit: 7 };
    let id = CommandId { key: KEY, counter: 9 };
    let key = "aaaaaaaaaaaaaaaa";
    assert_eq!(hex(&KEY.0), key);
    vec![
        (Action::Ping, "00"),
        (Action::Make(request(DocumentKind::Grouped)), "010001036f746107"),
        (Action::Make(request(DocumentKind::Full)), "010101036f746107"),
        (Action::Make(request(DocumentKind::Locks)), "010201036f746107"),
        (Action::Make(request(DocumentKind::Leaks)), "010301036f746107"),
        (Action::Make(Request { process: Which::Pid(1), ..request(DocumentKind::Audit) }), "0104000107"),
        (Action::Send(id, 5), "02aaaaaaaaaaaaaaaa0905"),
        (Action::Set(Setting::Investigate(Which::Pid(3))), "03000003"),
        (Action::Set(Setting::Growth(Window::Fast, 4, 5)), "0301000405"),
        (Action::Set(Setting::Growth(Window::Medium, 4, 5)), "0301010405"),
        (Action::Set(Setting::Growth(Window::Slow, 4, 5)), "0301020405"),
        (Action::Set(Setting::RemindS(6)), "030206"),
        (Action::Set(Setting::DeadlockS(6)), "030306"),
        (Action::Set(Setting::LockWaitS(6)), "030406"),
        (Action::Set(Setting::Board), "0305"),
    ]
}

#[test]
fn bytes_of_commands_are_pinned() {
    for (action, bytes) in every_action() {
        assert!(action == Action::Ping || action_number(&action) < ACTIONS);
        let command = Command { action, ..ping() };
        let mut seen = Vec::new();
        let frame = sign_command(&command, KEY, |signed| {
            seen = signed.to_vec();
            [0x55; 64]
        })
        .unwrap();
        let payload = format!("0576616e2d37ac0200ad02{bytes}");
        assert_eq!(hex(&frame), format!("01{}{}{payload}", hex(&KEY.0), "55".repeat(64)), "{command:?}");
        assert_eq!(hex(&seen), format!("{}{}{payload}", hex(b"glg command 1:"), hex(&KEY.0)));
        let received = Received::parse(&frame).unwrap();
        assert_eq!(received.signed()[..], seen);
        assert_eq!((received.key, *received.signature), (KEY, [0x55; 64]));
        assert_eq!(received.command(), Ok(command));
    }
}

fn action_number(action: &Action) -> u8 {
    postcard::to_slice(action, &mut [0; 200]).unwrap()[0]
}

#[test]
fn until_the_device_begins_anew() {
    let command = Command { until: Until::Boot([2; 8], 5), ..ping() };
    let frame = sign_command(&command, KEY, |_| [0; 64]).unwrap();
    assert!(hex(&frame).ends_with("0576616e2d37ac020102020202020202020500"));
}

fn every_outcome() -> Vec<(Outcome, &'static str)> {
    let made = Made { kind: DocumentKind::Full, pid: 1, bytes: 300, part_bytes: 100, sha256: [3; 32] };
    let refused = |refusal| Outcome::Refused(refusal);
    let failed = |failure| Outcome::Failed(failure);
    vec![
        (Outcome::Pong(Pong { agent: head("0.1.0"), targets: 2, waiting: 3 }), "0005302e312e300203"),
        (Outcome::Made(made), "010101ac02640303030303030303030303030303030303030303030303030303030303030303"),
        (Outcome::Sending, "02"),
        (Outcome::Set, "03"),
        (refused(Refusal::Oversized), "0400"),
        (refused(Refusal::Malformed), "0401"),
        (refused(Refusal::UnknownKey), "0402"),
        (refused(Refusal::Forged), "0403"),
        (refused(Refusal::OtherDevice), "0404"),
        (refused(Refusal::Replayed(300)), "0405ac02"),
        (refused(Refusal::Expired), "0406"),
        (refused(Refusal::NoClock), "0407"),
        (refused(Refusal::NotAllowed), "0408"),
        (refused(Refusal::Unknown), "0409"),
        (refused(Refusal::Busy), "040a"),
        (refused(Refusal::NotRecorded), "040b"),
        (failed(Failure::NoSuchProcess), "0500"),
        (failed(Failure::Several(2)), "050102"),
        (failed(Failure::OutOfRange(1, 2)), "05020102"),
        (failed(Failure::TooLarge(3)), "050303"),
        (failed(Failure::TookTooLong(4)), "050404"),
        (failed(Failure::Interrupted), "0505"),
        (failed(Failure::NoDocument), "0506"),
        (failed(Failure::Other(head("no"))), "0507026e6f"),
    ]
}

fn receipt(outcome: Outcome) -> Receipt {
    let command = CommandId { key: KEY, counter: 9 };
    Receipt { device: head("van-7"), boot: [1; 8], at: AT, command, outcome }
}

#[test]
fn bytes_of_receipts_are_pinned() {
    for (outcome, bytes) in every_outcome() {
        let receipt = receipt(outcome);
        let mut seen = Vec::new();
        let frame = sign_receipt(&receipt, &[0xdd; 32], |signed| {
            seen = signed.to_vec();
            [0x55; 64]
        })
        .unwrap();
        let payload = format!("0576616e2d37{}010202{}09{bytes}", "01".repeat(8), hex(&KEY.0));
        assert_eq!(hex(&frame), format!("01{}{}{payload}", "dd".repeat(32), "55".repeat(64)), "{receipt:?}");
        assert_eq!(hex(&seen), format!("{}{}{payload}", hex(b"glg receipt 1:"), "dd".repeat(32)));
        let signed = SignedReceipt::parse(&frame).unwrap();
        assert_eq!(signed.signed()[..], seen);
        assert_eq!((signed.device_key, signed.receipt), (&[0xdd; 32], receipt));
    }
}

#[test]
fn the_longest_fit() {
    let long = "x".repeat(100);
    let process = Which::Name(head(&long));
    let command = Command {
        device: head(&long),
        counter: u64::MAX,
        until: Until::Boot([1; 8], u64::MAX),
        action: Action::Make(Request { kind: DocumentKind::Audit, process, limit: u32::MAX }),
    };
    let len = sign_command(&command, KEY, |_| [0; 64]).unwrap().len();
    println!("longest command: {len} B of {COMMAND_MAX} B");
    let at = Timestamp { mono_ms: u64::MAX, wall_ms: u64::MAX, clock: ClockQuality::Synced };
    let command = CommandId { key: KEY, counter: u64::MAX };
    let outcome = Outcome::Failed(Failure::Other(head(&long)));
    let receipt = Receipt { device: head(&long), boot: [1; 8], at, command, outcome };
    let len = sign_receipt(&receipt, &[0; 32], |_| [0; 64]).unwrap().len();
    println!("longest receipt: {len} B of {RECEIPT_MAX} B");
    let part = Part { command, index: u32::MAX - 1, of: u32::MAX, bytes: &[1] };
    assert!(part.head().unwrap().len() <= PART_HEAD_MAX);
}

#[test]
fn bytes_of_parts_are_pinned() {
    let part = Part { command: CommandId { key: KEY, counter: 300 }, index: 1, of: 2, bytes: b"abc" };
    let bytes = [&part.head().unwrap()[..], part.bytes].concat();
    assert_eq!(hex(&bytes), format!("01{}ac020102616263", hex(&KEY.0)));
    assert_eq!(Part::parse(&bytes), Ok(part));
    let beyond = Part { index: 2, ..part }.head().unwrap();
    assert_eq!(Part::parse(&[&beyond[..], b"abc"].concat()), Err(DecodeError::Malformed));
    assert_eq!(Part::parse(&part.head().unwrap()), Err(DecodeError::Malformed), "no bytes");
    assert_eq!(Part::parse(&[]), Err(DecodeError::Empty));
    assert_eq!(Part::parse(&[2, 0]), Err(DecodeError::Version(2)));
}

#[test]
fn cut_and_damaged_ones_are_refused_or_not_but_never_panic() {
    let command = sign_command(&ping(), KEY, |_| [0; 64]).unwrap();
    let receipt = sign_receipt(&receipt(Outcome::Set), &[0; 32], |_| [0; 64]).unwrap();
    for len in 0..command.len() {
        let cut = Received::parse(&command[..len]).map(|received| received.command());
        assert!(!matches!(cut, Ok(Ok(_))), "{len}");
    }
    for len in 0..receipt.len() {
        assert!(SignedReceipt::parse(&receipt[..len]).is_err(), "{len}");
    }
    assert_eq!(SignedReceipt::parse(&[1; RECEIPT_MAX + 3]), Err(DecodeError::Trailing(3)));
    for bit in 0..command.len() * 8 {
        let mut damaged = command.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let _ = Received::parse(&damaged).map(|received| received.command());
    }
    for bit in 0..receipt.len() * 8 {
        let mut damaged = receipt.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let _ = SignedReceipt::parse(&damaged);
    }
}

#[test]
fn a_document_has_as_many_parts_as_it_takes() {
    let parts =
        |bytes| Made { kind: DocumentKind::Full, pid: 1, bytes, part_bytes: 100, sha256: [0; 32] }.parts();
    assert_eq!([0, 1, 100, 101, 200].map(parts), [0, 1, 1, 2, 2]);
}
