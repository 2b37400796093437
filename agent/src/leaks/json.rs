//! Leaks for scripts: one object. Keys are only ever added to; what is not known is null.

use std::io::{self, Write};

use glg_engine::known::Known;
use glg_engine::layout::Arch;
use glg_engine::locks::in_go::GoFrame;
use glg_engine::reach::report::Leak;

use super::Told;
use crate::json::{array, object as fields, string};

/// Writes it piece by piece: a program may leak a million goroutines.
pub(super) fn write(told: &Told, out: &mut impl Write) -> io::Result<()> {
    let arch = match told.arch {
        Arch::Amd64 => "amd64",
        Arch::Arm64 => "arm64",
    };
    let (pid, go, goroutines) = (told.pid, string(&told.go), told.goroutines);
    write!(out, "{{\"pid\":{pid},\"go\":{go},\"arch\":\"{arch}\",\"goroutines\":{goroutines},\"leaked\":[")?;
    let mut separator = "";
    for found in told.report.leaks.iter().filter_map(|found| leak(told, found)) {
        write!(out, "{separator}{found}")?;
        separator = ",";
    }
    let rest = fields(&[
        ("abstained", told.abstained.map_or_else(|| "null".to_owned(), |why| string(&why.to_string()))),
        ("not_described", told.report.other.to_string()),
        ("passes", told.looks.0.to_string()),
        ("glances", told.looks.1.to_string()),
        ("observed_ms", told.observed.as_millis().to_string()),
        ("spent_ms", told.spent.as_millis().to_string()),
        ("memory_bytes", told.figures.bytes.to_string()),
        ("scanned_bytes", told.figures.scanned.to_string()),
    ]);
    writeln!(out, "],{}", rest.trim_start_matches('{'))
}

fn leak(told: &Told, leak: &Leak) -> Option<String> {
    let group = told.report.groups.get(leak.group)?;
    let (file, line) = &group.created_at;
    Some(fields(&[
        ("goid", leak.goid.to_string()),
        ("grade", string(leak.grade.as_str())),
        ("wait", string(group.wait)),
        ("created_by", string(&group.created_by)),
        ("created_at", string(&format!("{file}:{line}"))),
        ("orphan", leak.orphan.to_string()),
        ("grows", leak.grows.to_string()),
        ("waited_s", leak.waited_s.to_string()),
        ("marked_by_runtime", leak.marked.to_string()),
        ("known", group.known.map_or_else(|| "null".to_owned(), known)),
        ("stack", array(group.stack.iter().map(frame))),
    ]))
}

/// Which library that is part of.
fn known(known: &Known) -> String {
    fields(&[("what", string(known.what)), ("likely_missing", string(known.call))])
}

/// `main.work main.go:31`.
fn frame(frame: &GoFrame) -> String {
    string(&format!("{} {}:{}", frame.function, frame.file, frame.line))
}
