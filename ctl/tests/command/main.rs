//! Commands to a device that is made up, through a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod audit;
#[path = "../common/mod.rs"]
mod common;
mod device;
mod documents;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::run;
use device::{BOOT, NAME, Workshop, path};
use glg_proto::command::{
    Action, CommandId, Failure, KeyId, Outcome, Pong, Refusal, Setting, Until, Which, Window,
};
use glg_proto::topics::Topic;
use glg_proto::wire::{ClockQuality, head};
use serde_json::Value;

fn pong() -> Outcome {
    Outcome::Pong(Pong { agent: head("0.1.0"), targets: 3, waiting: 2 })
}

#[test]
fn a_ping_as_text_and_json() {
    let shop = Workshop::new("ping");
    let _frames = shop.device(|mouth, heard| {
        assert_eq!(heard.command.action, Action::Ping);
        assert!(matches!(heard.command.until, Until::Wall(_)));
        mouth.answer(heard.id, pong());
    });
    let (success, out, err) = shop.glg(&["ping", NAME]);
    assert!(success, "{err}");
    assert!(out.starts_with("van-7 is there: it answered after "), "{out}");
    assert!(
        out.ends_with(
            " ms\n  agent     0.1.0, 3 processes watched\n  waiting   2 messages for the broker\n  \
             clock     2026-11-22 00:45:15 UTC; boot 0102030405060708\n"
        ),
        "{out}"
    );
    assert!(err.starts_with("van-7 is new here: its key "), "{err}");
    let (success, out, err) = shop.glg(&["ping", NAME, "--json"]);
    assert_eq!((success, err.as_str()), (true, ""), "its key is known by now");
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&object["kind"], &object["waiting"]), (&"pong".into(), &2.into()));
    assert_eq!((&object["device"], &object["clock"]), (&NAME.into(), &"synced".into()));
}

#[test]
fn settings_travel_as_they_are_said() {
    let shop = Workshop::new("set");
    let wanted = [
        (&["investigate", "ota"][..], Setting::Investigate(Which::Name(head("ota")))),
        (&["investigate", "7"], Setting::Investigate(Which::Pid(7))),
        (&["growth", "medium", "50", "20"], Setting::Growth(Window::Medium, 50, 20)),
        (&["remind", "60"], Setting::RemindS(60)),
        (&["deadlock", "5"], Setting::DeadlockS(5)),
        (&["lock-wait", "30"], Setting::LockWaitS(30)),
        (&["board"], Setting::Board),
    ];
    let settings = wanted.clone().map(|(_, setting)| setting);
    let _frames = shop.device(move |mouth, heard| {
        assert_eq!(heard.command.action, Action::Set(settings[heard.nth_command].clone()));
        mouth.answer(heard.id, Outcome::Set);
    });
    for (words, _) in wanted {
        let (success, out, err) = shop.glg(&[&["set", NAME], words].concat());
        assert!(success, "{err}");
        assert_eq!(out, "van-7 has set it, until its agent begins anew\n");
    }
    for wrong in [&["growth", "fast", "50"][..], &["remind", "1h"], &["volume", "11"]] {
        let (success, _, err) = shop.glg(&[&["set", NAME], wrong].concat());
        assert!(!success && err.contains("growth fast|medium|slow RISE PERCENT"), "{err}");
    }
}

#[test]
fn a_forged_answer_is_passed_over() {
    let shop = Workshop::new("forged");
    let _frames = shop.device(|mouth, heard| {
        let mut forged = mouth.signed(heard.id, pong());
        forged[40] ^= 1;
        mouth.publish(Topic::Receipt, &forged);
        mouth.publish(Topic::Receipt, b"junk");
        // Of another command of this key, and of another key.
        mouth.answer(CommandId { counter: 5, ..heard.id }, Outcome::Refused(Refusal::Busy));
        mouth.answer(CommandId { key: KeyId([9; 8]), ..heard.id }, Outcome::Refused(Refusal::Busy));
        mouth.answer(heard.id, pong());
    });
    let (success, out, err) = shop.glg(&["ping", NAME]);
    assert!(success && out.contains("van-7 is there"), "{err}");
    assert!(err.contains("An answer bears a FORGED signature"), "{err}");
    assert!(err.contains("An answer cannot be read"), "{err}");
}

