//! Tracebacks as Go prints them and as we do, without what may differ.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// Goroutines by their number: first the header, then functions and places in turn.
pub(crate) type Stacks = BTreeMap<u64, Vec<String>>;

/// Reads a traceback. What is left out is how long a goroutine waits.
pub(crate) fn stacks(traceback: &str) -> Stacks {
    let mut all = Stacks::new();
    for block in traceback.trim_end().split("\n\n") {
        let number = number(block).unwrap_or_else(|| panic!("no goroutine: {block}"));
        let lines = block.lines().map(comparable).collect();
        assert!(all.insert(number, lines).is_none(), "goroutine {number} twice");
    }
    all
}

/// Reads the traceback of a crash, which also has addresses of goroutines and frames, registers, and the
/// runtime's own goroutines and functions: those are left out.
pub(crate) fn crash_stacks(traceback: &str) -> Stacks {
    let mut all = Stacks::new();
    for block in traceback.trim().split("\n\n") {
        let Some(number) = number(block) else { continue };
        let lines = shown(block);
        let system = lines.get(1).is_none_or(|line| line.starts_with("created by "));
        // The goroutine 0 of a crash is the scheduler's.
        if number != 0 && !system {
            assert!(all.insert(number, lines).is_none(), "goroutine {number} twice");
        }
    }
    all
}

fn number(block: &str) -> Option<u64> {
    block.strip_prefix("goroutine ")?.split(' ').next()?.parse().ok()
}

fn shown(block: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut hidden = false;
    for line in block.lines() {
        if !line.starts_with('\t') {
            hidden = is_hidden(line);
        }
        let line = line.split(" fp=0x").next().unwrap_or(line);
        lines.extend((!hidden).then(|| comparable(line)));
    }
    lines
}

/// `showfuncinfo` in `runtime/traceback.go`: of the runtime only exported functions are shown.
fn is_hidden(function: &str) -> bool {
    let Some(name) = function.strip_prefix("runtime.") else { return false };
    !name.starts_with(|c: char| c.is_ascii_uppercase())
}

fn comparable(line: &str) -> String {
    if line.starts_with("goroutine ") {
        let (number, state) = line.split_once('[').unwrap_or_else(|| panic!("no state: {line}"));
        let number = number.split_whitespace().nth(1).unwrap_or_default();
        let parts = state.trim_end_matches("]:").split(", ").filter(|part| !part.ends_with(" minutes"));
        return format!("goroutine {number} [{}]:", parts.collect::<Vec<_>>().join(", "));
    }
    line.to_owned()
}

/// Without arguments.
pub(crate) fn plain(stacks: &Stacks) -> Stacks {
    let functions = |lines: &Vec<String>| lines.iter().map(|line| function(line).to_owned()).collect();
    stacks.iter().map(|(number, lines)| (*number, functions(lines))).collect()
}

/// The goroutines whose arguments are the same in both, too.
pub(crate) fn steady(first: &Stacks, second: &Stacks) -> Stacks {
    let same = first.iter().filter(|(number, lines)| second.get(number) == Some(lines));
    same.map(|(number, lines)| (*number, lines.clone())).collect()
}

/// What is in both, by its number.
pub(crate) fn shared(stacks: &Stacks, other: &Stacks) -> Stacks {
    let shared = stacks.iter().filter(|(number, _)| other.contains_key(number));
    shared.map(|(number, lines)| (*number, lines.clone())).collect()
}

/// A function without its arguments; any other line as it is.
pub(crate) fn function(line: &str) -> &str {
    let other = ["\t", "goroutine ", "created by ", "..."].iter().any(|start| line.starts_with(start));
    if other { line } else { &line[..arguments_at(line)] }
}

/// Where the arguments begin: the parenthesis that the last one closes.
fn arguments_at(line: &str) -> usize {
    let mut depth = 0;
    for (at, c) in line.char_indices().rev() {
        depth += match c {
            ')' => 1,
            '(' => -1,
            _ => 0,
        };
        if depth == 0 {
            return at;
        }
    }
    panic!("no arguments: {line}");
}

/// What a goroutine waits for: `select` of `goroutine 7 [select, locked to thread]:`.
pub(crate) fn state(lines: &[String]) -> &str {
    let words = lines[0].split_once('[').unwrap().1;
    words.split([',', ']']).next().unwrap()
}

/// The function in `created by main.main in goroutine 1`.
fn creator(line: &str) -> &str {
    let function = line.strip_prefix("created by ").unwrap_or(line);
    function.split(" in goroutine").next().unwrap_or(function)
}

/// Where goroutines are created and what they wait for: function, file, line, state.
pub(crate) type Site = (String, String, u64, String);

/// As in a census, the main goroutine comes from nowhere.
fn site(lines: &[String]) -> Site {
    let state = state(lines).to_owned();
    let Some(created) = lines.iter().position(|line| line.starts_with("created by ")) else {
        return (String::new(), String::new(), 0, state);
    };
    let place = lines[created + 1].trim_start_matches('\t').split(" +0x").next().unwrap();
    let (file, line) = place.rsplit_once(':').unwrap();
    (creator(&lines[created]).to_owned(), file.to_owned(), line.parse().unwrap(), state)
}

/// How many goroutines there are at each site.
pub(crate) fn sites(stacks: &Stacks) -> BTreeMap<Site, u32> {
    let mut sites = BTreeMap::new();
    for lines in stacks.values() {
        *sites.entry(site(lines)).or_default() += 1;
    }
    sites
}

/// Every goroutine is shown to its end: where it was created, or the main function.
pub(crate) fn assert_complete(what: &str, stacks: &Stacks) {
    for (number, lines) in stacks {
        let [.., function, place] = lines.as_slice() else { panic!("{what}: {number}: {lines:?}") };
        let end = if *number == 1 { "main.main" } else { "created by " };
        assert!(function.starts_with(end), "{what}: {number} does not end: {lines:#?}");
        assert!(place.starts_with('\t') && place.contains(".go:"), "{what}: {number}: {lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("unknown")), "{what}: {number}: {lines:#?}");
    }
}

/// A crash also shows what the compiler wraps around functions: methods of embedded types, and `go` statements
/// with arguments. By its text the latter cannot be told from a function literal in the same line: where the
/// outermost function stands in the line of the `go` statement, it is left out.
pub(crate) fn without_wrappers(mut stacks: Stacks) -> Stacks {
    for lines in stacks.values_mut() {
        while let Some(at) = lines.iter().position(|line| line.starts_with("\t<autogenerated>:")) {
            lines.drain(at - 1..=at);
        }
        let length = lines.len();
        let [.., outermost, place, created, statement] = lines.as_slice() else { continue };
        let line = |place: &str| place.split(" +0x").next().map(str::to_owned);
        if outermost.starts_with(creator(created)) && line(place) == line(statement) {
            lines.drain(length - 4..length - 2);
        }
    }
    stacks
}

/// The same on both sides; otherwise only what differs is shown.
pub(crate) fn assert_same<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    inside: &BTreeMap<K, V>,
    outside: &BTreeMap<K, V>,
) {
    let differs = |(key, value): &(&K, &V), other: &BTreeMap<K, V>| other.get(key) != Some(value);
    let only_inside: Vec<_> = inside.iter().filter(|entry| differs(entry, outside)).collect();
    let only_outside: Vec<_> = outside.iter().filter(|entry| differs(entry, inside)).collect();
    assert!(
        only_inside.is_empty() && only_outside.is_empty(),
        "{what}: Go says {only_inside:#?}\nwe say {only_outside:#?}"
    );
}
