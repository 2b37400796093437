//! What a new Go release changed, for the person who adds it.

use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::dwarf::Types;
use super::{render, source, spec};
use crate::go::Go;

/// Declarations our readers rely on that have no DWARF: file below `src`, and how the line starts.
const DECLARATIONS: &[(&str, &str)] = &[
    ("internal/abi/symtab.go", "CurrentPCLnTabMagic"),
    ("runtime/proc.go", "func newproc1("),
    ("runtime/proc.go", "func goexit0("),
    ("runtime/proc.go", "func gcount("),
    ("runtime/proc.go", "func allgadd("),
    ("runtime/proc.go", "func schedinit("),
    ("runtime/proc.go", "func procresize("),
    ("runtime/proc.go", "func mcommoninit("),
    ("runtime/cgocall.go", "func cgocall("),
];

/// Printed at the end of `--add`.
pub(super) const CHECKLIST: &str = "
The rows are in engine/src/layout/table.rs and the release in go-programs/go-versions.txt. Now look at:
  1. every line above: a member that moved is handled, one that is gone or new may change what a count means
     (runtime.gcount in runtime/proc.go is the reference);
  2. wait reasons marked `no word of ours`: give them one in xtask/src/layouts/render.rs, or leave them `Other`;
  3. declarations that changed: probes read newproc1's arguments, the function table's magic names its format;
  4. `cargo xtask test`: it counts, walks and probes live programs of every release in the list;
  5. README.md (supported versions) and CHANGELOG.md.
";

/// Members of the structs that we read which moved, went or came.
pub(super) fn structs(old: &Types, new: &Types) -> String {
    let mut out = String::new();
    let names = spec::STRUCTS.iter().flat_map(|s| s.go.split('|')).chain(spec::WATCHED.iter().copied());
    for name in names {
        let (before, after) = (members(old, name), members(new, name));
        for (member, offset) in &before {
            let _ = match after.get(member) {
                None => writeln!(out, "  {name}.{member} (at {offset}) is gone{}", needed(name, member)),
                Some(now) if now != offset => writeln!(out, "  {name}.{member} moved from {offset} to {now}"),
                Some(_) => Ok(()),
            };
        }
        for (member, offset) in after.iter().filter(|(m, _)| !before.contains_key(*m)) {
            let _ = writeln!(out, "  {name}.{member} is new, at {offset}");
        }
    }
    if out.is_empty() { "  no struct changed\n".to_owned() } else { out }
}

/// Wait reasons, statuses and declarations that changed.
pub(super) fn sources(old: &Go, new: &Go) -> Result<String> {
    let mut out = String::new();
    let (before, after) = (source::wait_reasons(&old.root)?, source::wait_reasons(&new.root)?);
    for (number, text) in after.iter().enumerate() {
        let word = if render::wait(text) == "Other" { ", no word of ours" } else { "" };
        match before.iter().position(|t| t == text) {
            None => writeln!(out, "  wait reason {number} {text:?} is new{word}")?,
            Some(was) if was != number => {
                writeln!(out, "  wait reason {text:?} was {was}, is {number}{word}")?;
            }
            Some(_) => {}
        }
    }
    for text in before.iter().filter(|t| !after.contains(t)) {
        writeln!(out, "  wait reason {text:?} is gone")?;
    }
    let (before, after) = (source::statuses(&old.root)?, source::statuses(&new.root)?);
    if before != after {
        writeln!(out, "  goroutine statuses were {before:?}, are {after:?}")?;
    }
    for (file, start) in DECLARATIONS {
        let (was, is) = (source::line(&old.root, file, start)?, source::line(&new.root, file, start)?);
        if was != is {
            let shown = |l: Option<String>| l.unwrap_or_else(|| "nothing".to_owned());
            writeln!(out, "  {file}: `{}` became `{}`", shown(was), shown(is))?;
        }
    }
    Ok(out)
}

/// The first lines in which two texts differ, with their numbers.
pub(super) fn lines(kept: &str, fresh: &str) -> String {
    const SHOWN: usize = 20;
    let mut out = String::new();
    let (mut a, mut b) = (kept.lines(), fresh.lines());
    let mut shown = 0;
    for number in 1.. {
        let (old, new) = (a.next(), b.next());
        if old.is_none() && new.is_none() {
            break;
        }
        if old != new {
            let _ = writeln!(out, "{number}: - {}\n{number}: + {}", old.unwrap_or(""), new.unwrap_or(""));
            shown += 1;
        }
        if shown == SHOWN {
            out.push_str("…\n");
            break;
        }
    }
    out
}

fn members(types: &Types, name: &str) -> BTreeMap<String, u64> {
    let Some(ty) = types.find(name) else { return BTreeMap::new() };
    let size = ty.size.map(|s| ("(its end)".to_owned(), s));
    ty.members.iter().map(|m| (m.name.clone(), m.offset)).chain(size).collect()
}

/// A remark where the specification asks for the member.
fn needed(name: &str, member: &str) -> &'static str {
    let spec = spec::STRUCTS.iter().find(|s| s.go.split('|').any(|go| go == name));
    let paths = spec.into_iter().flat_map(|s| s.members).flat_map(|m| m.paths).flat_map(|p| p.split('+'));
    let asked = paths.filter_map(|p| p.split('.').next()).any(|first| first == member);
    if asked { ": we read it" } else { "" }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_differing_lines_are_shown() {
        assert_eq!(super::lines("a\nb\n", "a\nc\n"), "2: - b\n2: + c\n");
        assert_eq!(super::lines("a\n", "a\n"), "");
    }
}
