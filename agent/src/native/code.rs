//! The code of a process: its mappings, the files behind them, and what the code there says of who calls whom.

use std::ops::Range;

use glg_engine::layout::Arch;
use glg_engine::memory::{Addr, Bias, Memory, Va};

use super::calls::{self, CALL_MAX, PROLOGUE_LEN, STUB_LEN, Target};
use super::cfi::Rules;
use super::maps::{self, Mapping};
use super::module::Module;
use super::symbols;
use crate::remote::ImageFile;

/// Files that are held open.
const MODULES_MAX: usize = 16;
/// Bytes of a function that are searched for jumps.
const FUNCTION_MAX: u64 = 4096;
/// Where nothing says how long a function is, a call to so many bytes before may be one to it.
const NEAR: u64 = 64 << 10;
/// Functions looked at on the way from one to another.
const PATH_NODES: usize = 16;
/// Functions between two others that have left no frame.
pub(super) const PATH_MAX: usize = 4;

/// What the code of a process is known by.
pub(super) struct Code {
    pid: u32,
    pub(super) arch: Arch,
    mappings: Vec<Mapping>,
    /// The files of those that were needed, by where they begin; `None` for what is no use.
    modules: Vec<(u64, Option<Module<ImageFile>>)>,
    /// Which of them goes next.
    oldest: usize,
    /// How many looks into files are left.
    fuel: u32,
}

/// An address in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Index of the mapping.
    pub(super) mapping: usize,
    /// Where it is linked to.
    pub(super) va: Va,
    /// How far that was moved.
    pub(super) bias: Bias,
}

/// A function as callers see it.
#[derive(Clone, Debug)]
pub(super) struct Callee {
    /// An address in it.
    pub(super) pc: u64,
    /// All of them, where that is known.
    pub(super) bounds: Option<Range<u64>>,
}

/// Whether a word of the stack is where a function returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// No, or it is left over from an earlier call.
    None,
    /// There is a call before it, of nobody knows whom.
    Call,
    /// There is a call of that very function before it.
    Callee,
}

/// Functions, each with the index of the one that jumps to it.
type Nodes = heapless::Vec<(u64, usize), PATH_NODES>;
/// Places in one function that call another.
pub(super) type Returns = heapless::Vec<u64, 8>;
/// Functions one after the other.
pub(super) type Path = heapless::Vec<u64, PATH_MAX>;

impl Code {
    pub(super) fn new(pid: u32, arch: Arch) -> Code {
        Code { pid, arch, mappings: Vec::new(), modules: Vec::new(), oldest: 0, fuel: 0 }
    }

    /// Reads the mappings anew, and forgets the files of those that have gone.
    pub(super) fn refresh(&mut self) -> std::io::Result<()> {
        let before = std::mem::replace(&mut self.mappings, maps::read(self.pid)?);
        self.modules.retain(|(start, _)| {
            let at = |mappings: &[Mapping]| mappings.iter().find(|m| m.start == *start).cloned();
            at(&before) == at(&self.mappings)
        });
        Ok(())
    }

    /// Whether nothing is known yet.
    pub(super) fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// Begins to count the looks into files anew.
    pub(super) fn refuel(&mut self, fuel: u32) {
        self.fuel = fuel;
    }

    /// Whether so many looks are allowed.
    fn spend(&mut self, fuel: u32) -> Option<()> {
        self.fuel = self.fuel.checked_sub(fuel)?;
        Some(())
    }

    /// Index of the mapping with code at this address.
    pub(super) fn mapping(&self, pc: u64) -> Option<usize> {
        let index = self.mappings.partition_point(|mapping| mapping.end <= pc);
        self.mappings.get(index).filter(|mapping| mapping.start <= pc).map(|_| index)
    }

    /// Base name of a mapping's file.
    pub(super) fn name(&self, mapping: usize) -> &str {
        self.mappings.get(mapping).map_or("", Mapping::name)
    }

    /// Which file has this address, and where.
    pub(super) fn place(&mut self, pc: u64) -> Option<Place> {
        let mapping = self.mapping(pc)?;
        let (start, offset) = self.mappings.get(mapping).map(|m| (m.start, m.offset))?;
        let va = self.module(mapping)?.code_at(offset.checked_add(pc - start)?)?;
        Some(Place { mapping, va, bias: Bias(pc.wrapping_sub(va.0)) })
    }

