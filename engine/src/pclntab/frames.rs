//! Logical frames: what one program counter stands for when functions were compiled into each other
//! (`runtime/symtabinl.go`), and what unwinding needs to know of a function (`runtime/symtab.go`).

use heapless::String;

use super::{Func, Pclntab, fill};
use crate::arguments::{Arguments, INFO_MAX, LIVE_MAX, Liveness};
use crate::memory::{Error, Image, Va, le};

/// Longest function or file name of a frame; longer ones are cut.
pub const TEXT_MAX: usize = 512;
/// Functions compiled into each other at one place; the deepest known have some tens.
const INLINED_MAX: usize = 128;
/// Tables of one function (`npcdata`); Go has five.
const PCDATA_MAX: u32 = 64;
/// Entries of an inline tree: the runtime's own bound.
const TREE_MAX: u32 = 1 << 20;
/// `PCDATA_InlTreeIndex` and `FUNCDATA_InlTree` (`internal/abi/symtab.go`).
const INL_TREE_INDEX: u32 = 2;
const INL_TREE: u32 = 3;
/// `PCDATA_ArgLiveIndex`, `FUNCDATA_ArgInfo` and `FUNCDATA_ArgLiveInfo`.
const ARG_LIVE_INDEX: u32 = 3;
const ARG_INFO: u32 = 5;
const ARG_LIVE_INFO: u32 = 6;
/// `FuncFlagTopFrame` and `FuncFlagSPWrite` (`internal/abi/symtab.go`).
const FLAG_TOP: u8 = 1;
const FLAG_SP_WRITE: u8 = 2;

/// Where the inline trees and descriptions of arguments are: file offset of `moduledata.gofunc`, which all
/// function data is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineTrees(pub u64);

/// What unwinding needs to know of the code at a program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Entry of its function.
    pub entry: Va,
    /// Bytes between the stack pointer there and that at the entry; `None` for foreign functions, of which
    /// Go's table says nothing.
    pub frame_bytes: Option<u32>,
    /// Whether nothing is above it: `goexit` and the like.
    pub top: bool,
    /// Whether it moves the stack pointer to another stack.
    pub switches_stack: bool,
}

/// A function at work, which may have been compiled into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Name as linked.
    pub function: String<TEXT_MAX>,
    /// Its file; `?` when unknown.
    pub file: String<TEXT_MAX>,
    /// Line, 0 when unknown.
    pub line: u32,
    /// Whether it was compiled into the function of the next frame.
    pub inlined: bool,
    /// Its kind: `FuncID` (`internal/abi/symtab.go`).
    pub id: u8,
    /// The program counter it was found with: within its call.
    pub pc: u64,
}

impl Pclntab {
    /// What unwinding needs to know of the code at `pc`.
    ///
    /// # Errors
    /// As [`Pclntab::position`].
    pub fn code(&self, image: &mut dyn Image, pc: Va) -> Result<Code, Error> {
        let func = self.find(image, pc)?;
        let (_, flags, _) = self.tail(image, &func)?;
        let frame_bytes = match func.pcsp {
            0 => None,
            table => {
                let bytes = self.value(image, table, func.entry, pc)?;
                Some(u32::try_from(bytes).map_err(|_| self.malformed("stack frame"))?)
            }
        };
        let (top, switches_stack) = (flags & FLAG_TOP != 0, flags & FLAG_SP_WRITE != 0);
        Ok(Code { entry: func.entry, frame_bytes, top, switches_stack })
    }

    /// Calls `visit` with each function that is at work at `pc`, the innermost first. For a return address
    /// pass it less one: the call is what is meant.
    ///
    /// # Errors
    /// As [`Pclntab::position`]; frames visited before remain true.
    pub fn frames(
        &self,
        image: &mut dyn Image,
        trees: InlineTrees,
        pc: Va,
        mut visit: impl FnMut(&Frame),
    ) -> Result<(), Error> {
        let func = self.find(image, pc)?;
        let (id, _, functions) = self.tail(image, &func)?;
        let tree = self.data(image, trees, &func, functions, INL_TREE)?;
        let mut at = pc;
        for _ in 0..INLINED_MAX {
            let (file, line) = self.file_line(image, &func, at)?;
            let index = self.tree_index(image, &func, at)?;
            let (Some(tree), Some(index)) = (tree, index) else {
                let function = self.name(image, func.name)?;
                visit(&Frame { function, file, line, inlined: false, id, pc: at.0 });
                return Ok(());
            };
            let (id, name, parent) = self.inlined(image, tree, index)?;
            let function = self.name(image, name)?;
            visit(&Frame { function, file, line, inlined: true, id, pc: at.0 });
            at = Va(func.entry.0.wrapping_add(u64::from(parent)));
        }
        Err(self.malformed("inline tree"))
    }