#[test]
fn a_changed_key_is_told_loudly() {
    let shop = Workshop::new("changed");
    let _frames = shop.device(|mouth, heard| {
        // The second time somebody answers who has a key of its own.
        if heard.nth_command == 1 {
            mouth.become_another();
        }
        mouth.answer(heard.id, pong());
    });
    assert!(shop.glg(&["ping", NAME]).0);
    let (success, out, err) = shop.glg(&["ping", NAME]);
    assert_eq!((success, out.as_str()), (false, ""));
    assert!(err.contains("THE KEY OF van-7 HAS CHANGED") && err.contains("remove its line from"), "{err}");
}

#[test]
fn refusals_and_failures_say_what_to_do() {
    let shop = Workshop::new("refused");
    let refused = |refusal| Outcome::Refused(refusal);
    let failed = |failure| Outcome::Failed(failure);
    let far = 253_402_300_799_000;
    let told = [
        (refused(Refusal::Oversized), "agent is of another version"),
        (refused(Refusal::UnknownKey), "glg: refused: van-7 does not know this key: put what `glg keys show"),
        (refused(Refusal::Forged), "another key's"),
        (refused(Refusal::OtherDevice), "for another device"),
        (refused(Refusal::Replayed(far)), "another computer with a wrong clock"),
        (refused(Refusal::Expired), "Its clock shows 2026-11-22 00:45:15 UTC, this computer's "),
        (refused(Refusal::NotAllowed), "its roles have no \"set\""),
        (refused(Refusal::Unknown), "its agent is too old"),
        (refused(Refusal::Busy), "say it again in a minute"),
        (refused(Refusal::NotRecorded), "flash is full or broken"),
        (failed(Failure::NoSuchProcess), "glg: not done: van-7 watches no such process"),
        (failed(Failure::Several(2)), "watches 2 processes of this name"),
        (failed(Failure::OutOfRange(5, 9)), "allows 5 to 9: nothing was changed"),
        (failed(Failure::TooLarge(8)), "larger than the 8 KiB"),
        (failed(Failure::TookTooLong(60)), "longer than the 1 min"),
        (failed(Failure::Interrupted), "Ask again"),
        (failed(Failure::NoDocument), "has the document no longer"),
        (failed(Failure::Other(head("\u{1b}[2J"))), "could not do it: \\u{1b}[2J"),
    ];
    let outcomes = told.clone().map(|(outcome, _)| outcome);
    let _frames = shop.device(move |mouth, heard| {
        // Who signed nothing that can be read gets no counter back.
        let unsigned = matches!(
            outcomes[heard.nth_command / 2],
            Outcome::Refused(Refusal::UnknownKey | Refusal::Forged)
        );
        let counter = if unsigned { 0 } else { heard.id.counter };
        mouth.answer(CommandId { counter, ..heard.id }, outcomes[heard.nth_command / 2].clone());
    });
    for (outcome, words) in told {
        let (success, out, err) = shop.glg(&["set", NAME, "board"]);
        assert_eq!((success, out.as_str()), (false, ""));
        assert!(err.contains(words), "{outcome:?}: {err}");
        let (success, out, _) = shop.glg(&["set", NAME, "board", "--json"]);
        let object: Value = serde_json::from_str(&out).unwrap();
        assert!(!success && (object["kind"] == "refused" || object["kind"] == "failed"), "{out}");
    }
}

#[test]
fn without_an_answer_the_same_bytes_come_again() {
    let shop = Workshop::new("again");
    let frames = shop.device(|mouth, heard| {
        if heard.nth == 2 {
            mouth.answer(heard.id, pong());
        }
    });
    let (success, _, err) = shop.glg(&["ping", NAME]);
    assert!(success, "{err}");
    let frames: Vec<Vec<u8>> = frames.try_iter().collect();
    assert!(frames.len() >= 2 && frames.iter().all(|frame| *frame == frames[0]));
}

#[test]
fn a_device_that_is_silent_or_unknown() {
    let shop = Workshop::new("silent");
    let (success, _, err) = shop.glg(&["ping", "van-8", "--timeout", "3s"]);
    assert!(!success);
    assert!(err.contains("The broker knows nothing of van-8. Is the name right"), "{err}");
    assert!(err.contains("Nobody takes commands for van-8 at this broker now"), "{err}");
    assert!(
        err.contains("glg: van-8 did not answer within 3 s. The command may still reach it within 9 min"),
        "{err}"
    );
    let (success, _, err) = run(&["ping", NAME, "--port", &shop.broker.port.to_string()], b"");
    assert!(!success && err.contains("a command has to be signed: say --key FILE, or set GLG_KEY"), "{err}");
    let (_, _, err) = run(&["ping", "a/b"], b"");
    assert!(err.contains("no device can have this name"), "{err}");
}

