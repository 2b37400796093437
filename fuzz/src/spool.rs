//! What an agent finds on flash: segments of messages, the ledger, checkpoints of the history.

use glg_engine::flash::{File, InMemory, Kind};
use glg_engine::history::checkpoint::{Checkpoint, Told};
use glg_engine::history::{History, HistoryConfig, Resolution, Waits};
use glg_engine::outbox::{Origin, Outbox, OutboxConfig};
use glg_engine::spool::budget::Share;
use glg_engine::spool::store::Store;
use glg_engine::step::TargetId;
use glg_proto::locks::StuckThreads;
use glg_proto::wire::{Body, ClockQuality, Envelope, Losses, Target, Timestamp, decode, head};

const NOW: Timestamp = Timestamp { mono_ms: 900_000_000, wall_ms: 0, clock: ClockQuality::Wrong };
const BOOT: [u8; 8] = [7; 8];
/// What the first byte of an input stands for; the rest is the file.
const FILES: [File; 3] = [
    File { kind: Kind::Warning, number: 3 },
    File { kind: Kind::Ledger, number: 0 },
    File { kind: Kind::History, number: 0 },
];

/// An agent starts on any file, sends what is in it, goes on, and the next one starts, too.
///
/// # Panics
/// When a message that is handed out is none, or when the history is not in order.
pub fn check(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let Some(file) = FILES.get(usize::from(*which) % FILES.len()) else { return };
    let flash = InMemory::default();
    flash.0.borrow_mut().insert(*file, bytes.to_vec());
    if file.kind == Kind::History {
        return check_history(flash);
    }
    for epoch in 8..10 {
        let mut outbox = open(&flash, epoch);
        let left = outbox.len();
        let _ = outbox.push(message(epoch));
        let mut sent = 0;
        while let Some((ticket, message)) = outbox.send_next() {
            assert!(decode(message).is_ok(), "handed out, but no message");
            assert!(outbox.acknowledged(ticket));
            sent += 1;
        }
        // A record may be damaged, but not two messages come from one.
        assert!(sent <= left + 2, "{left} messages were there, {sent} came");
        outbox.close_down();
        assert!(open(&flash, epoch + 1).is_empty(), "acknowledged, and here again");
    }
}

fn check_history(flash: InMemory) {
    let mut store = Store::new(Box::new(flash), 1 << 20, NOW.mono_ms);
    let mut checkpoint = Checkpoint::find(&mut store, BOOT, 4);
    assert!(checkpoint.len() <= 4);
    let mut history = History::new(&HISTORY);
    for start in 0..2 {
        let _ = checkpoint.recall(&mut store, TargetId { pid: 1412, start }, 900_000, &mut history);
    }
    for ring in [&history.middle, &history.coarse] {
        let samples: Vec<_> = ring.iter().collect();
        assert!(samples.windows(2).all(|pair| matches!(pair, [a, b] if a.at_s < b.at_s)), "not in order");
        assert!(samples.iter().all(|sample| sample.at_s <= 900_000 && sample.min <= sample.max), "not true");
    }
    let id = TargetId { pid: 1, start: 1 };
    let written = checkpoint.replace(&mut store, BOOT, std::iter::once((id, None, &history)), Share::All);
    assert!(written.is_ok() && Checkpoint::find(&mut store, BOOT, 4).len() == 1, "{written:?}");
}

const HISTORY: HistoryConfig = HistoryConfig {
    fine: Resolution { step_s: 1, keep: 10 },
    middle: Resolution { step_s: 60, keep: 30 },
    coarse: Resolution { step_s: 900, keep: 20 },
};

fn open(flash: &InMemory, epoch: u32) -> Outbox {
    let config = OutboxConfig {
        messages: 40,
        in_memory: 2,
        max_bytes: 1 << 20,
        segment_bytes: 4096,
        max_age_ms: u64::MAX,
        write_bytes_per_day: 1 << 24,
    };
    let origin = Origin { device: head("van-7"), boot: BOOT, epoch };
    Outbox::open(Box::new(flash.clone()), config, origin, NOW)
}

fn message(pid: u32) -> Envelope {
    let target = Target { name: head("gateway"), pid, go: (24, 11) };
    let stuck =
        StuckThreads { target, threads: 90, away: 70, baseline: 9, window_s: 1800, pinned: 0, foreign: 0 };
    let losses = Losses::default();
    Envelope {
        device: head("van-7"),
        boot: BOOT,
        epoch: 5,
        seq: 0,
        at: NOW,
        losses,
        body: Body::StuckThreads(stuck),
    }
}

/// Each kind of file, as the agent writes it.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let flash = InMemory::default();
    let mut outbox = open(&flash, 5);
    for pid in 0..12 {
        let _ = outbox.push(message(pid));
    }
    for _ in 0..3 {
        let ticket = outbox.send_next().map(|(ticket, _)| ticket);
        let _ = ticket.map(|ticket| outbox.acknowledged(ticket));
    }
    // All but some are given up, so that this is in the ledger, too.
    let too_old = Timestamp { mono_ms: u64::MAX / 2, ..NOW };
    let few = OutboxConfig { messages: 5, ..OutboxConfig::in_memory(2) };
    let origin = Origin { device: head("van-7"), boot: BOOT, epoch: 6 };
    let mut files: Vec<(File, Vec<u8>)> = flash.0.borrow().clone().into_iter().collect();
    let mut next = Outbox::open(
        Box::new(flash.clone()),
        OutboxConfig { write_bytes_per_day: 1 << 20, ..few },
        origin,
        too_old,
    );
    next.close_down();
    let mut store = Store::new(Box::new(flash.clone()), 1 << 20, NOW.mono_ms);
    let mut history = History::new(&HISTORY);
    for second in (0..40_000).step_by(30) {
        let waits = Waits { threads: u16::from(second % 7 == 0), longest_s: 2 };
        history.add(second, 100 + second % 300, waits, 60_000 + second % 7 * 512);
    }
    let told = Some(Told { at_s: 3000, level: 250 });
    let targets = [
        (TargetId { pid: 1412, start: 0 }, told, &history),
        (TargetId { pid: 1412, start: 1 }, None, &history),
    ];
    let _ = Checkpoint::default().replace(&mut store, BOOT, targets.into_iter(), Share::All);
    files.extend(flash.0.borrow().clone());
    let input = |(file, bytes): (File, Vec<u8>)| {
        let which = FILES.iter().position(|known| known.kind == file.kind)?;
        Some([vec![u8::try_from(which).ok()?], bytes].concat())
    };
    files.into_iter().filter_map(input).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::Mutator;

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let kinds =
            |which| seeds.iter().filter(|seed| seed.first() == Some(&which) && seed.len() > 20).count();
        assert!((0..3).all(|which| kinds(which) > 0), "a seed of each kind");
        let mut mutator = Mutator::new(&seeds, 1, 4096);
        let (mut whole, mut part) = (0, 0);
        for input in (0..2000).map(|_| mutator.next_input()).filter(|input| input.first() == Some(&0)) {
            let flash = InMemory::default();
            flash.0.borrow_mut().insert(FILES[0], input[1..].to_vec());
            match open(&flash, 8).len() {
                12.. => whole += 1,
                1.. => part += 1,
                _ => {}
            }
        }
        assert!(whole > 5 && part > 100, "{whole} whole, {part} in part");
    }
}