    /// What a traceback prints of the arguments of the function that `pc` is in; for a return address pass it
    /// less one.
    ///
    /// # Errors
    /// As [`Pclntab::position`].
    pub fn arguments(&self, image: &mut dyn Image, trees: InlineTrees, pc: Va) -> Result<Arguments, Error> {
        let func = self.find(image, pc)?;
        let (_, _, functions) = self.tail(image, &func)?;
        let Some(at) = self.data(image, trees, &func, functions, ARG_INFO)? else {
            return Ok(Arguments::default());
        };
        let mut info = [0u8; INFO_MAX];
        let len = fill(image, at, &mut info)?;
        let info = info.get(..len).unwrap_or_default();
        let (mut first, mut bits) = ([0u8], [0u8; LIVE_MAX]);
        let mut live = None;
        if let Some(at) = self.data(image, trees, &func, functions, ARG_LIVE_INFO)? {
            image.read_at(at, &mut first)?;
            let [first] = first;
            let index = self.pcdata(image, &func, ARG_LIVE_INDEX, pc)?;
            // Without an index for this place all of them are live.
            let len = match u64::try_from(index) {
                Ok(index @ 1..) => fill(image, at.saturating_add(index), &mut bits)?,
                _ => 0,
            };
            live = Some(Liveness { first, bits: bits.get(..len).unwrap_or_default() });
        }
        Arguments::parse(info, live).ok_or(self.malformed("argument information"))
    }

    /// File and line at `pc`; `?` and 0 when unknown, as the runtime says (`funcline1`).
    fn file_line(
        &self,
        image: &mut dyn Image,
        func: &Func,
        pc: Va,
    ) -> Result<(String<TEXT_MAX>, u32), Error> {
        let file = self.value(image, func.pcfile, func.entry, pc)?;
        let line = self.value(image, func.pcline, func.entry, pc)?;
        if let (Ok(file), Ok(line)) = (u32::try_from(file), u32::try_from(line)) {
            let name: String<TEXT_MAX> = self.file(image, func.cu, file)?;
            if !name.is_empty() {
                return Ok((name, line));
            }
        }
        Ok((String::try_from("?").unwrap_or_default(), 0))
    }

    /// Function id, flags, and number of function data at the end of a record. `startLine` came before them
    /// with Go 1.20 (`runtime2.go`, `_func`).
    pub(super) fn tail(&self, image: &mut dyn Image, func: &Func) -> Result<(u8, u8, u8), Error> {
        let mut bytes = [0u8; 4];
        image.read_at(func.at.saturating_add(self.tail_at()), &mut bytes)?;
        let [id, flags, _, functions] = bytes;
        Ok((id, flags, functions))
    }

    fn tail_at(&self) -> u64 {
        if self.old { 36 } else { 40 }
    }

    /// The `index`th of the words behind a record: first the pc-value tables, then the function data.
    fn word(&self, image: &mut dyn Image, func: &Func, index: u32) -> Result<u32, Error> {
        let mut bytes = [0u8; 4];
        let at = func.at.saturating_add(self.tail_at() + 4 + 4 * u64::from(index));
        image.read_at(at, &mut bytes)?;
        le::u32(&bytes, 0)
    }

    /// File offset of the `index`th of a function's data, if it has it.
    pub(super) fn data(
        &self,
        image: &mut dyn Image,
        trees: InlineTrees,
        func: &Func,
        functions: u8,
        index: u32,
    ) -> Result<Option<u64>, Error> {
        if func.npcdata > PCDATA_MAX {
            return Err(self.malformed("function record"));
        }
        if index >= u32::from(functions) {
            return Ok(None);
        }
        match self.word(image, func, func.npcdata + index)? {
            u32::MAX => Ok(None),
            offset => Ok(Some(trees.0.saturating_add(u64::from(offset)))),
        }
    }

