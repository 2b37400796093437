#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use glg_proto::wire::{Evicted, Health, Leak, Target, decode, head};

use super::*;
use crate::flash::{InMemory, Kind};
use crate::spool::budget::PAGE;

const CONFIG: OutboxConfig = OutboxConfig {
    messages: 100,
    in_memory: 4,
    max_bytes: 8 * 1024,
    segment_bytes: 1024,
    max_age_ms: 3_600_000,
    write_bytes_per_day: 1 << 20,
};

fn at(mono_ms: u64) -> Timestamp {
    Timestamp { mono_ms, wall_ms: 0, clock: ClockQuality::Wrong }
}

fn origin(epoch: u32) -> Origin {
    Origin { device: head("van-7"), boot: [1; 8], epoch }
}

fn on(disk: &InMemory, epoch: u32, config: OutboxConfig) -> Outbox {
    Outbox::open(Box::new(disk.clone()), config, origin(epoch), at(1000))
}

fn in_memory(messages: usize) -> Outbox {
    Outbox::in_memory(messages, origin(5))
}

fn message(body: Body) -> Envelope {
    let losses = Losses::default();
    Envelope { device: head("van-7"), boot: [1; 8], epoch: 5, seq: 0, at: at(2000), losses, body }
}

fn leak(pid: u32, grade: Grade) -> Envelope {
    let target = Target { name: head("gateway"), pid, go: (24, 11) };
    let sites = heapless::Vec::new();
    let (trend, left, observed) = (None, None, None);
    let (goroutines, baseline, window_s) = (1, 1, 1);
    message(Body::Leak(Leak { target, grade, goroutines, baseline, window_s, trend, left, observed, sites }))
}

fn alert(pid: u32) -> Envelope {
    leak(pid, Grade::Suspected)
}

fn health(waiting: u32) -> Envelope {
    message(Body::Health(Health {
        targets: 0,
        waiting,
        spool_bytes: 0,
        flash_bytes: 0,
        memory_only: false,
        evicted: 0,
        damaged: 0,
        airtime_bytes: 0,
        rss_kib: 0,
    }))
}

fn send(outbox: &mut Outbox) -> Option<(Ticket, Envelope)> {
    outbox.send_next().map(|(ticket, bytes)| (ticket, decode(bytes).unwrap()))
}

fn drain(outbox: &mut Outbox) -> Vec<Envelope> {
    let mut all = Vec::new();
    while let Some((ticket, envelope)) = send(outbox) {
        assert!(outbox.acknowledged(ticket));
        all.push(envelope);
    }
    all
}

#[test]
fn one_in_flight_until_acknowledged_then_the_next() {
    let mut outbox = in_memory(4);
    outbox.push(alert(1)).unwrap();
    outbox.push(alert(2)).unwrap();
    let (ticket, newest) = send(&mut outbox).unwrap();
    assert_eq!(newest.seq, 1);
    assert!(send(&mut outbox).is_none());
    assert!(!outbox.acknowledged(ticket + 1));
    assert!(outbox.acknowledged(ticket));
    assert!(!outbox.acknowledged(ticket), "acknowledged twice");
    assert_eq!(send(&mut outbox).unwrap().1.seq, 0);
}

#[test]
fn a_lost_link_sends_the_same_bytes_again() {
    let mut outbox = in_memory(4);
    outbox.push(alert(1)).unwrap();
    let first = send(&mut outbox).unwrap();
    outbox.link_lost();
    assert_eq!(send(&mut outbox).unwrap(), first);
}

#[test]
fn the_most_important_goes_first_and_the_newest_of_it() {
    let disk = InMemory::default();
    for config in [CONFIG, OutboxConfig { messages: 0, in_memory: 9, ..CONFIG }] {
        let mut outbox = on(&disk, 5, config);
        let pushed = [health(1), alert(1), leak(2, Grade::Proven), alert(3), leak(4, Grade::Proven)];
        pushed.into_iter().for_each(|envelope| _ = outbox.push(envelope).unwrap());
        assert_eq!(send(&mut outbox).unwrap().1.seq, 4);
        assert_eq!(outbox.class_in_flight(), Some(Class::Critical));
        outbox.link_lost();
        let sequence: Vec<u32> = drain(&mut outbox).iter().map(|envelope| envelope.seq).collect();
        assert_eq!(sequence, [4, 2, 3, 1, 0]);
        outbox.push(alert(9)).unwrap();
        assert!(outbox.send_next_of(Class::Critical).is_none());
        assert!(outbox.send_next_of(Class::Warning).is_some());
    }
}

