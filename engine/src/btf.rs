//! The kernel's own description of its types, `/sys/kernel/btf/vmlinux` (Documentation/bpf/btf.rst): where in
//! its structures the members are that our probes read, and which number a function has.
//!
//! It has several megabytes. It is read in small pieces, first the names, then the types, and nothing of it is
//! kept.

use crate::memory::{Error, Image, le};

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
/// Bytes read at a time.
const WINDOW: u32 = 4096;
/// Longest section: the largest kernels have a few megabytes.
const SECTION_MAX: u32 = 64 << 20;
/// Longest name that can be asked for.
const NAME_MAX: usize = 64;
const TYPE: u64 = 12;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC: u32 = 12;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// Offset of a member from the start of its structure, in bytes.
    Offset(&'a str, &'a str),
    /// Size of a structure or a union, in bytes.
    Size(&'a str),
    /// Number of a function.
    Function(&'a str),
}

/// Answers all questions; `None` for what this kernel does not have.
///
/// # Errors
/// [`Error::Unsupported`] for what is no BTF, [`Error::Malformed`], [`Error::Unreadable`].
pub fn answers<const N: usize>(
    image: &mut dyn Image,
    questions: [Question<'_>; N],
) -> Result<[Option<u32>; N], Error> {
    let mut header = [0u8; HEADER];
    image.read_at(0, &mut header)?;
    if le::u32(&header, 0)? & 0xffff != u32::from(MAGIC) {
        return Err(Error::Unsupported("no type information of a kernel"));
    }
    let word = |at: usize| le::u32(&header, at);
    let (length, types, types_len, names, names_len) = (word(4)?, word(8)?, word(12)?, word(16)?, word(20)?);
    if types_len > SECTION_MAX || names_len > SECTION_MAX {
        return Err(Error::Malformed { what: "sections of BTF", at: 0 });
    }
    let section = |at: u32| u64::from(length) + u64::from(at);
    let mut asked = questions.map(Asked::new);
    let mut bytes = Window::new(image, section(names), names_len);
    find_names(&mut bytes, &mut asked)?;
    let mut bytes = Window::new(image, section(types), types_len);
    find_types(&mut bytes, &mut asked)?;
    Ok(asked.map(|asked| asked.answer))
}

/// A question, with the places of its names.
struct Asked<'a> {
    question: Question<'a>,
    names: [Option<u32>; 2],
    answer: Option<u32>,
}

impl<'a> Asked<'a> {
    fn new(question: Question<'a>) -> Asked<'a> {
        Asked { question, names: [None; 2], answer: None }
    }

    fn words(&self) -> [&'a str; 2] {
        match self.question {
            Question::Offset(structure, member) => [structure, member],
            Question::Size(name) | Question::Function(name) => [name, ""],
        }
    }
}

/// Each name stands there once.
fn find_names(bytes: &mut Window<'_>, asked: &mut [Asked<'_>]) -> Result<(), Error> {
    let mut name: heapless::Vec<u8, NAME_MAX> = heapless::Vec::new();
    let (mut from, mut long) = (0, false);
    while let Some(byte) = bytes.next()? {
        if byte != 0 {
            long |= name.push(byte).is_err();
            continue;
        }
        for one in asked.iter_mut().filter(|_| !long && !name.is_empty()) {
            for (word, place) in one.words().into_iter().zip(&mut one.names) {
                if word.as_bytes() == name.as_slice() {
                    *place = Some(from);
                }
            }
        }
        (from, long) = (bytes.at(), false);
        name.clear();
    }
    Ok(())
}

fn find_types(bytes: &mut Window<'_>, asked: &mut [Asked<'_>]) -> Result<(), Error> {
    let mut number = 0u32;
    while u64::from(bytes.left()) >= TYPE {
        number = number.saturating_add(1);
        let (name, info, size) = (bytes.word()?, bytes.word()?, bytes.word()?);
        let (kind, count, bit_fields) = (info >> 24 & 0x1f, info & 0xffff, info >> 31 != 0);
        let is = |one: &Asked<'_>| name != 0 && one.names[0] == Some(name) && one.answer.is_none();
        match kind {
            STRUCT | UNION => {
                for one in asked.iter_mut().filter(|one| is(one)) {
                    if matches!(one.question, Question::Size(_)) {
                        one.answer = Some(size);
                    }
                }
                let wanted = |one: &Asked<'_>| is(one) && matches!(one.question, Question::Offset(..));
                if !asked.iter().any(wanted) {
                    bytes.skip(count * 12)?;
                    continue;
                }
                for _ in 0..count {
                    let (member, _, offset) = (bytes.word()?, bytes.word()?, bytes.word()?);
                    // With bit fields the upper byte is the number of bits.
                    let bits = if bit_fields { offset & 0x00ff_ffff } else { offset };
                    for one in asked.iter_mut().filter(|one| wanted(one)) {
                        if one.names[1] == Some(member) && member != 0 {
                            one.answer = Some(bits / 8);
                        }
                    }
                }
            }
            FUNC => {
                for one in asked.iter_mut().filter(|one| is(one)) {
                    if matches!(one.question, Question::Function(_)) {
                        one.answer = Some(number);
                    }
                }
            }
            _ => bytes
                .skip(tail(kind, count).ok_or(Error::Malformed { what: "type of BTF", at: bytes.from })?)?,
        }
    }
    Ok(())
}

