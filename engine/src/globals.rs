//! Where the runtime's variables are: from the symbol table where there is one, else from the instructions of
//! functions that use them. Either is an allegation until the live process agrees: [`Candidates::confirm`].

use heapless::Vec;

use crate::code::references;
use crate::elf::Elf;
use crate::layout::{Layout, Status};
use crate::memory::{Addr, Bias, Error, Image, Memory, Run, Va, le};
use crate::pclntab::Pclntab;
use crate::pclntab_search::{FUNCTION_MAX, Function, functions};
use crate::runtime::Lifecycle;

/// Variables that one function may refer to.
const VARIABLES_MAX: usize = 256;
/// Slices that `procresize` may refer to; the known releases have up to ten.
const ALLP_MAX: usize = 32;
/// Variables that `mcommoninit` may refer to; the known releases have up to twenty.
const ALLM_MAX: usize = 48;
/// `sched.maxmcount` after `schedinit`, in every release (`runtime/proc.go`).
const MAXMCOUNT: u64 = 10_000;
/// Ps and goroutines looked at to believe in a variable.
const LOOKED_AT: usize = 64;
/// More Ps than any machine has.
const PS_MAX: u64 = 1 << 16;
/// More goroutines, or free ones, than any program has.
const GS_MAX: u64 = 1 << 32;

/// Addresses of the runtime's variables (`runtime/proc.go`, `runtime/runtime2.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    /// `allgs []*g`: every g there ever was; only grows.
    pub allgs: Addr,
    /// `allp []*p`.
    pub allp: Addr,
    /// `sched schedt`.
    pub sched: Addr,
    /// `allm *m`: the first of all threads; `None` until the live process has shown it, and where it was not
    /// found.
    pub allm: Option<Addr>,
}

/// Where the variables are according to the file; of `allp` and `allm` there may be several opinions, lowest
/// first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// `runtime.allgs`.
    pub allgs: Va,
    /// `runtime.sched`.
    pub sched: Va,
    /// What may be `runtime.allp`; not empty.
    pub allp: Vec<Va, ALLP_MAX>,
    /// What may be `runtime.allm`.
    pub allm: Vec<Va, ALLM_MAX>,
}

/// What a symbol table says.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// `runtime.text`.
    pub(crate) text: Va,
    /// The variables.
    pub(crate) candidates: Candidates,
    /// The functions each goroutine passes.
    pub(crate) lifecycle: Option<Lifecycle>,
}

/// What the symbol table says; one that is damaged, or without the names, is as good as none.
pub(crate) fn by_symbol(elf: &Elf, image: &mut dyn Image) -> Option<Named> {
    const NAMES: [&[u8]; 7] = [
        b"runtime.text",
        b"runtime.allgs",
        b"runtime.allp",
        b"runtime.allm",
        b"runtime.sched",
        b"runtime.newproc1",
        b"runtime.goexit0",
    ];
    let [text, allgs, allp, allm, sched, create, exit] = elf.symbols(image, NAMES).ok()?;
    let (allp, allm) = (Vec::from_iter([allp?]), allm.into_iter().collect());
    let candidates = Candidates { allgs: allgs?, sched: sched?, allp, allm };
    let lifecycle = create.zip(exit).map(|(create, exit)| Lifecycle { create, exit });
    Some(Named { text: text?, candidates, lifecycle })
}

/// What the instructions say: variables, and the functions each goroutine passes.
pub(crate) fn by_code(
    elf: &Elf,
    image: &mut dyn Image,
    layout: &Layout,
    table: &Pclntab,
) -> Result<(Candidates, Option<Lifecycle>), Error> {
    const NAMES: [&[u8]; 6] = [
        b"runtime.allgadd",
        b"runtime.schedinit",
        b"runtime.procresize",
        b"runtime.mcommoninit",
        b"runtime.newproc1",
        b"runtime.goexit0",
    ];
    let [allgadd, schedinit, procresize, mcommoninit, create, exit] = functions(image, table, NAMES)?;
    let mut code = Code { elf, image, layout };
    let candidates = Candidates {
        allgs: code.allgs(allgadd.ok_or(Error::Unsupported("Go program without runtime.allgadd"))?)?,
        sched: code.sched(schedinit.ok_or(Error::Unsupported("Go program without runtime.schedinit"))?)?,
        allp: code.allp(procresize.ok_or(Error::Unsupported("Go program without runtime.procresize"))?)?,
        allm: mcommoninit.map(|function| code.allm(function)).transpose()?.unwrap_or_default(),
    };
    let lifecycle =
        create.zip(exit).map(|(create, exit)| Lifecycle { create: create.entry, exit: exit.entry });
    Ok((candidates, lifecycle))
}

