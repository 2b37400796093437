//! Where in a program the things lie from which everything that is in use can be reached.

use alloc::vec::Vec;

use crate::globals::mentioned;
use crate::heap::Heap;
use crate::memory::{Addr, Error, Image, Memory, le};
use crate::moduledata::Module;
use crate::pclntab::InlineTrees;
use crate::pclntab_search::{Function, functions};
use crate::runtime::Runtime;

/// Modules of one program: itself and its plugins.
const MODULES_MAX: usize = 64;

/// Places of a process that do not change while it runs.
#[derive(Clone, Debug)]
pub struct Places {
    pub(super) heap: Heap,
    /// `mheap_.allArenas`, a slice header.
    pub(super) arenas: Addr,
    /// The first `moduledata`.
    module: Addr,
    /// Variables of which one begins the list of all blocks of finalisers.
    pub(super) finalizers: Vec<Addr>,
    /// Variables of which one is that of cleanups; empty where there are none.
    pub(super) cleanups: Vec<Addr>,
    /// The maps of frames in the program's file; `None` where they are not known.
    pub(super) frames: Option<InlineTrees>,
}

/// A stretch of global variables, and the bits that say which words of it are pointers; `None` where none are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Globals {
    pub(super) from: Addr,
    pub(super) len: u64,
    pub(super) mask: Option<Addr>,
}

impl Places {
    /// What is known already: for tests, whose programs have no code to find it in.
    #[doc(hidden)]
    #[must_use]
    pub fn known(
        index: Addr,
        arenas: Addr,
        module: Addr,
        finalizers: Vec<Addr>,
        cleanups: Vec<Addr>,
    ) -> Places {
        Places { heap: Heap { index, word: index }, arenas, module, finalizers, cleanups, frames: None }
    }

    /// The maps of frames in the program's file; `None` where they are not known.
    #[must_use]
    pub fn frames(&self) -> Option<InlineTrees> {
        self.frames
    }

    /// Finds them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where one of them cannot be found; [`Error::Gone`].
    pub fn find(runtime: &Runtime, memory: &mut dyn Memory, image: &mut dyn Image) -> Result<Places, Error> {
        const NAMES: [&[u8]; 2] = [b"runtime.queuefinalizer", b"runtime.runCleanups"];
        let (layout, bias) = (runtime.layout, runtime.bias);
        let heap = Heap::find(runtime, memory, image)?;
        let apart = u64::from(layout.mheap.all_arenas.saturating_sub(layout.mheap.arenas));
        let module = Module::find(&runtime.elf, image, &layout.moduledata, &runtime.pclntab)?;
        let [queue, run] = functions(image, &runtime.pclntab, NAMES)?;
        let mut of = |function: Function| -> Result<Vec<Addr>, Error> {
            let found = mentioned(&runtime.elf, image, layout, function)?;
            Ok(found.iter().map(|at| at.biased(bias)).collect())
        };
        let finalizers = of(queue.ok_or(Error::Unsupported("Go program without runtime.queuefinalizer"))?)?;
        // The linker leaves it out of programs that have no cleanups.
        let run = run.filter(|_| layout.cleanup_queue.is_some());
        let cleanups = run.map(of).transpose()?.unwrap_or_default();
        let frames = module.inline_trees(&runtime.elf, image, &layout.moduledata).ok();
        let (arenas, module) = (heap.word.plus(apart)?, module.at.biased(bias));
        Ok(Places { heap, arenas, module, finalizers, cleanups, frames })
    }

    /// The global variables of the program and its plugins.
    pub(super) fn globals(&self, runtime: &Runtime, memory: &mut dyn Memory) -> Result<Vec<Globals>, Error> {
        let l = &runtime.layout.moduledata;
        let (mut found, mut at) = (Vec::new(), self.module);
        for _ in 0..MODULES_MAX {
            let mut record = [0u8; 1024];
            let record = record.get_mut(..l.size.into()).ok_or(Error::Unsupported("size of moduledata"))?;
            memory.read(at, record)?;
            let word = |offset: u16| le::u64(record, offset.into());
            let stretches = [
                (l.data, l.edata, Some(l.gcdatamask)),
                (l.bss, l.ebss, Some(l.gcbssmask)),
                (l.noptrdata, l.enoptrdata, None),
                (l.noptrbss, l.enoptrbss, None),
            ];
            for (from, to, mask) in stretches {
                let (from, to, mask) = (word(from)?, word(to)?, mask.map(word).transpose()?);
                let len = to.checked_sub(from).ok_or(Error::Malformed { what: "moduledata", at: at.0 })?;
                // Without the bits the runtime has not begun yet; without variables there are none.
                if len > 0 && mask == Some(0) {
                    return Err(Error::NotReady);
                }
                found.push(Globals { from: Addr(from), len, mask: mask.map(Addr) });
            }
            match word(l.next)? {
                0 => return Ok(found),
                next => at = Addr(next),
            }
        }
        Err(Error::Unsupported("Go program with too many modules"))
    }
}