/// Bytes behind a type's first three words (include/uapi/linux/btf.h).
fn tail(kind: u32, count: u32) -> Option<u32> {
    Some(match kind {
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Data sections, enumerations of 64 bits.
        15 | 19 => count * 12,
        // Enumerations, prototypes.
        6 | 13 => count * 8,
        // Pointers, forwards, aliases, qualifiers, floats, type tags.
        2 | 7..=11 | 16 | 18 => 0,
        _ => return None,
    })
}

/// A section, read in pieces.
struct Window<'i> {
    image: &'i mut dyn Image,
    from: u64,
    len: u32,
    next: u32,
    /// Of the section, what `bytes` begins with and how much of it there is.
    have: (u32, u32),
    bytes: [u8; WINDOW as usize],
}

impl<'i> Window<'i> {
    fn new(image: &'i mut dyn Image, from: u64, len: u32) -> Window<'i> {
        Window { image, from, len, next: 0, have: (0, 0), bytes: [0; WINDOW as usize] }
    }

    fn at(&self) -> u32 {
        self.next
    }

    fn left(&self) -> u32 {
        self.len.saturating_sub(self.next)
    }

    fn skip(&mut self, bytes: u32) -> Result<(), Error> {
        let damaged = Error::Malformed { what: "type of BTF", at: self.from + u64::from(self.next) };
        self.next = self.next.checked_add(bytes).filter(|next| *next <= self.len).ok_or(damaged)?;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<u8>, Error> {
        if self.next >= self.len {
            return Ok(None);
        }
        let (from, count) = self.have;
        if !(from..from + count).contains(&self.next) {
            let count = self.left().min(WINDOW);
            let into = self.bytes.get_mut(..count as usize).unwrap_or_default();
            self.image.read_at(self.from + u64::from(self.next), into)?;
            self.have = (self.next, count);
        }
        let byte = self.bytes.get((self.next - self.have.0) as usize).copied();
        self.next += 1;
        Ok(byte)
    }

    fn word(&mut self) -> Result<u32, Error> {
        let mut word = [0u8; 4];
        for byte in &mut word {
            let end = Error::Malformed { what: "end of BTF", at: self.from };
            *byte = self.next()?.ok_or(end)?;
        }
        Ok(u32::from_le_bytes(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn file(types: &[u32], names: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let lengths = [24, 0, types.len(), types.len(), names.len()].map(|n| u32::try_from(n).unwrap());
        let header = [0x0001_eb9f].into_iter().chain(lengths).flat_map(u32::to_le_bytes);
        header.chain(types.iter().copied()).chain(names.iter().copied()).collect()
    }

    /// An integer, `struct task { int pid; int state; }`, a pointer to it, `void wake()`,
    /// `union stack { int pid; struct task task; }`.
    fn small() -> Vec<u8> {
        let names = b"\0int\0task\0pid\0state\0wake\0stack\0";
        let structure = [5, STRUCT << 24 | 2, 8, 10, 1, 0, 14, 1, 32];
        let union = [25, UNION << 24 | 2, 8, 10, 1, 0, 5, 2, 0];
        let types = [
            &[1, 1 << 24, 4, 32][..],
            &structure,
            &[0, 2 << 24, 2],
            &[0, 13 << 24, 0],
            &[20, FUNC << 24, 4],
            &union,
        ];
        file(&types.concat(), names)
    }

    #[test]
    fn members_sizes_and_functions() {
        let questions = [
            Question::Offset("task", "pid"),
            Question::Offset("task", "state"),
            Question::Offset("task", "int"),
            Question::Size("task"),
            Question::Size("state"),
            Question::Function("wake"),
            Question::Function("sleep"),
            Question::Size("stack"),
            Question::Offset("stack", "task"),
        ];
        let found = answers(&mut small().as_slice(), questions);
        assert_eq!(found, Ok([Some(0), Some(4), None, Some(8), None, Some(5), None, Some(8), Some(0)]));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let whole = small();
        let ask = |bytes: &[u8]| answers(&mut { bytes }, [Question::Offset("task", "state")]);
        for end in 0..whole.len() {
            assert!(ask(&whole[..end]).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = ask(&damaged);
            }
        }
    }
}
