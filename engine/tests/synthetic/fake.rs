//! A Go process without a process: its memory is built from a runtime layout.

use std::collections::BTreeMap;

use glg_engine::layout::{Arch, Layout};
use glg_engine::memory::{Addr, Error, Image, Memory, Run};
use glg_engine::runtime::Runtime;

use crate::program::{ALLGS, ALLP, AMD64, ARM64, ENTRY, Program, SCHED, function};

/// Every release and architecture that has a layout.
pub(crate) fn rows() -> impl Iterator<Item = Program> {
    let releases = ["go1.19.8", "go1.21.13", "go1.22.10", "go1.23.9", "go1.24.11", "go1.25.5", "go1.26.6"];
    let all = releases.into_iter().chain(["go1.27.3"]);
    all.flat_map(|go| [AMD64, ARM64].map(|machine| Program { machine, pie: false, go, sections: true }))
}

/// A file in memory.
pub(crate) struct File(pub(crate) Vec<u8>);

impl Image for File {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.0.as_slice().read_at(offset, out)
    }
}

/// Stretches of memory by their first address; what is between them is not mapped.
#[derive(Default)]
pub(crate) struct Space {
    regions: BTreeMap<u64, Vec<u8>>,
    /// Set when the process has ended.
    pub(crate) gone: bool,
    /// Calls of `read_runs` so far.
    pub(crate) reads: u32,
    /// Called before each read, with its number: what the program does meanwhile.
    pub(crate) meanwhile: Option<fn(&mut Space, u32)>,
}

impl Space {
    pub(crate) fn map(&mut self, at: u64, bytes: Vec<u8>) {
        self.regions.insert(at, bytes);
    }

    pub(crate) fn unmap(&mut self, at: u64) -> Vec<u8> {
        self.regions.remove(&at).unwrap()
    }

    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let (start, region) = self.regions.range_mut(..=at).next_back().unwrap();
        let from = usize::try_from(at - start).unwrap();
        region[from..from + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn word(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    pub(crate) fn half(&mut self, at: u64, value: i32) {
        self.write(at, &value.to_le_bytes());
    }
}

impl Memory for Space {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        self.reads += 1;
        if let Some(meanwhile) = self.meanwhile {
            meanwhile(self, self.reads);
        }
        if self.gone {
            return Err(Error::Gone);
        }
        assert!(runs.len() <= 1024, "more stretches than the kernel takes");
        assert_eq!(runs.iter().map(|run| run.len).sum::<usize>(), out.len());
        let mut rest = out;
        for run in runs {
            let unreadable = Error::Unreadable { at: run.at.0 };
            let (start, region) = self.regions.range(..=run.at.0).next_back().ok_or(unreadable)?;
            let from = usize::try_from(run.at.0 - start).unwrap();
            let end = from.checked_add(run.len).ok_or(unreadable)?;
            let (part, behind) = rest.split_at_mut(run.len);
            part.copy_from_slice(region.get(from..end).ok_or(unreadable)?);
            rest = behind;
        }
        Ok(())
    }
}

/// What is to be written into a `g`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct G {
    pub(crate) status: u32,
    pub(crate) goid: u64,
    /// As Go prints it.
    pub(crate) wait: &'static str,
    pub(crate) gopc: u64,
    pub(crate) startpc: u64,
}

/// Blocked in a channel send since it was started in `main.(*Gateway).forward`.
pub(crate) fn blocked(goid: u64) -> G {
    let gopc = function("main.(*Gateway).forward") + 0x25;
    G { status: 4, goid, wait: "chan send", gopc, startpc: function("main.worker") }
}

/// Address of the array that `allgs` points to, of the first `g` and of the first `p`.
pub(crate) const ARRAY: u64 = 0x7000_0000;
pub(crate) const GS: u64 = 0xc0_0000_0000;
const PS: u64 = 0xb0_0000_0000;
const P_ARRAY: u64 = 0x6000_0000;

/// A Go process: file, runtime, memory.
pub(crate) struct FakeProcess {
    pub(crate) file: File,
    pub(crate) runtime: Runtime,
    pub(crate) space: Space,
    /// Bytes from one `g` to the next.
    pub(crate) stride: u64,
}