    /// The file of a mapping.
    pub(super) fn module(&mut self, mapping: usize) -> Option<&mut Module<ImageFile>> {
        let wanted = self.mappings.get(mapping)?;
        let known = self.modules.iter().position(|(start, _)| *start == wanted.start);
        let index = match known {
            Some(index) => index,
            None => {
                let module = wanted.open(self.pid).and_then(|file| Module::open(ImageFile(file), self.arch));
                let (new, index) = ((wanted.start, module), self.oldest);
                self.oldest = (self.oldest + 1) % MODULES_MAX;
                match self.modules.get_mut(index) {
                    Some(slot) => *slot = new,
                    None => self.modules.push(new),
                }
                index.min(self.modules.len().saturating_sub(1))
            }
        };
        self.modules.get_mut(index)?.1.as_mut()
    }

    /// How the function at this address is unwound.
    pub(super) fn rules(&mut self, pc: u64) -> Option<(Rules, Bias)> {
        let place = self.place(pc)?;
        let cost = self.module(place.mapping)?.table_cost();
        self.spend(cost)?;
        Some((self.module(place.mapping)?.rules(place.va)?, place.bias))
    }

    /// The function at this address: by the tables for unwinding, else by its symbol.
    pub(super) fn bounds(&mut self, pc: u64) -> Option<Range<u64>> {
        let place = self.place(pc)?;
        let cost = self.module(place.mapping)?.table_cost();
        self.spend(cost)?;
        let bounds = match self.module(place.mapping)?.bounds(place.va) {
            Some(bounds) => bounds,
            None => {
                let module = self.module(place.mapping)?;
                let cost = symbols::cost(module);
                self.spend(cost)?;
                symbols::bounds(self.module(place.mapping)?, place.va)?
            }
        };
        Some(bounds.start.biased(place.bias).0..bounds.end.biased(place.bias).0)
    }

    /// The function at this address, as callers see it.
    pub(super) fn callee(&mut self, pc: u64) -> Callee {
        Callee { pc, bounds: self.bounds(pc) }
    }

    fn bytes(&mut self, at: u64, out: &mut [u8]) -> Option<()> {
        self.spend(1)?;
        let place = self.place(at)?;
        self.module(place.mapping)?.code(place.va, out)
    }

    /// How far above the stack pointer a function that is not optimised keeps its return address.
    pub(super) fn frame_size(&mut self, callee: &Callee) -> Option<u64> {
        let start = callee.bounds.as_ref().filter(|_| self.arch == Arch::Amd64)?.start;
        let mut prologue = [0; PROLOGUE_LEN];
        self.bytes(start, &mut prologue)?;
        calls::frame_size(&prologue)
    }

    /// The function that is called right before `ra`, if the code says which.
    pub(super) fn called_before(&mut self, ra: u64, memory: &mut dyn Memory) -> Option<u64> {
        match self.called(ra, memory)? {
            Target::At(at) => Some(at),
            _ => None,
        }
    }

    /// The function that is called right before `ra`; [`Target::Anywhere`] when the code does not say which.
    fn called(&mut self, ra: u64, memory: &mut dyn Memory) -> Option<Target> {
        let mut before = [0; CALL_MAX];
        self.bytes(ra.checked_sub(CALL_MAX as u64)?, &mut before)?;
        let target = calls::call(self.arch, &before, ra)?;
        Some(self.target(target, memory).map_or(Target::Anywhere, Target::At))
    }