#[test]
fn every_loss_is_said_even_when_the_message_that_said_it_is_dropped() {
    let mut outbox = in_memory(2);
    outbox.lost(Losses { samples: 7, ..Losses::default() });
    for pid in 0..10 {
        outbox.push(alert(pid)).unwrap();
        assert!(outbox.figures().in_memory <= 2);
    }
    let (mut said, mut named, mut received) = (Losses::default(), 0, 0);
    for envelope in drain(&mut outbox) {
        said.add(envelope.losses);
        match envelope.body {
            Body::Evicted(Evicted { class: Class::Warning, count, .. }) => named += count,
            _ => received += 1,
        }
    }
    assert_eq!((received, said.alerts, said.samples, named), (2, 8, 7, 8));
}

#[test]
fn what_is_in_flight_is_not_dropped() {
    let mut outbox = in_memory(2);
    outbox.push(alert(1)).unwrap();
    let (ticket, first) = send(&mut outbox).unwrap();
    assert_eq!(first.seq, 0);
    (2..6).for_each(|pid| _ = outbox.push(alert(pid)).unwrap());
    assert!(outbox.acknowledged(ticket));
    let bodies: Vec<_> = drain(&mut outbox).into_iter().map(|envelope| envelope.body).collect();
    assert!(
        matches!(&bodies[..], [Body::Leak(leak), Body::Evicted(_)] if leak.target.pid == 5),
        "{bodies:?}"
    );
}

#[test]
fn what_the_broker_refuses_is_lost_and_said() {
    let mut outbox = in_memory(4);
    outbox.lost(Losses { samples: 3, ..Losses::default() });
    outbox.push(alert(1)).unwrap();
    let (ticket, _) = send(&mut outbox).unwrap();
    outbox.refused(ticket);
    outbox.push(alert(2)).unwrap();
    let (_, next) = send(&mut outbox).unwrap();
    assert_eq!(next.losses, Losses { alerts: 1, samples: 3, records: 0 });
}

#[test]
fn what_waits_outlives_the_agent() {
    let disk = InMemory::default();
    let mut outbox = on(&disk, 5, CONFIG);
    for pid in 0..3 {
        assert_eq!(outbox.push(alert(pid)).unwrap().1, Kept::OnFlash);
    }
    let (ticket, _) = send(&mut outbox).unwrap();
    assert!(outbox.acknowledged(ticket));
    // Killed: the acknowledgement is not written down, so all three come.
    assert_eq!(on(&disk, 6, CONFIG).len(), 3);
    assert!(outbox.close_down());
    let mut next = on(&disk, 6, CONFIG);
    next.push(alert(9)).unwrap();
    let names: Vec<_> = drain(&mut next).iter().map(|envelope| (envelope.epoch, envelope.seq)).collect();
    assert_eq!(names, [(6, 0), (5, 1), (5, 0)]);
    // Within the same second as the first: numbers go on.
    assert_eq!(on(&disk, 5, CONFIG).next_seq(), 3);
}

#[test]
fn what_is_given_up_is_named_and_the_least_important_goes() {
    let disk = InMemory::default();
    let mut outbox = on(&disk, 5, OutboxConfig { in_memory: 1, write_bytes_per_day: 1 << 30, ..CONFIG });
    (0..400)
        .for_each(|pid| _ = outbox.push(leak(pid, [Grade::Proven, Grade::Suspected][pid as usize % 4 / 3])));
    let spool: usize =
        disk.0.borrow().iter().filter(|(f, _)| f.kind != Kind::Ledger).map(|(_, b)| b.len()).sum();
    assert!(spool <= 8 * 1024 && spool as u32 == outbox.figures().spool_bytes, "{spool}");
    let lost = outbox.figures().in_memory;
    assert!(outbox.close_down());
    let all = drain(&mut on(&disk, 6, CONFIG));
    let mut named: BTreeMap<Class, u32> = BTreeMap::new();
    for envelope in &all {
        if let Body::Evicted(evicted) = envelope.body {
            *named.entry(evicted.class).or_default() += evicted.count;
        }
    }
    let left =
        |grade| all.iter().filter(|e| matches!(&e.body, Body::Leak(l) if l.grade == grade)).count() as u32;
    let (critical, warning) = (left(Grade::Proven), left(Grade::Suspected));
    // A segment goes as a whole: the last few warnings may have found room behind it.
    assert!(critical > 60 && warning < 5, "{critical} {warning}");
    // The last may have gone into memory, where it was lost with the agent.
    assert!(lost <= 1);
    assert_eq!(named[&Class::Warning] + warning + lost, 100, "{named:?}");
    assert_eq!(named[&Class::Critical] + critical, 300);
}