#[test]
fn a_broker_that_is_not_there() {
    let shop = Workshop::new("nobroker");
    let key = shop.file("k.key");
    // Nothing listens there.
    let (success, _, err) = run(&["ping", NAME, "--port", "1", "--key", path(&key), "--timeout", "1s"], b"");
    assert!(!success && err.ends_with("glg: no connection to the broker within 1 s\n"), "{err}");
}

#[test]
fn a_broker_that_comes_late_is_found() {
    let mut shop = Workshop::new("late");
    let port = common::free_port();
    let (key, devices) = (shop.file("k.key"), shop.file("devices"));
    let mut glg = Command::new(env!("CARGO_BIN_EXE_glg"))
        .args(["ping", NAME, "--port", &port.to_string(), "--key", path(&key), "--devices", path(&devices)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut complaint = String::new();
    BufReader::new(glg.stderr.as_mut().unwrap()).read_line(&mut complaint).unwrap();
    assert!(complaint.starts_with("broker: ") && complaint.ends_with("; trying again\n"), "{complaint}");
    shop.broker = common::Broker::start_at(port);
    let _frames = shop.device(|mouth, heard| mouth.answer(heard.id, pong()));
    let output = glg.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"van-7 is there"));
}

#[test]
fn a_device_without_a_clock_is_asked_by_its_boot() {
    let shop = Workshop::new("noclock");
    let _frames = shop.device_with(ClockQuality::Wrong, |mouth, heard| {
        match (&heard.command.action, heard.command.until) {
            (Action::Ping, Until::Boot(BOOT, u64::MAX)) => mouth.answer(heard.id, pong()),
            (Action::Set(_), Until::Boot(BOOT, until)) => {
                assert!((90_000 + 600_000..90_000 + 630_000).contains(&until), "{until}");
                mouth.answer(heard.id, Outcome::Set);
            }
            other => panic!("{other:?}"),
        }
    });
    let (success, _, err) = shop.glg(&["set", NAME, "board"]);
    assert!(success, "{err}");
}

#[test]
fn a_clock_that_is_lost_meanwhile() {
    let shop = Workshop::new("lostclock");
    let _frames = shop.device(|mouth, heard| {
        mouth.at.clock = ClockQuality::Wrong;
        match heard.command.until {
            Until::Wall(_) => mouth.answer(heard.id, Outcome::Refused(Refusal::NoClock)),
            Until::Boot(boot, until) => {
                assert!(boot == BOOT && (690_000..720_000).contains(&until), "{until}");
                mouth.answer(heard.id, pong());
            }
        }
    });
    let (success, out, err) = shop.glg(&["ping", NAME]);
    assert!(success && out.contains("which is WRONG"), "{err}");
}

#[test]
fn another_computer_has_used_the_key() {
    let shop = Workshop::new("replayed");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let used = u64::try_from(now).unwrap() + 86_400_000;
    let _frames = shop.device(move |mouth, heard| {
        if heard.command.counter <= used {
            mouth.answer(heard.id, Outcome::Refused(Refusal::Replayed(used)));
        } else {
            assert_eq!(heard.command.counter, used + 1);
            mouth.answer(heard.id, pong());
        }
    });
    let (success, _, err) = shop.glg(&["ping", NAME]);
    assert!(success, "{err}");
}

#[test]
fn keys_are_made_once_and_shown() {
    let shop = Workshop::new("keys");
    let key = shop.file("k.key");
    let (success, out, _) = run(&["keys", "show", path(&key)], b"");
    assert!(success && out.contains("[[command.key]]\nname = \"k\"\npublic = \""), "{out}");
    let (success, _, err) = run(&["keys", "new", "k", "--out", path(&key)], b"");
    assert!(!success && err.contains("is there already, and a key is never overwritten"), "{err}");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (success, _, err) = shop.glg(&["ping", NAME]);
    assert!(!success && err.contains("others may read this key (mode 0644): chmod 600"), "{err}");
}