    /// Which entry of the inline tree `pc` is in; `None`: in the function itself.
    fn tree_index(&self, image: &mut dyn Image, func: &Func, pc: Va) -> Result<Option<u32>, Error> {
        match u32::try_from(self.pcdata(image, func, INL_TREE_INDEX, pc)?) {
            Err(_) => Ok(None),
            Ok(index) if index < TREE_MAX => Ok(Some(index)),
            Ok(_) => Err(self.malformed("inline tree")),
        }
    }

    /// What the `index`th of a function's tables says of `pc`; -1 without such a table (`pcdatavalue`).
    pub(super) fn pcdata(
        &self,
        image: &mut dyn Image,
        func: &Func,
        index: u32,
        pc: Va,
    ) -> Result<i32, Error> {
        if index >= func.npcdata {
            return Ok(-1);
        }
        let table = self.word(image, func, index)?;
        self.value(image, table, func.entry, pc)
    }

    /// An entry of an inline tree: id, name, and offset of the call from the function's entry
    /// (`inlinedCall`: parent i16, id u8, pad, file, line, name, parentPc up to Go 1.19; id u8, pad, name,
    /// parentPc, startLine since).
    fn inlined(&self, image: &mut dyn Image, tree: u64, index: u32) -> Result<(u8, u32, u32), Error> {
        let mut bytes = [0u8; 20];
        let (size, id, name, parent) = if self.old { (20, 2, 12, 16) } else { (16, 0, 4, 8) };
        let record = bytes.get_mut(..size).unwrap_or_default();
        image.read_at(tree.saturating_add(u64::from(index) * size as u64), record)?;
        Ok((le::u8(record, id)?, le::u32(record, name)?, le::u32(record, parent)?))
    }
}

/// A function's name as tracebacks of Go 1.`minor` print it, in pieces: types of generic instances become
/// `...` (`runtime/traceback.go`, `funcNamePiecesForPrint`).
#[must_use]
pub fn printed_name(name: &str, minor: u16) -> [&str; 5] {
    if name == "runtime.gopanic" {
        return ["panic", "", "", "", ""];
    }
    let whole = [name, "", "", "", ""];
    let (Some(open), Some(close)) = (name.find('['), name.rfind(']')) else { return whole };
    let (Some(head), Some(inner), Some(tail)) =
        (name.get(..open), name.get(open + 1..close), name.get(close + 1..))
    else {
        return whole;
    };
    let single = [head, "[...]", tail, "", ""];
    if minor < 27 || !inner.contains('[') {
        return single;
    }
    // Since Go 1.27 a generic method of a generic type: `pkg.(*T[int]).Map[string]`.
    match between_brackets(inner) {
        Brackets::Two(middle) => [head, "[...]", middle, "[...]", tail],
        Brackets::One => single,
        Brackets::Damaged => whole,
    }
}

enum Brackets<'n> {
    One,
    Two(&'n str),
    Damaged,
}

/// What is between the first bracket that closes and the next that opens, seen from within the outermost two.
fn between_brackets(inner: &str) -> Brackets<'_> {
    let (mut depth, mut closed) = (1, None);
    for (at, c) in inner.char_indices() {
        match c {
            '[' => {
                depth += 1;
                if depth == 1 {
                    let middle = closed.and_then(|closed: usize| inner.get(closed + 1..at));
                    return middle.map_or(Brackets::Damaged, Brackets::Two);
                }
            }
            ']' => {
                depth -= 1;
                match depth {
                    0 => closed = Some(at),
                    1.. => {}
                    _ => return Brackets::Damaged,
                }
            }
            _ => {}
        }
    }
    if depth == 1 && closed.is_none() { Brackets::One } else { Brackets::Damaged }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_as_go_does() {
        for (minor, name, printed) in [
            (24, "main.main", "main.main"),
            (24, "runtime.gopanic", "panic"),
            (24, "main.f[go.shape.int]", "main.f[...]"),
            (24, "main.(*T[go.shape.[]int]).m.func1", "main.(*T[...]).m.func1"),
            (24, "main.(*T[int]).m[string]", "main.(*T[...]"),
            (27, "main.(*T[int]).m[string]", "main.(*T[...]).m[...]"),
            (27, "main.f[go.shape.[]int]", "main.f[...]"),
            (27, "main.f[a]]b[[c]", "main.f[a]]b[[c]"),
            (27, "main.f]x[", "main.f]x["),
            (19, "main.f[...]", "main.f[...]"),
        ] {
            assert_eq!(printed_name(name, minor).concat(), printed, "Go 1.{minor} {name}");
        }
    }
}