    /// The address of a target, stubs passed through.
    fn target(&mut self, target: Target, memory: &mut dyn Memory) -> Option<u64> {
        let mut word = |at: u64| {
            let mut bytes = [0; 8];
            memory.read(Addr(at), &mut bytes).ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let at = match target {
            Target::At(at) => at,
            Target::In(at) => word(at)?,
            Target::Anywhere => return None,
        };
        self.mapping(at)?;
        let mut code = [0; STUB_LEN];
        self.bytes(at, &mut code)?;
        match calls::stub(self.arch, &code, at) {
            Some(slot) => word(slot).filter(|at| self.mapping(*at).is_some()),
            None => Some(at),
        }
    }

    /// Whether the handler of a signal returns there. The kernel's own is in no file.
    pub(super) fn is_sigreturn(&mut self, pc: u64, memory: &mut dyn Memory) -> bool {
        let mut code = [0; STUB_LEN];
        self.spend(1).is_some()
            && memory.read(Addr(pc), &mut code).is_ok()
            && calls::is_sigreturn(self.arch, &code)
    }

    /// Whether the thread ends when it returns there.
    pub(super) fn is_exit(&mut self, pc: u64) -> bool {
        let mut code = [0; STUB_LEN];
        self.bytes(pc, &mut code).is_some() && calls::is_exit(self.arch, &code)
    }

    /// What speaks for `callee` returning to `ra`.
    pub(super) fn evidence(&mut self, ra: u64, callee: &Callee, memory: &mut dyn Memory) -> Evidence {
        match self.called(ra, memory) {
            None if self.is_sigreturn(ra, memory) => Evidence::Call,
            None => Evidence::None,
            Some(Target::Anywhere | Target::In(_)) => Evidence::Call,
            Some(Target::At(at)) if callee.is_at(at) => Evidence::Callee,
            Some(Target::At(at)) => match self.path(at, callee, memory) {
                Some(_) => Evidence::Callee,
                None => Evidence::None,
            },
        }
    }

    /// The functions that were left by a jump on the way from the call before `ra` to `callee`.
    pub(super) fn jumped(&mut self, ra: u64, callee: &Callee, memory: &mut dyn Memory) -> Path {
        match self.called_before(ra, memory).filter(|at| !callee.is_at(*at)) {
            Some(at) => self.path(at, callee, memory).unwrap_or_default(),
            None => Path::new(),
        }
    }

    /// Where the function at `from` goes on after it has called `callee`, or a function that jumps there. Only where
    /// instructions can be told apart, which is on arm64.
    pub(super) fn returns(&mut self, from: u64, callee: &Callee, memory: &mut dyn Memory) -> Returns {
        let mut found = Returns::new();
        let Some((_, code)) = self.function(from).filter(|_| self.arch == Arch::Arm64) else { return found };
        for (word, ra) in code.as_chunks::<4>().0.iter().zip((from.saturating_add(4)..).step_by(4)) {
            let [a, b, c, d] = *word;
            let Some(target @ Target::At(_)) = calls::call(self.arch, &[0, 0, 0, 0, a, b, c, d], ra) else {
                continue;
            };
            let Some(target) = self.target(target, memory) else { continue };
            if (callee.is_at(target) || self.path(target, callee, memory).is_some())
                && found.push(ra).is_err()
            {
                break;
            }
        }
        found
    }

    /// The shortest way by jumps from the function at `from` into `callee`: all functions before it, in order.
    pub(super) fn path(&mut self, from: u64, callee: &Callee, memory: &mut dyn Memory) -> Option<Path> {
        callee.bounds.as_ref()?;
        let (nodes, last) = self.spread(from, Some(callee), memory);
        way(&nodes, last?)
    }

    /// The functions that can be reached from the one at `from` by jumps, itself included.
    pub(super) fn reached(
        &mut self,
        from: u64,
        memory: &mut dyn Memory,
    ) -> impl Iterator<Item = u64> + use<> {
        self.spread(from, None, memory).0.into_iter().map(|(at, _)| at)
    }

    /// Follows jumps from function to function until one goes into `goal`: the index of that one.
    fn spread(
        &mut self,
        from: u64,
        goal: Option<&Callee>,
        memory: &mut dyn Memory,
    ) -> (Nodes, Option<usize>) {
        let (mut nodes, mut next) = (Nodes::new(), 0);
        let _ = nodes.push((from, 0));
        while let Some((node, _)) = nodes.get(next).copied() {
            let Some((bounds, code)) = self.function(node) else { break };
            for jump in calls::jumps(self.arch, &code, node) {
                // Most are within the function, or no jumps at all.
                let leaves = |at: u64| !bounds.contains(&at) && self.mapping(at).is_some();
                if matches!(jump, Target::At(at) if !leaves(at)) {
                    continue;
                }
                let Some(target) = self.target(jump, memory) else { continue };
                if goal.is_some_and(|goal| goal.is_at(target)) {
                    return (nodes, Some(next));
                }
                let mut begins = || self.bounds(target).is_some_and(|bounds| bounds.start == target);
                if !nodes.is_full() && nodes.iter().all(|(at, _)| *at != target) && begins() {
                    let _ = nodes.push((target, next));
                }
            }
            next += 1;
        }
        (nodes, None)
    }

    /// The bounds of the function at `from`, and its code from there on.
    fn function(&mut self, from: u64) -> Option<(Range<u64>, Vec<u8>)> {
        let bounds = self.bounds(from)?;
        let len = bounds.end.saturating_sub(from).min(FUNCTION_MAX);
        let mut code = vec![0; usize::try_from(len).ok()?];
        self.bytes(from, &mut code)?;
        Some((bounds, code))
    }
}

impl Callee {
    /// Whether a call or a jump to this address is one into the function.
    pub(super) fn is_at(&self, at: u64) -> bool {
        match &self.bounds {
            Some(bounds) => bounds.contains(&at),
            None => at <= self.pc && self.pc - at < NEAR,
        }
    }
}

/// From the first node to that one.
fn way(nodes: &[(u64, usize)], last: usize) -> Option<Path> {
    let (mut path, mut at) = (Path::new(), last);
    loop {
        let (node, before) = *nodes.get(at)?;
        path.push(node).ok()?;
        if at == 0 {
            break;
        }
        at = before;
    }
    path.reverse();
    Some(path)
}
