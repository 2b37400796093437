//! A Go runtime found in a process: which release, which layout, where its globals are.

use core::fmt::Write as _;
use core::ops::Range;

use glg_proto::wire::Wait;

use crate::buildinfo::{GoVersion, go_version};
use crate::elf::Elf;
use crate::globals::{self, Candidates};
use crate::layout::{Layout, layout_for};
use crate::memory::{Addr, Bias, Error, Image, Memory, Va};
use crate::moduledata::Module;
use crate::pclntab::{Pclntab, Position};
use crate::pclntab_search;
use crate::symbols::ELSEWHERE;

pub use crate::globals::Globals;

/// Everything needed to read goroutines of one process. Made once per process, cheap to keep.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The Go release it was built with.
    pub go: GoVersion,
    /// Offsets for that release.
    pub layout: &'static Layout,
    /// Where the runtime's variables are in the live process; not to be believed before
    /// [`Runtime::confirm`].
    pub globals: Globals,
    /// How far the program was moved.
    pub bias: Bias,
    /// Where goroutines are created and end, link-time addresses of `newproc1` and `goexit0`.
    pub lifecycle: Option<Lifecycle>,
    /// What the live process has to agree with; `None` once it has.
    unconfirmed: Option<Candidates>,
    /// Where the code of Go's linker is.
    pub(crate) code: Range<Va>,
    pub(crate) pclntab: Pclntab,
    pub(crate) elf: Elf,
}

/// The two functions every goroutine passes once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// `runtime.newproc1`.
    pub create: Va,
    /// `runtime.goexit0`.
    pub exit: Va,
}

impl Runtime {
    /// Reads what the executable says. `entry` is where the live process began to run (`AT_ENTRY` in
    /// `/proc/PID/auxv`): it tells how far the program was moved.
    ///
    /// # Errors
    /// [`Error::NotGo`], [`Error::Unsupported`], [`Error::UnsupportedGo`] or [`Error::Malformed`].
    pub fn open(image: &mut dyn Image, entry: Addr) -> Result<Runtime, Error> {
        let elf = Elf::parse(image)?;
        let go = go_version(&elf, image)?;
        let bias = elf.bias(entry)?;
        let layout = layout_for(go.minor, elf.arch).ok_or(Error::UnsupportedGo { minor: go.minor })?;
        let named = globals::by_symbol(&elf, image);
        let pclntab = function_table(&elf, image, layout, named.as_ref().map(|named| named.text))?;
        let (candidates, lifecycle) = match named {
            Some(named) => (named.candidates, named.lifecycle),
            None => globals::by_code(&elf, image, layout, &pclntab)?,
        };
        let globals = candidates.first(bias).ok_or(Error::Unsupported("Go program without allp"))?;
        let (unconfirmed, code) = (Some(candidates), pclntab.code_range(image)?);
        Ok(Runtime { go, layout, globals, bias, lifecycle, unconfirmed, code, pclntab, elf })
    }

    /// Believes the addresses of the runtime's variables once the live process agrees with them; does nothing
    /// after that. Call it before anything is read through [`Runtime::globals`].
    ///
    /// # Errors
    /// As [`Candidates::confirm`]. Until the runtime has initialised itself any of them may pass.
    pub fn confirm(&mut self, memory: &mut dyn Memory) -> Result<(), Error> {
        if let Some(candidates) = &self.unconfirmed {
            self.globals = candidates.confirm(self.bias, self.layout, memory)?;
            self.unconfirmed = None;
        }
        Ok(())
    }

    /// Function, file and line of a `go` statement, from the `gopc` of the goroutine it created.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the address is in no function of this program.
    pub fn creation(&self, image: &mut dyn Image, gopc: Addr) -> Result<Position, Error> {
        let pc = gopc.unbiased(self.bias);
        // gopc is where newproc returns to; the call before it is the statement (traceback.go,
        // printcreatedby1, does the same).
        self.pclntab.position(image, Va(pc.0.saturating_sub(1)))
    }

