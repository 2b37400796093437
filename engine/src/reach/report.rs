//! What is told of findings: where each goroutine was created, where it stands, and what speaks against it.

use alloc::string::String;
use alloc::vec::Vec;

use glg_proto::wire::Wait;

use super::proof::{Finding, Grade};
use crate::known::{Known, recognise};
use crate::locks::in_go::GoFrame;
use crate::memory::{Addr, Error};
use crate::pclntab::printed_name;
use crate::traces::{Target, Tracer};

/// Frames of a stack that are told.
const FRAMES_MAX: usize = 64;

/// A goroutine that is leaked, or seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its number.
    pub goid: u64,
    /// How sure that is.
    pub grade: Grade,
    /// Goroutine that created it; 0 before Go 1.21.
    pub parent: u64,
    /// Whether that has ended.
    pub orphan: bool,
    /// Whether its `go` statement had more goroutines at every pass.
    pub grows: bool,
    /// Whether the runtime itself says that it is leaked.
    pub marked: bool,
    /// Seconds that it has waited at least.
    pub waited_s: u32,
    /// Which of the groups it is in.
    pub group: usize,
}

/// Goroutines that were created at one place and stand at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What they wait for, as Go prints it.
    pub wait: &'static str,
    /// The same, independent of Go's version.
    pub waits_for: Wait,
    /// Return address of the `go` statement.
    pub gopc: Addr,
    /// Function of the `go` statement.
    pub created_by: String,
    /// Its file, without folders, and line.
    pub created_at: (String, u32),
    /// Their stack, the innermost frame first.
    pub stack: Vec<GoFrame>,
    /// Which library they are part of, and what it misses.
    pub known: Option<&'static Known>,
    key: (Addr, u8, Vec<Addr>),
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of `allgs`.
    pub leaks: Vec<Leak>,
    /// As many as there is room for.
    pub groups: Vec<Group>,
    /// Goroutines whose group found no room.
    pub other: u64,
}

/// Describes findings, in `max` groups at most.
///
/// # Errors
/// As [`Tracer::trace`].
pub fn describe(
    findings: &mut [Finding],
    tracer: &mut Tracer,
    target: &mut Target<'_>,
    max: usize,
) -> Result<Report, Error> {
    findings.sort_unstable_by_key(|finding| finding.goid);
    let (mut report, mut alive, mut returns) = (Report::default(), Vec::new(), Vec::new());
    tracer.trace(target, &mut |target, g, stack| {
        alive.push(g.goid);
        let found = findings.binary_search_by_key(&g.goid, |finding| finding.goid);
        let Some(finding) = found.ok().and_then(|place| findings.get(place)) else { return true };
        target.symbols.returns(target.image, stack.frames, FRAMES_MAX, &mut returns);
        let key = (g.gopc, g.reason, returns.as_slice());
        let known = |group: &Group| (group.key.0, group.key.1, group.key.2.as_slice()) == key;
        let group = match report.groups.iter().position(known) {
            Some(group) => group,
            None if report.groups.len() < max => {
                report.groups.push(group(target, (g.gopc, g.reason), finding.wait, &returns));
                report.groups.len() - 1
            }
            None => {
                report.other += 1;
                return true;
            }
        };
        let (goid, parent, orphan) = (g.goid, g.parent, false);
        let Finding { grade, grows, marked, waited_s, .. } = *finding;
        report.leaks.push(Leak { goid, grade, parent, orphan, grows, marked, waited_s, group });
        true
    })?;
    alive.sort_unstable();
    for leak in &mut report.leaks {
        leak.orphan = leak.parent != 0 && alive.binary_search(&leak.parent).is_err();
    }
    Ok(report)
}

fn group(target: &mut Target<'_>, (gopc, reason): (Addr, u8), waits_for: Wait, returns: &[Addr]) -> Group {
    let minor = target.runtime.go.minor;
    let name = |function: &str| printed_name(function, minor).concat();
    let base = |file: &str| String::from(file.rsplit('/').next().unwrap_or_default());
    let frame = |target: &mut Target<'_>, pc: &Addr| {
        let (frame, _) = target.symbols.at(target.image, *pc).ok()?;
        Some(GoFrame { function: name(&frame.function), file: base(&frame.file), line: frame.line })
    };
    let frames = returns.iter().filter_map(|pc| frame(target, pc));
    // How the runtime parks it is the same for all.
    let own = |frame: &GoFrame| frame.function.starts_with("runtime.");
    let stack: Vec<GoFrame> =
        frames.skip_while(own).filter(|frame| frame.function != "runtime.goexit").collect();
    let creation = target.runtime.creation(target.image, gopc).ok();
    let (created_by, created_at) =
        creation.map(|place| (name(&place.function), (base(&place.file), place.line))).unwrap_or_default();
    let wait = target.runtime.layout.wait_texts.get(usize::from(reason)).copied().unwrap_or_default();
    let known = recognise(&created_by, stack.iter().map(|frame| frame.function.as_str()));
    Group {
        wait,
        waits_for,
        gopc,
        created_by,
        created_at,
        stack,
        known,
        key: (gopc, reason, returns.to_vec()),
    }
}
