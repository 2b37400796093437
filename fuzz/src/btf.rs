//! The kernel's description of its types.

use glg_engine::btf::{Question, answers};

use crate::foreign::File;

/// Any bytes are answers or an error, in one pass over the names and one over the types.
///
/// # Panics
/// When an answer is none that the bytes can have given.
pub fn check(data: &[u8]) {
    let questions = [
        Question::Offset("task", "pid"),
        Question::Offset("task", "state"),
        Question::Size("task"),
        Question::Size("stack"),
        Question::Function("wake"),
        Question::Function(""),
    ];
    let Ok(answers) = answers(&mut File(data), questions) else { return };
    let types = data.len() / 12;
    for number in answers.iter().skip(4).flatten() {
        assert!(usize::try_from(*number).is_ok_and(|number| number <= types), "type {number} of {types}");
    }
}

/// `int`, `struct task { int pid; int state; }`, `union stack { int pid; struct task task; }` and `void wake()`, as
/// Documentation/bpf/btf.rst has them.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let names = b"\0int\0task\0pid\0state\0wake\0stack\0";
    let types: [&[u32]; 5] = [
        &[1, 1 << 24, 4, 32],
        &[5, 4 << 24 | 2, 8, 10, 1, 0, 14, 1, 32],
        &[25, 5 << 24 | 2, 8, 10, 1, 0, 5, 2, 0],
        &[0, 13 << 24, 0],
        &[20, 12 << 24, 4],
    ];
    let types: Vec<u8> = types.concat().into_iter().flat_map(u32::to_le_bytes).collect();
    let narrow = |len: usize| u32::try_from(len).unwrap_or(0);
    let head = [24, 0, narrow(types.len()), narrow(types.len()), narrow(names.len())];
    let mut seed = vec![0x9f, 0xeb, 1, 0];
    seed.extend(head.into_iter().flat_map(u32::to_le_bytes));
    seed.extend(types.into_iter().chain(names.iter().copied()));
    vec![seed]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_answers() {
        let seed = seeds().concat();
        let questions =
            [Question::Offset("task", "state"), Question::Size("stack"), Question::Function("wake")];
        assert_eq!(answers(&mut File(&seed), questions), Ok([Some(4), Some(8), Some(5)]));
    }
}
