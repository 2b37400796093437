//! Go's own text of all goroutines against ours, goroutine by goroutine and line by line.
//!
//! Differences that are allowed, and no others: minutes, and the goroutine that answers: it runs while it prints,
//! and waits for its input when we look; its frames from `oracle.Serve` outwards are compared by function.

use std::collections::BTreeMap;

/// The goroutine that answers.
pub(crate) const ASKED: u64 = 1;

/// Compares two texts of all goroutines, and says how many they have. `what` names the process.
pub(crate) fn compare(what: &str, inside: &str, outside: &str) -> usize {
    let (mut inside, mut outside) = (goroutines(inside), goroutines(outside));
    let asked = [&mut inside, &mut outside].map(|all| all.remove(&ASKED).unwrap());
    let [go, we] = asked.each_ref().map(|lines| outer_functions(lines));
    assert_eq!(go, we, "{what}: the goroutine that answers");
    same_goroutines(what, &inside, &outside);
    inside.len() + 1
}

/// Compares goroutines by their number.
pub(crate) fn same_goroutines(
    what: &str,
    inside: &BTreeMap<u64, Vec<String>>,
    outside: &BTreeMap<u64, Vec<String>>,
) {
    let numbers = |all: &BTreeMap<u64, Vec<String>>| all.keys().copied().collect::<Vec<_>>();
    assert_eq!(numbers(inside), numbers(outside), "{what}: goroutines");
    for (number, lines) in inside {
        let (go, we) = (lines.join("\n"), outside[number].join("\n"));
        assert_eq!(go, we, "{what}: goroutine {number}, Go left, we right");
    }
}

/// Goroutines of a traceback by their number, as lines without what may differ.
pub(crate) fn goroutines(traceback: &str) -> BTreeMap<u64, Vec<String>> {
    let comparable = |block: &str| block.lines().map(comparable).collect();
    blocks(traceback).into_iter().map(|(number, block)| (number, comparable(block))).collect()
}

/// Goroutines of a traceback by their number, as they are.
pub(crate) fn blocks(traceback: &str) -> BTreeMap<u64, &str> {
    let mut all = BTreeMap::new();
    for block in traceback.trim_end().split("\n\n") {
        let number = block.strip_prefix("goroutine ").and_then(|rest| rest.split(' ').next());
        let number = number.unwrap_or_else(|| panic!("no goroutine: {block}")).parse().unwrap();
        assert!(all.insert(number, block).is_none(), "goroutine {number} twice");
    }
    all
}

fn comparable(line: &str) -> String {
    if line.starts_with("goroutine ") {
        let parts = line.split(", ").filter(|part| !part.contains(" minutes"));
        let line = parts.collect::<Vec<_>>().join(", ");
        return if line.ends_with("]:") { line } else { line + "]:" };
    }
    line.to_owned()
}

/// Functions of the answering goroutine that are the same whatever it does.
fn outer_functions(lines: &[String]) -> Vec<&str> {
    let functions = lines.iter().skip(1).filter(|line| !line.starts_with('\t'));
    let outer = functions.skip_while(|line| !line.contains("oracle.Serve("));
    let outer: Vec<&str> = outer.map(|line| &line[..arguments_at(line)]).collect();
    assert!(!outer.is_empty(), "{lines:?}");
    outer
}

/// Where the arguments begin: the parenthesis that the last one closes.
fn arguments_at(line: &str) -> usize {
    let mut depth = 0;
    for (at, c) in line.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("no arguments: {line}");
}

/// Compares two profiles that count equal stacks.
pub(crate) fn compare_grouped(what: &str, inside: &str, outside: &str) {
    assert_eq!(inside.lines().next(), outside.lines().next(), "{what}");
    assert_eq!(stacks(inside), stacks(outside), "{what}: Go left, we right");
}

/// Stacks of a profile without the answering goroutine, columns no longer aligned.
fn stacks(profile: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let blocks = profile.trim_end().split_once('\n').unwrap().1.split("\n\n");
    let answers =
        |block: &str| block.contains("oracle.Serve") || block.contains("running: stack unavailable");
    for block in blocks.filter(|block| !answers(block)) {
        let (count, stack) = block.split_once(" @").unwrap_or_else(|| panic!("no stack: {block}"));
        let mut stack = stack.to_owned();
        while stack.contains("\t\t") {
            stack = stack.replace("\t\t", "\t");
        }
        assert!(all.insert(stack, count.parse().unwrap()).is_none(), "twice: {block}");
    }
    all
}