impl FakeProcess {
    /// A runtime that has not initialised itself yet.
    pub(crate) fn new(program: Program) -> FakeProcess {
        let mut file = File(program.build());
        let runtime = Runtime::open(&mut file, Addr(ENTRY)).unwrap();
        let mut space = Space::default();
        space.map(ALLGS, vec![0; 24]);
        space.map(ALLP, vec![0; 24]);
        space.map(SCHED, vec![0; runtime.layout.sched.size.into()]);
        let stride = u64::from(runtime.layout.g.size).next_multiple_of(64);
        FakeProcess { file, runtime, space, stride }
    }

    pub(crate) fn layout(&self) -> &'static Layout {
        self.runtime.layout
    }

    /// Lays out `gs` and points `allgs` at them.
    pub(crate) fn set_gs(&mut self, gs: &[G]) {
        let layout = self.layout();
        let mut arena = vec![0u8; gs.len() * usize::try_from(self.stride).unwrap()];
        let mut array = Vec::new();
        for (i, g) in gs.iter().enumerate() {
            let at = i * usize::try_from(self.stride).unwrap();
            let mut put = |offset: u16, bytes: &[u8]| {
                let from = at + usize::from(offset);
                arena[from..from + bytes.len()].copy_from_slice(bytes);
            };
            put(layout.g.atomicstatus, &g.status.to_le_bytes());
            put(layout.g.goid, &g.goid.to_le_bytes());
            put(layout.g.waitreason, &[reason(layout, g.wait)]);
            put(layout.g.gopc, &g.gopc.to_le_bytes());
            put(layout.g.startpc, &g.startpc.to_le_bytes());
            array.extend((GS + at as u64).to_le_bytes());
        }
        self.space.map(GS, arena);
        self.space.map(ARRAY, array);
        self.point_at(ARRAY, gs.len() as u64);
    }

    /// Writes the header of `allgs`.
    pub(crate) fn point_at(&mut self, array: u64, len: u64) {
        self.space.map(ALLGS, [array, len, len + 7].map(u64::to_le_bytes).concat());
    }

    /// As many Ps as numbers of dead goroutines they keep.
    pub(crate) fn set_ps(&mut self, free: &[i32]) {
        let p = self.layout().p;
        self.space.half(SCHED + u64::from(self.layout().sched.maxmcount), 10_000);
        let mut array = Vec::new();
        for (i, free) in free.iter().enumerate() {
            let at = PS + i as u64 * 0x4000;
            self.space.map(at, vec![0; p.size.into()]);
            self.space.half(at + u64::from(p.g_free), *free);
            self.space.half(at + u64::from(p.id), i32::try_from(i).unwrap());
            array.extend(at.to_le_bytes());
        }
        self.space.map(P_ARRAY, array);
        let len = free.len() as u64;
        self.space.map(ALLP, [P_ARRAY, len, len].map(u64::to_le_bytes).concat());
    }

    /// System goroutines, and the global lists of dead ones.
    pub(crate) fn set_sched(&mut self, ngsys: i32, free: i32) {
        let sched = self.layout().sched;
        self.space.half(SCHED + u64::from(sched.ngsys), ngsys);
        // Where there are two lists, both count.
        let lists = i32::try_from(sched.g_free.len()).unwrap();
        for (i, offset) in (0i32..).zip(sched.g_free) {
            let part = if i + 1 == lists { free - (lists - 1) * (free / lists) } else { free / lists };
            self.space.half(SCHED + u64::from(*offset), part);
        }
    }
}

fn reason(layout: &Layout, wait: &str) -> u8 {
    let found = layout.wait_reasons.iter().position(|known| known.as_str() == wait);
    u8::try_from(found.unwrap_or_else(|| panic!("Go {} has no wait {wait:?}", layout.go))).unwrap()
}

/// The program of Go 1.24, amd64.
pub(crate) fn go124() -> Program {
    rows().find(|row| row.go == "go1.24.11" && row.machine == AMD64).unwrap()
}

#[test]
fn every_layout_is_tried() {
    let mut tried: Vec<(u16, Arch)> =
        rows().map(|row| FakeProcess::new(row).runtime).map(|r| (r.go.minor, r.layout.arch)).collect();
    tried.dedup();
    assert_eq!(tried.len(), 16);
    let known = (0..200u16).flat_map(|minor| [Arch::Amd64, Arch::Arm64].map(|arch| (minor, arch)));
    let known: Vec<_> =
        known.filter(|(minor, arch)| glg_engine::layout::layout_for(*minor, *arch).is_some()).collect();
    assert_eq!(tried, known, "a new layout needs a row in `rows`");
}