#[test]
fn of_the_agents_health_one_word_waits_and_takes_the_place_of_the_last() {
    for disk in [Some(InMemory::default()), None] {
        let mut outbox = disk.as_ref().map_or_else(|| in_memory(4), |disk| on(disk, 5, CONFIG));
        (0..3).for_each(|n| _ = outbox.push(health(n)).unwrap());
        assert_eq!((outbox.len(), outbox.next_seq()), (1, 1));
        if let Some(disk) = &disk {
            let mut killed = on(disk, 6, CONFIG);
            assert!(
                matches!(&drain(&mut killed)[..], [e] if matches!(&e.body, Body::Health(h) if h.waiting == 2))
            );
        }
        let (ticket, _) = send(&mut outbox).unwrap();
        // The broker may have that one.
        outbox.push(health(3)).unwrap();
        assert!(outbox.acknowledged(ticket));
        assert_eq!(drain(&mut outbox).iter().map(|e| e.seq).collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn past_the_budget_of_the_day_memory_alone_and_then_flash_again() {
    let disk = InMemory::default();
    let config = OutboxConfig { write_bytes_per_day: 16 * PAGE, ..CONFIG };
    let mut outbox = on(&disk, 5, config);
    let kept: Vec<Kept> = (0..9).map(|pid| outbox.push(alert(pid)).unwrap().1).collect();
    // Seven eighths: three pages for the first, two for each other.
    let on_flash = kept.iter().take_while(|kept| **kept == Kept::OnFlash).count();
    assert_eq!(on_flash, 6, "{kept:?}");
    assert!(kept.iter().skip(6).all(|kept| *kept == Kept::InMemory));
    assert_eq!(outbox.figures().memory_only, Some(StoreError::Budget));
    // What is critical has a reserve.
    let critical: Vec<Kept> = (0..2).map(|pid| outbox.push(leak(pid, Grade::Proven)).unwrap().1).collect();
    assert_eq!(critical, [Kept::OnFlash, Kept::InMemory]);
    // A restart is no new day.
    let again = on(&disk, 6, config);
    assert_eq!(again.figures().flash_bytes, outbox.figures().flash_bytes);
    outbox.tick(at(24 * 3600 * 1000 + 3000));
    let figures = outbox.figures();
    assert!(figures.memory_only.is_none(), "{figures:?}");
}

#[test]
fn what_was_in_memory_is_written_when_it_can_be() {
    let disk = InMemory::default();
    let config = OutboxConfig { write_bytes_per_day: 8 * PAGE, max_age_ms: u64::MAX, ..CONFIG };
    let mut outbox = on(&disk, 5, config);
    (0..5).for_each(|pid| _ = outbox.push(alert(pid)).unwrap());
    assert!(outbox.figures().in_memory > 0);
    outbox.tick(at(25 * 3600 * 1000));
    assert_eq!((outbox.figures().in_memory, outbox.len()), (0, 5));
    assert_eq!(drain(&mut on(&disk, 6, config)).len(), 5);
}

#[test]
fn what_is_too_old_is_given_up() {
    let disk = InMemory::default();
    let mut outbox = on(&disk, 5, CONFIG);
    (0..3).for_each(|pid| _ = outbox.push(alert(pid)).unwrap());
    outbox.tick(at(3_700_000));
    let all = drain(&mut outbox);
    assert!(
        matches!(&all[..], [e] if matches!(e.body, Body::Evicted(Evicted { count: 3, last_seq: 2, .. }))),
        "{all:?}"
    );
}

/// The config allows less than an earlier one did.
#[test]
fn what_has_no_place_any_more_is_named() {
    let disk = InMemory::default();
    let mut outbox = on(&disk, 5, CONFIG);
    (0..40).for_each(|pid| _ = outbox.push(alert(pid)).unwrap());
    let mut outbox = on(&disk, 6, OutboxConfig { messages: 15, ..CONFIG });
    let all = drain(&mut outbox);
    let named: u32 = all.iter().map(|e| if let Body::Evicted(e) = e.body { e.count } else { 0 }).sum();
    let came = all.iter().filter(|e| matches!(e.body, Body::Leak(_))).count() as u32;
    assert!(came > 0 && came <= 15 && came + named == 40, "{came} came, {named} named");
    assert!(outbox.close_down());
    assert!(on(&disk, 7, CONFIG).is_empty());
}