/// What a function mentions of the program's variables, lowest first.
pub(crate) fn mentioned(
    elf: &Elf,
    image: &mut dyn Image,
    layout: &Layout,
    function: Function,
) -> Result<Vec<Va, VARIABLES_MAX>, Error> {
    let (mut found, mut full) = (Vec::new(), false);
    Code { elf, image, layout }.visit(function, &mut |at, _, _| {
        if let Err(place) = found.binary_search(&at) {
            full |= found.insert(place, at).is_err();
        }
    })?;
    if full { Err(Error::Unsupported("runtime function with too many variables")) } else { Ok(found) }
}

/// Instructions of the program.
struct Code<'p> {
    elf: &'p Elf,
    image: &'p mut dyn Image,
    layout: &'p Layout,
}

impl Code<'_> {
    /// Calls `visit` for each mention of a variable: its address, words touched, constant stored.
    fn visit(&mut self, function: Function, visit: &mut dyn FnMut(Va, u8, Option<u64>)) -> Result<(), Error> {
        let malformed = Error::Malformed { what: "function address", at: function.entry.0 };
        let offset = self.elf.file_offset(function.entry).ok_or(malformed)?;
        let mut code = [0u8; FUNCTION_MAX as usize];
        let len = usize::try_from(function.len).map_err(|_| malformed)?;
        let code = code.get_mut(..len).ok_or(malformed)?;
        self.image.read_at(offset, code)?;
        let elf = self.elf;
        references(self.layout.arch, function.entry, code, &mut |found| {
            if elf.is_variable(found.at, 8) {
                visit(found.at, found.words, found.stored);
            }
        })
    }

    /// Slices of which pointer, length and capacity are all mentioned, lowest first.
    fn slices(&mut self, function: Function) -> Result<Vec<Va, ALLP_MAX>, Error> {
        let mut words: Vec<u64, VARIABLES_MAX> = Vec::new();
        let mut full = false;
        self.visit(function, &mut |at, count, _| {
            for at in (0..u64::from(count)).map(|i| at.0.wrapping_add(8 * i)) {
                if let Err(place) = words.binary_search(&at) {
                    full |= words.insert(place, at).is_err();
                }
            }
        })?;
        let has = |at: u64, more: u64| at.checked_add(more).is_some_and(|w| words.binary_search(&w).is_ok());
        let slices = words.iter().filter(|at| has(**at, 8) && has(**at, 16)).map(|at| Va(*at));
        let mut found = Vec::new();
        for at in slices {
            full |= found.push(at).is_err();
        }
        if full { Err(Error::Unsupported("runtime function with too many variables")) } else { Ok(found) }
    }

    /// `allgadd` appends to one slice only.
    fn allgs(&mut self, allgadd: Function) -> Result<Va, Error> {
        match self.slices(allgadd)?.as_slice() {
            [allgs] => Ok(*allgs),
            [] => Err(Error::Unsupported("runtime.allgadd mentions no slice")),
            _ => Err(Error::Unsupported("runtime.allgadd mentions several slices")),
        }
    }

    /// `schedinit` begins with `sched.maxmcount = 10000`.
    fn sched(&mut self, schedinit: Function) -> Result<Va, Error> {
        let (mut found, mut several) = (None, false);
        self.visit(schedinit, &mut |at, _, stored| {
            if stored == Some(MAXMCOUNT) {
                several |= found.is_some_and(|known| known != at);
                found = Some(at);
            }
        })?;
        let found = found.filter(|_| !several);
        let maxmcount = found.ok_or(Error::Unsupported("runtime.schedinit sets no maximum of threads"))?;
        let sched = maxmcount.0.checked_sub(self.layout.sched.maxmcount.into()).map(Va);
        let sched = sched.filter(|at| self.elf.is_variable(*at, self.layout.sched.size.into()));
        sched.ok_or(Error::Unsupported("runtime.sched is outside of the program's data"))
    }

    /// `procresize` resizes it, and the bit sets and orders beside it.
    fn allp(&mut self, procresize: Function) -> Result<Vec<Va, ALLP_MAX>, Error> {
        let found = self.slices(procresize)?;
        if found.is_empty() {
            return Err(Error::Unsupported("runtime.procresize mentions no slice"));
        }
        Ok(found)
    }

    /// `mcommoninit` puts the new thread in front of the list, among much else.
    fn allm(&mut self, mcommoninit: Function) -> Result<Vec<Va, ALLM_MAX>, Error> {
        let (mut found, mut full) = (Vec::new(), false);
        self.visit(mcommoninit, &mut |at, _, _| {
            if let Err(place) = found.binary_search(&at) {
                full |= found.insert(place, at).is_err();
            }
        })?;
        if full { Err(Error::Unsupported("runtime function with too many variables")) } else { Ok(found) }
    }
}

