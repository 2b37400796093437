//! A compact dump (`goleakguard dump --compact`, which is also what travels) made the text of Go's `debug=2` again.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

/// First line of a compact dump.
const FIRST_LINE: &str = "goleakguard dump 1";
/// Different stacks of one dump, at most: what no board's configuration exceeds.
const STACKS_MAX: usize = 1 << 16;
/// Bytes of text of all of them, at most.
const TEXT_MAX: usize = 256 << 20;

/// Why a dump could not be expanded.
#[derive(Debug)]
pub(crate) enum ExpandError {
    /// Reading or writing failed.
    Io(io::Error),
    /// In which line it is no compact dump, and what is wrong with it.
    Malformed(u64, &'static str),
}

impl From<io::Error> for ExpandError {
    fn from(error: io::Error) -> ExpandError {
        ExpandError::Io(error)
    }
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpandError::Io(error) => write!(f, "{error}"),
            ExpandError::Malformed(line, what) => write!(f, "not a compact dump: line {line}: {what}"),
        }
    }
}

impl std::error::Error for ExpandError {}

/// Lines with their number.
struct Lines<R> {
    from: R,
    line: String,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end; `None` at the end of all.
    fn next(&mut self) -> io::Result<Option<&str>> {
        self.line.clear();
        self.number += 1;
        if self.from.read_line(&mut self.line)? == 0 {
            return Ok(None);
        }
        Ok(Some(self.line.strip_suffix('\n').unwrap_or(&self.line)))
    }

    fn malformed(&self, what: &'static str) -> ExpandError {
        ExpandError::Malformed(self.number, what)
    }
}

