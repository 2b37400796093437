//! The list for people: aligned, at most [`WIDTH`] columns wide.

use std::fmt::Write;

use super::Program;

/// Columns of a line.
const WIDTH: usize = 120;
/// Between two columns.
const GAP: usize = 2;
/// How far a column may be cut to make room for others, in characters.
const MODULE_MIN: usize = 24;
const NAME_MIN: usize = 10;
const NAME_GOOD: usize = 20;
const GO_MIN: usize = 10;
/// Columns of numbers are aligned at their ends.
const RIGHT: [usize; 5] = [PID, GOROUTINES, THREADS, WAITS, LONGEST];
const PID: usize = 0;
const GO: usize = 1;
const GOROUTINES: usize = 2;
const THREADS: usize = 3;
const WAITS: usize = 5;
const LONGEST: usize = 6;
const NAME: usize = 8;
const MODULE: usize = 9;
const NOTE: usize = 10;
const COLUMNS: usize = 11;
const HEADER: [&str; COLUMNS] =
    ["PID", "GO", "GOROUTINES", "THREADS", "RUNG", "WAITS", "LONGEST", "STRIPPED", "NAME", "MODULE", "NOTE"];

type Row = [String; COLUMNS];

pub(super) fn table(programs: &[Program]) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(programs.iter().map(row));
    let shown = shown(programs);
    let widths = widths(&rows, &shown);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((column, cell), width) in row.iter().enumerate().zip(&widths) {
            if !shown.contains(&column) {
                continue;
            }
            let cell = if column == MODULE { cut_module(cell, *width) } else { cut(cell, *width) };
            if RIGHT.contains(&column) {
                let _ = write!(line, "{cell:>width$}");
            } else {
                let _ = write!(line, "{cell:<width$}");
            }
            line.push_str("  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The columns that there are: without waits or notes there are none for them.
fn shown(programs: &[Program]) -> Vec<usize> {
    let waits = programs.iter().any(|program| program.waits.is_some());
    let notes = programs.iter().any(|program| program.note.is_some());
    let is_shown = |column: &usize| match *column {
        WAITS | LONGEST => waits,
        NOTE => notes,
        _ => true,
    };
    (0..COLUMNS).filter(is_shown).collect()
}

fn row(program: &Program) -> Row {
    let told = |text: &str| if text.is_empty() { "-".to_owned() } else { visible(text) };
    let or_dash = |known: Option<String>| known.unwrap_or_else(|| "-".to_owned());
    let module = match (program.module.as_str(), program.version.as_str()) {
        // Built without modules.
        ("", _) => program.package.clone(),
        (module, "") => module.to_owned(),
        (module, version) => format!("{module} {version}"),
    };
    let stripped = program.stripped.map_or("-", |stripped| if stripped { "yes" } else { "no" });
    [
        program.pid.to_string(),
        told(&program.go),
        or_dash(program.goroutines.map(|number| number.to_string())),
        program.threads.to_string(),
        program.rung.map_or("-", |rung| rung.as_str()).to_owned(),
        or_dash(program.waits.map(|waits| waits.threads.to_string())),
        or_dash(program.waits.map(|waits| format!("{} s", waits.longest_s))),
        stripped.to_owned(),
        told(&program.name),
        told(&module),
        visible(program.note.as_deref().unwrap_or_default()),
    ]
}

/// Nothing that a terminal obeys.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// As wide as what is in them; where that is too much, names and modules give way, and last the notes.
fn widths(rows: &[Row], shown: &[usize]) -> [usize; COLUMNS] {
    let longest =
        |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| length(cell)).max().unwrap_or(0);
    let mut widths: [usize; COLUMNS] =
        std::array::from_fn(|column| if shown.contains(&column) { longest(column) } else { 0 });
    let mut over = (widths.iter().sum::<usize>() + GAP * (shown.len() - 1)).saturating_sub(WIDTH);
    for (column, least) in
        [(NAME, NAME_GOOD), (MODULE, MODULE_MIN), (NAME, NAME_MIN), (GO, GO_MIN), (NOTE, 0)]
    {
        let Some(width) = widths.get_mut(column) else { continue };
        let less = over.min(width.saturating_sub(least));
        *width -= less;
        over -= less;
    }
    widths
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// The beginning of what is too long.
fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A module and its version: the version keeps a half if it needs that much, the path has the rest.
fn cut_module(text: &str, width: usize) -> String {
    match text.split_once(' ') {
        Some((path, version)) if length(text) > width => {
            let version = cut_front(version, width.saturating_sub(length(path) + 1).max(width / 2));
            format!("{} {version}", cut_front(path, width.saturating_sub(length(&version) + 1)))
        }
        _ => cut_front(text, width),
    }
}

/// The end of what is too long: it tells the most. Of a path from a whole element on, where that leaves enough.
fn cut_front(text: &str, width: usize) -> String {
    let Some(over) = length(text).checked_sub(width).filter(|over| *over > 0) else { return text.to_owned() };
    let rest: String = text.chars().skip(over + 1).collect();
    match rest.find('/').and_then(|at| rest.get(at..)) {
        Some(elements) if length(elements) * 2 >= width => format!("…{elements}"),
        _ => format!("…{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ps::Waits;
    use glg_engine::step::Rung;

    fn program() -> Program {
        Program {
            pid: 4711,
            name: "otad".to_owned(),
            path: "/opt/ota/otad".to_owned(),
            go: "1.24.11".to_owned(),
            package: "van.example/ota/cmd/otad".to_owned(),
            module: "van.example/ota".to_owned(),
            version: "v1.2.3".to_owned(),
            stripped: Some(true),
            goroutines: Some(230),
            threads: 9,
            rung: Some(Rung::Watch),
            waits: None,
            note: None,
        }
    }

    #[test]
    fn columns_are_aligned() {
        let other =
            Program { pid: 12, goroutines: Some(18_000), rung: None, stripped: Some(false), ..program() };
        let without = Program { module: String::new(), version: String::new(), ..program() };
        assert_eq!(
            table(&[program(), other, without]),
            " PID  GO       GOROUTINES  THREADS  RUNG   STRIPPED  NAME  MODULE\n\
             4711  1.24.11         230        9  watch  yes       otad  van.example/ota v1.2.3\n  \
               12  1.24.11       18000        9  -      no        otad  van.example/ota v1.2.3\n\
             4711  1.24.11         230        9  watch  yes       otad  van.example/ota/cmd/otad\n"
        );
        assert_eq!(table(&[]).lines().count(), 1);
    }

    #[test]
    fn waits_are_shown_when_there_are_any() {
        let waits = Program { waits: Some(Waits { threads: 2, longest_s: 86_412 }), ..program() };
        assert_eq!(
            table(&[waits, program()]),
            " PID  GO       GOROUTINES  THREADS  RUNG   WAITS  LONGEST  STRIPPED  NAME  MODULE\n\
             4711  1.24.11         230        9  watch      2  86412 s  yes       otad  van.example/ota v1.2.3\n\
             4711  1.24.11         230        9  watch      -        -  yes       otad  van.example/ota v1.2.3\n"
        );
    }

    #[test]
    fn what_is_long_is_cut_where_it_tells_least() {
        let long = Program {
            module: format!("git.example.com/{}/vehicle/gateway", "department/".repeat(9)),
            version: "v0.0.0-20260102150405-0123456789ab".to_owned(),
            name: "gateway-of-the-vehicle-to-the-cloud".to_owned(),
            rung: Some(Rung::Attribute),
            ..program()
        };
        let noted =
            Program { note: Some("not initialised yet".to_owned()), goroutines: None, ..long.clone() };
        for programs in [vec![long.clone()], vec![noted.clone(), program()]] {
            let text = table(&programs);
            assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
            assert!(text.contains("/gateway ") && text.contains("456789ab"), "{text}");
        }
        let text = table(std::slice::from_ref(&noted));
        assert!(text.contains("not initialised yet"), "{text}");
        let text = table(&[long]);
        assert!(text.contains("/gateway …") && text.contains("-0123456789ab\n"), "{text}");
        let waits = Some(Waits { threads: u16::MAX, longest_s: u32::MAX.into() });
        let endless = Program { note: Some("x".repeat(500)), waits, ..program() };
        assert!(table(&[endless.clone(), noted]).lines().all(|line| length(line) <= WIDTH));
        assert!(table(&[endless]).lines().all(|line| length(line) <= WIDTH));
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        let hostile = Program { name: "\u{1b}[2J\n".to_owned(), ..program() };
        let text = table(&[hostile]);
        assert!(text.contains("?[2J?") && text.lines().count() == 2, "{text:?}");
    }

    #[test]
    fn paths_begin_with_a_whole_element_where_one_fits() {
        for (width, cut) in [
            (36, "van.example/platform/gateway v1.0.10"),
            (35, "…/platform/gateway v1.0.10"),
            (20, "…/gateway v1.0.10"),
            (12, "…eway ….0.10"),
        ] {
            assert_eq!(cut_module("van.example/platform/gateway v1.0.10", width), cut);
        }
        assert_eq!(cut_module("command-line-arguments", 10), "…arguments");
    }
}