    /// What is said of a `go` statement in code that the program's function table does not cover, such as a plugin's.
    #[must_use]
    pub fn elsewhere(&self, gopc: Addr) -> Position {
        let mut position = Position::default();
        if gopc.0 != 0 && !self.is_go_code(gopc) {
            // Both are far shorter than there is room for.
            let _ = position.function.push_str(ELSEWHERE);
            let _ = write!(position.file, "pc={gopc}");
        }
        position
    }

    /// Whether a goroutine that starts at `startpc` and waits for `wait` is the runtime's own.
    ///
    /// # Errors
    /// As [`Runtime::creation`].
    pub fn is_system(&self, image: &mut dyn Image, startpc: Addr, wait: Wait) -> Result<bool, Error> {
        let name = self.pclntab.function(image, startpc.unbiased(self.bias))?;
        Ok(Owner::of(&name).is_system(wait))
    }

    /// Whether Go's linker has put the code at `pc` there: what stands in it is not C.
    #[must_use]
    pub fn is_go_code(&self, pc: Addr) -> bool {
        self.code.contains(&pc.unbiased(self.bias))
    }

    /// Where that code is in the live process.
    #[must_use]
    pub fn go_code(&self) -> Range<u64> {
        self.code.start.biased(self.bias).0..self.code.end.biased(self.bias).0
    }

    /// The bytes at the beginning of a function, and where in the file they are.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the address is in no segment.
    pub fn code(&self, image: &mut dyn Image, entry: Va, out: &mut [u8]) -> Result<u64, Error> {
        let offset =
            self.elf.file_offset(entry).ok_or(Error::Malformed { what: "function address", at: entry.0 })?;
        image.read_at(offset, out)?;
        Ok(offset)
    }
}

/// Whose the goroutines are that start with a function: `runtime/traceback.go`, `isSystemGoroutine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The program's.
    #[default]
    User,
    /// The runtime's own.
    Runtime,
    /// The runtime's own while they have no finaliser or cleanup of the user to run.
    Lent,
}

impl Owner {
    pub(crate) fn of(function: &str) -> Owner {
        match function {
            // The main goroutine, handles to async work of the user.
            "runtime.main" | "runtime.handleAsyncEvent" | "runtime.corostart" => Owner::User,
            // The name of the first up to Go 1.24 comes last.
            "runtime.runFinalizers" | "runtime.runCleanups" | "runtime.runfinq" => Owner::Lent,
            _ if function.starts_with("runtime.") => Owner::Runtime,
            _ => Owner::User,
        }
    }

    /// Go keeps a flag while it runs what is the user's. It is not where we look, but without work they wait
    /// for it, and for nothing else.
    pub(crate) fn is_system(self, wait: Wait) -> bool {
        self == Owner::Runtime || self == Owner::Lent && wait == Wait::Runtime
    }
}

/// Go's function table, and in it where Go's code begins: by symbol, else from the `moduledata` that belongs
/// to the table.
fn function_table(
    elf: &Elf,
    image: &mut dyn Image,
    layout: &Layout,
    text: Option<Va>,
) -> Result<Pclntab, Error> {
    let mut last = Error::Unsupported("program without a Go function table");
    for base in pclntab_search::candidates(elf, image)? {
        let found = Pclntab::parse(image, base, text.unwrap_or(Va(0))).and_then(|table| {
            // A table that was searched for is believed when moduledata knows it.
            if text.is_some() && elf.pclntab.is_some() {
                return Ok(table);
            }
            let module = Module::find(elf, image, &layout.moduledata, &table)?;
            let text = module.address(elf, image, layout.moduledata.text)?;
            Pclntab::parse(image, base, text)
        });
        match found {
            Ok(table) => return Ok(table),
            Err(error) => last = error,
        }
    }
    Err(last)
}