/// `glg expand`.
pub(crate) fn run(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let out = BufWriter::new(stdout().lock());
    match file {
        Some(file) => {
            let name = || file.display().to_string();
            let from = BufReader::new(File::open(file).with_context(name)?);
            expand(from, out).with_context(name)?;
        }
        None => {
            expand(stdin().lock(), out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the goroutines of a compact dump one after the other; says how many they are.
///
/// # Errors
/// [`ExpandError`]; what was written before is true.
pub(crate) fn expand(from: impl BufRead, mut to: impl Write) -> Result<u64, ExpandError> {
    let mut lines = Lines { from, line: String::new(), number: 0 };
    if lines.next()? != Some(FIRST_LINE) {
        return Err(lines.malformed("the first one is another"));
    }
    let (mut stacks, mut last, mut count) = (Stacks::default(), None, 0);
    while let Some(line) = lines.next()? {
        if let Some(name) = line.strip_prefix("stack ") {
            let number = number(name).ok_or(lines.malformed("a stack without a number"))?;
            stacks.read(&mut lines, number)?;
            continue;
        }
        let g: Goroutine = if line.starts_with("goroutine ") {
            let (goid, state) = header(line).ok_or(lines.malformed("no number and state of a goroutine"))?;
            let second = lines.next()?.and_then(stack_and_parent);
            let (stack, parent) = second.ok_or(lines.malformed("no stack of a goroutine"))?;
            Goroutine { goid, state, stack, parent }
        } else {
            let next = line.parse().ok().and_then(|by| next(last.take()?, by));
            next.ok_or(lines.malformed("neither a stack nor a goroutine"))?
        };
        let stack = stacks.get(g.stack).ok_or(lines.malformed("a stack that has not come yet"))?;
        if count > 0 {
            to.write_all(b"\n")?;
        }
        writeln!(to, "goroutine {} {}", g.goid, g.state)?;
        write_stack(&mut to, stack, g.parent)?;
        count += 1;
        last = Some(g);
    }
    to.flush()?;
    Ok(count)
}

/// What is told of a goroutine.
struct Goroutine {
    goid: u64,
    /// In brackets, with what follows.
    state: String,
    stack: Option<usize>,
    parent: u64,
}

/// One like the one before, but for its number.
fn next(last: Goroutine, by: i64) -> Option<Goroutine> {
    Some(Goroutine { goid: last.goid.checked_add_signed(by)?, ..last })
}

/// `goroutine 18 [chan send]:`
fn header(line: &str) -> Option<(u64, String)> {
    let (goid, state) = line.strip_prefix("goroutine ")?.split_once(' ')?;
    Some((goid.parse().ok()?, state.to_owned()))
}

/// The stacks that have come.
#[derive(Default)]
struct Stacks {
    stacks: Vec<String>,
    /// One that found no place in the sender's table.
    unnumbered: String,
    /// Bytes of them.
    text: usize,
}

impl Stacks {
    fn read(&mut self, lines: &mut Lines<impl BufRead>, number: Option<usize>) -> Result<(), ExpandError> {
        let body = body(lines, TEXT_MAX - self.text)?;
        match number {
            None => self.unnumbered = body,
            Some(number) if number == self.stacks.len() && number < STACKS_MAX => {
                self.text += body.len();
                self.stacks.push(body);
            }
            Some(_) => return Err(lines.malformed("a stack with a number that is not the next")),
        }
        Ok(())
    }

    fn get(&self, number: Option<usize>) -> Option<&str> {
        match number {
            None => Some(&self.unnumbered),
            Some(number) => self.stacks.get(number).map(String::as_str),
        }
    }
}

/// The name of a stack: its number, or `-` for none.
fn number(name: &str) -> Option<Option<usize>> {
    if name == "-" { Some(None) } else { name.parse().ok().map(Some) }
}

/// The second line of a goroutine.
fn stack_and_parent(line: &str) -> Option<(Option<usize>, u64)> {
    let (stack, parent) = line.split_once(' ')?;
    Some((number(stack)?, parent.parse().ok()?))
}

/// Everything up to the line that ends it.
fn body(lines: &mut Lines<impl BufRead>, max: usize) -> Result<String, ExpandError> {
    let mut body = String::new();
    loop {
        match lines.next()? {
            None => return Err(lines.malformed("a stack without an end")),
            Some(".") => return Ok(body),
            Some(line) => {
                if body.len() + line.len() >= max {
                    return Err(lines.malformed("more text than a dump may have"));
                }
                body.push_str(line);
                body.push('\n');
            }
        }
    }
}

/// A stack, with the goroutine that created this one.
fn write_stack(to: &mut impl Write, stack: &str, parent: u64) -> io::Result<()> {
    const CREATED: &str = "created by ";
    let created = match stack.starts_with(CREATED) {
        true => Some(0),
        false => stack.rfind("\ncreated by ").map(|at| at + 1),
    };
    let Some((frames, creation)) = created.filter(|_| parent != 0).and_then(|at| stack.split_at_checked(at))
    else {
        return to.write_all(stack.as_bytes());
    };
    let (function, place) = creation.split_once('\n').unwrap_or((creation, ""));
    write!(to, "{frames}{function} in goroutine {parent}\n{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPACT: &str = "\
goleakguard dump 1
stack 0
main.send(...)
\t/src/main.go:12 +0x1d
created by main.main
\t/src/main.go:30 +0x5a
.
goroutine 18 [chan send]:
0 1
stack -
\tgoroutine running on other thread; stack unavailable
.
goroutine 1 [running]:
- 0
goroutine 21 [chan send, 2 minutes]:
0 0
-2
";

    const PLAIN: &str = "\
goroutine 18 [chan send]:
main.send(...)
\t/src/main.go:12 +0x1d
created by main.main in goroutine 1
\t/src/main.go:30 +0x5a

goroutine 1 [running]:
\tgoroutine running on other thread; stack unavailable

goroutine 21 [chan send, 2 minutes]:
main.send(...)
\t/src/main.go:12 +0x1d
created by main.main
\t/src/main.go:30 +0x5a

goroutine 19 [chan send, 2 minutes]:
main.send(...)
\t/src/main.go:12 +0x1d
created by main.main
\t/src/main.go:30 +0x5a
";

    fn expanded(compact: &str) -> Result<(u64, String), String> {
        let mut out = Vec::new();
        let count = expand(compact.as_bytes(), &mut out).map_err(|error| error.to_string())?;
        Ok((count, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn as_go_prints_it() {
        assert_eq!(expanded(COMPACT), Ok((4, PLAIN.to_owned())));
    }

    #[test]
    fn every_cut_and_every_damaged_line_is_told_or_harmless() {
        for cut in 0..COMPACT.len() {
            let _ = expanded(&COMPACT[..cut]);
        }
        let lines: Vec<&str> = COMPACT.lines().collect();
        for at in 0..lines.len() {
            let mut damaged = lines.clone();
            damaged[at] = "x";
            let _ = expanded(&damaged.join("\n"));
        }
        for (wrong, line) in [("", 1), ("goleakguard dump 2\n", 1), ("goleakguard dump 1\nx\n", 2)] {
            assert!(expanded(wrong).unwrap_err().contains(&format!("line {line}")), "{wrong}");
        }
        assert!(expanded("goleakguard dump 1\n1\n").unwrap_err().contains("line 2"));
        let early = "goleakguard dump 1\ngoroutine 1 [x]:\n0 1\n";
        assert_eq!(expanded(early), Err("not a compact dump: line 3: a stack that has not come yet".into()));
    }
}