impl Candidates {
    /// The variables before the live process was asked: of `allp` the lowest.
    pub(crate) fn first(&self, bias: Bias) -> Option<Globals> {
        let allp = self.allp.first()?.biased(bias);
        Some(Globals { allgs: self.allgs.biased(bias), allp, sched: self.sched.biased(bias), allm: None })
    }

    /// The variables, once the live process agrees: each P has its number, goroutines have numbers of their
    /// own and known states, and the scheduler's counts are plausible.
    ///
    /// # Errors
    /// [`Error::NotReady`] while the runtime starts; [`Error::Malformed`] or [`Error::Unsupported`] when what
    /// is there cannot be the variable (which may pass while it starts); [`Error::Gone`].
    pub fn confirm(&self, bias: Bias, layout: &Layout, memory: &mut dyn Memory) -> Result<Globals, Error> {
        let sched = self.sched.biased(bias);
        let counted = is_sched(layout, sched, memory)?;
        let allgs = self.allgs.biased(bias);
        // `allgs` only grows: what was counted before is in it.
        if counted > is_allgs(layout, allgs, memory)? {
            return Err(Error::Malformed { what: "sched", at: sched.0 });
        }
        let mut started = false;
        for allp in self.allp.iter().map(|at| at.biased(bias)) {
            match is_allp(layout, allp, memory) {
                Ok(()) => {
                    let allm = self.first_thread(bias, layout, memory)?;
                    return Ok(Globals { allgs, allp, sched, allm });
                }
                Err(Error::Gone) => return Err(Error::Gone),
                Err(Error::NotReady) => {}
                Err(_) => started = true,
            }
        }
        Err(if started {
            Error::Unsupported("Go program whose allp cannot be found")
        } else {
            Error::NotReady
        })
    }

