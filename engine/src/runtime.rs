//! A Go runtime found in a process: which release, which layout, where its globals are.

use crate::buildinfo::{GoVersion, go_version};
use crate::elf::Elf;
use crate::layout::{Layout, layout_for};
use crate::memory::{Addr, Bias, Error, Image, Va};
use crate::pclntab::{Pclntab, Position};

/// Everything needed to read goroutines of one process. Made once per process, cheap to keep.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The Go release it was built with.
    pub go: GoVersion,
    /// Offsets for that release.
    pub layout: &'static Layout,
    /// Where the runtime's variables are in the live process.
    pub globals: Globals,
    /// How far the program was moved.
    pub bias: Bias,
    /// Where goroutines are created and end, link-time addresses of `newproc1` and `goexit0`.
    pub lifecycle: Option<Lifecycle>,
    pclntab: Pclntab,
    elf: Elf,
}

/// Addresses of the runtime's variables (`runtime/proc.go`, `runtime/runtime2.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    /// `allgs []*g`: every g there ever was; only grows.
    pub allgs: Addr,
    /// `allp []*p`.
    pub allp: Addr,
    /// `sched schedt`.
    pub sched: Addr,
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
        let [text, allgs, allp, sched, create, exit] = elf.symbols(
            image,
            [
                b"runtime.text",
                b"runtime.allgs",
                b"runtime.allp",
                b"runtime.sched",
                b"runtime.newproc1",
                b"runtime.goexit0",
            ],
        )?;
        let missing = Error::Unsupported("symbol table without the Go runtime's variables");
        let live = |va: Option<Va>| va.map(|va| va.biased(bias)).ok_or(missing);
        let globals = Globals { allgs: live(allgs)?, allp: live(allp)?, sched: live(sched)? };
        let table = elf.pclntab.ok_or(Error::Unsupported("program without a pclntab section"))?;
        let pclntab = Pclntab::parse(image, table.file.offset, text.ok_or(missing)?)?;
        let lifecycle = create.zip(exit).map(|(create, exit)| Lifecycle { create, exit });
        Ok(Runtime { go, layout, globals, bias, lifecycle, pclntab, elf })
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

    /// Whether a goroutine that starts at `startpc` is the runtime's own: `runtime/traceback.go`,
    /// `isSystemGoroutine`.
    ///
    /// # Errors
    /// As [`Runtime::creation`].
    pub fn is_system(&self, image: &mut dyn Image, startpc: Addr) -> Result<bool, Error> {
        let name = self.pclntab.function(image, startpc.unbiased(self.bias))?;
        // Not counted as system goroutines there: the main goroutine, handles to async work of the user.
        let exempt =
            matches!(name.as_str(), "runtime.main" | "runtime.handleAsyncEvent" | "runtime.corostart");
        Ok(name.starts_with("runtime.") && !exempt)
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