    /// The variable from which the most threads can be reached: others may hold one of them.
    fn first_thread(
        &self,
        bias: Bias,
        layout: &Layout,
        memory: &mut dyn Memory,
    ) -> Result<Option<Addr>, Error> {
        let mut best = None;
        for allm in self.allm.iter().map(|at| at.biased(bias)) {
            match threads(layout, allm, memory) {
                Err(Error::Gone) => return Err(Error::Gone),
                Ok(count) if count > best.map_or(0, |(most, _)| most) => best = Some((count, allm)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(best.map(|(_, allm)| allm))
    }
}

/// Whether a list of threads begins in the variable `allm`, and how many it has: each `m` has a `g0`, which
/// has it (`runtime/proc.go`, `allocm`).
fn threads(layout: &Layout, allm: Addr, memory: &mut dyn Memory) -> Result<usize, Error> {
    let implausible = Error::Malformed { what: "allm", at: allm.0 };
    let mut word = |at: Result<Addr, Error>| memory.word(at?);
    let mut m = word(Ok(allm))?;
    for count in 0..LOOKED_AT {
        if m == 0 {
            return Ok(count);
        }
        let g0 = word(Addr(m).plus(layout.m.g0.into()))?;
        if word(Addr(g0).plus(layout.g.m.into()))? != m {
            return Err(implausible);
        }
        m = word(Addr(m).plus(layout.m.alllink.into()))?;
    }
    Ok(LOOKED_AT)
}

/// Pointer and length of a slice.
fn slice(memory: &mut dyn Memory, at: Addr, max: u64) -> Result<(Addr, u64), Error> {
    let mut header = [0u8; 24];
    memory.read(at, &mut header)?;
    let (array, len, capacity) = (le::u64(&header, 0)?, le::u64(&header, 8)?, le::u64(&header, 16)?);
    if array == 0 && len == 0 {
        return Err(Error::NotReady);
    }
    if array == 0 || !array.is_multiple_of(8) || len == 0 || len > capacity || capacity > max {
        return Err(Error::Malformed { what: "slice", at: at.0 });
    }
    Ok((Addr(array), len))
}

/// The first pointers of a slice of pointers, and `fields` (offset, bytes) of what each points to.
fn elements(
    memory: &mut dyn Memory,
    (array, len): (Addr, u64),
    fields: [(u16, usize); 2],
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    for i in 0..len.min(LOOKED_AT as u64) {
        let mut pointer = [0u8; 8];
        memory.read(array.plus(8 * i)?, &mut pointer)?;
        let pointer = u64::from_le_bytes(pointer);
        if pointer == 0 || !pointer.is_multiple_of(8) {
            return Err(Error::Malformed { what: "pointer", at: array.0 });
        }
        let [first, second] = fields;
        let run = |(offset, len): (u16, usize)| Addr(pointer).plus(offset.into()).map(|at| Run { at, len });
        let mut bytes = [0u8; 16];
        let part = bytes.get_mut(..first.1 + second.1).ok_or(Error::Unreadable { at: pointer })?;
        memory.read_runs(&[run(first)?, run(second)?], part)?;
        visit(i, part)?;
    }
    Ok(())
}

/// The largest of the scheduler's counts of goroutines.
fn is_sched(layout: &Layout, sched: Addr, memory: &mut dyn Memory) -> Result<u64, Error> {
    let implausible = Error::Malformed { what: "sched", at: sched.0 };
    let mut number = |offset: u16| {
        let mut bytes = [0u8; 4];
        memory.read(sched.plus(offset.into())?, &mut bytes)?;
        u32::try_from(i32::from_le_bytes(bytes)).map_err(|_| implausible)
    };
    let l = &layout.sched;
    let threads = number(l.maxmcount)?;
    if threads == 0 {
        return Err(Error::NotReady);
    }
    if number(l.nmidle)? > threads {
        return Err(implausible);
    }
    let mut most = number(l.ngsys)?;
    for offset in l.g_free {
        most = most.max(number(*offset)?);
    }
    Ok(most.into())
}

/// The number of `g`s.
fn is_allgs(layout: &Layout, allgs: Addr, memory: &mut dyn Memory) -> Result<u64, Error> {
    let found = slice(memory, allgs, GS_MAX)?;
    let implausible = Error::Malformed { what: "allgs", at: allgs.0 };
    let mut goids: Vec<u64, LOOKED_AT> = Vec::new();
    elements(memory, found, [(layout.g.atomicstatus, 4), (layout.g.goid, 8)], |_, bytes| {
        let (status, goid) = (Status::from_raw(le::u32(bytes, 0)?), le::u64(bytes, 4)?);
        // A g that was never used has no number yet.
        if status.is_none() || (goid != 0 && goids.contains(&goid)) {
            return Err(implausible);
        }
        goids.push(goid).map_err(|_| implausible)
    })?;
    Ok(found.1)
}

fn is_allp(layout: &Layout, allp: Addr, memory: &mut dyn Memory) -> Result<(), Error> {
    /// `_Pdead`, the highest status (`runtime/runtime2.go`).
    const PDEAD: u32 = 4;
    let found = slice(memory, allp, PS_MAX)?;
    elements(memory, found, [(layout.p.id, 4), (layout.p.status, 4)], |i, bytes| {
        if u64::from(le::u32(bytes, 0)?) == i && le::u32(bytes, 4)? <= PDEAD {
            return Ok(());
        }
        Err(Error::Malformed { what: "allp", at: allp.0 })
    })
}
