//! From frame to frame. Of the innermost only the stack pointer and the program counter are known, which is
//! enough for code that is optimised; where a frame pointer is needed, the return address is looked for on the
//! stack, and is believed when the code before it calls the function that is returned from.

use glg_engine::layout::Arch;
use glg_engine::memory::{Addr, Error, Memory};

use super::cfi::{REGISTERS, Registers, Roles, Rules, roles};
use super::code::{Callee, Code, Evidence, Path};
use super::stack::Stack;
use super::{Beneath, Start};

/// Frames by which a guess is checked.
const LOOK_AHEAD: usize = 4;
/// How far below the scheduling stack's saved pointer the first C function's frame begins, at most: Go up to
/// 1.20 leaves 64 bytes on amd64, all others 16 (runtime/asm_*.s, `asmcgocall`).
const GO_LEAVES: std::ops::RangeInclusive<u64> = 1..=80;

/// What a step has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The caller; whether its return address was looked for rather than computed.
    Caller {
        /// See above.
        guessed: bool,
    },
    /// There is none: the thread began here.
    Beginning,
    /// Go, whose code called; whether the frame is where Go has put it, if that is known.
    Go {
        /// See above.
        fits: Option<bool>,
    },
    /// Nobody knows.
    Lost(&'static str),
}

/// A frame.
#[derive(Clone)]
struct State {
    /// Where its function goes on.
    pc: u64,
    registers: Registers,
    /// The stack pointer is this or more.
    low: u64,
    /// Whether `pc` is where it stands, rather than where it is returned to.
    exact: bool,
}

/// Why the rules lead to no caller.
enum Stop {
    /// There is none.
    Beginning,
    /// The function calls none, and has not saved where it returns to.
    Unsaved,
    /// The frame would be outside of the stack.
    Outside,
}

/// A return address and the place where it was found.
#[derive(Clone, Copy)]
struct Found {
    slot: u64,
    ra: u64,
}

/// Where the unwinding stands.
pub(super) struct Unwinder<'a> {
    code: &'a mut Code,
    memory: &'a mut dyn Memory,
    stack: Stack,
    beneath: &'a Beneath<'a>,
    /// The function that Go has called.
    entry: Option<u64>,
    roles: Roles,
    state: State,
}

impl State {
    /// An address that certainly is in this frame's function: a return address may be behind its end.
    fn within(&self) -> u64 {
        if self.exact { self.pc } else { self.pc.saturating_sub(1) }
    }

    fn register(&self, register: u16) -> Option<u64> {
        *self.registers.get(usize::from(register))?
    }

    fn set(&mut self, register: u16, value: Option<u64>) {
        if let Some(slot) = self.registers.get_mut(usize::from(register)) {
            *slot = value;
        }
    }
}

impl<'a> Unwinder<'a> {
    pub(super) fn new(
        code: &'a mut Code,
        memory: &'a mut dyn Memory,
        start: Start,
        beneath: &'a Beneath<'a>,
        entry: Option<u64>,
    ) -> Result<Unwinder<'a>, Error> {
        // Up to where Go begins.
        let stack = Stack::copy(memory, start.sp, beneath.g0_sp)?;
        let roles = roles(code.arch);
        let mut state = State { pc: start.pc.0, registers: [None; REGISTERS], low: start.sp.0, exact: true };
        state.set(roles.sp, Some(start.sp.0));
        state.set(roles.fp, start.fp.map(|fp| fp.0));
        if code.arch == Arch::Arm64 {
            // Believed where the rules say that it has not been saved.
            state.set(roles.ra, start.lr.map(|lr| lr.0));
        }
        Ok(Unwinder { code, memory, stack, beneath, entry, roles, state })
    }

    /// Where this frame's function goes on.
    pub(super) fn pc(&self) -> u64 {
        self.state.pc
    }

    /// An address that certainly is in this frame's function.
    pub(super) fn within(&self) -> u64 {
        self.state.within()
    }

    /// The function of this frame.
    pub(super) fn callee(&mut self) -> Callee {
        self.code.callee(self.state.within())
    }

    /// The functions that were left by a jump on the way from this one, to which `callee` returns, to `callee`.
    pub(super) fn jumped(&mut self, callee: &Callee) -> Path {
        self.code.jumped(self.state.pc, callee, self.memory)
    }

    /// The same from the function at `from`, itself included.
    pub(super) fn path(&mut self, from: u64, callee: &Callee) -> Option<Path> {
        self.code.path(from, callee, self.memory)
    }

    /// Goes to the caller.
    pub(super) fn step(&mut self) -> Step {
        let state = self.state.clone();
        let is_signal = state.exact && self.code.is_sigreturn(state.pc, self.memory);
        let (next, guessed) = match self.rules(&state) {
            _ if is_signal => (self.interrupted(&state), false),
            Some((rules, callee)) => match self.frame(&state, &rules) {
                Some(frame) => match self.apply(&state, &rules, frame) {
                    Ok(next) => (Ok(next), false),
                    Err(Stop::Beginning) => return Step::Beginning,
                    Err(Stop::Unsaved) => (self.unsaved(&state, &callee), true),
                    Err(Stop::Outside) => return Step::Lost("frame outside of the stack"),
                },
                None => (self.search(&state, &callee, Some(&rules)), true),
            },
            None if self.code.is_exit(state.pc) => return Step::Beginning,
            None => {
                let callee = self.callee();
                (self.search(&state, &callee, None), true)
            }
        };
        self.state = match next {
            Ok(next) => next,
            Err(why) => return Step::Lost(why),
        };
        // Nobody has called that: it stands where it begins.
        self.state.exact |= self.code.is_sigreturn(self.state.pc, self.memory);
        match Addr(self.state.pc) {
            Addr(0) => Step::Beginning,
            pc if (self.beneath.is_go)(pc) => Step::Go { fits: self.fits(&self.state) },
            Addr(pc) if self.code.mapping(pc).is_none() => Step::Lost("return address outside of code"),
            _ => Step::Caller { guessed },
        }
    }

    fn is_amd64(&self) -> bool {
        self.code.arch == Arch::Amd64
    }

    /// The rules for a frame, and its function.
    fn rules(&mut self, state: &State) -> Option<(Rules, Callee)> {
        let (rules, bias) = self.code.rules(state.within())?;
        let bounds = rules.bounds.start.biased(bias).0..rules.bounds.end.biased(bias).0;
        Some((rules, Callee { pc: state.pc, bounds: Some(bounds) }))
    }

    /// The address of a frame by its rules, if the registers that it takes are known.
    fn frame(&self, state: &State, rules: &Rules) -> Option<u64> {
        let mut registers = state.registers;
        if let Some(pc) = registers.get_mut(usize::from(self.roles.ra)).filter(|_| self.is_amd64()) {
            // Rules of stubs compute with its low bits, which are the same as linked and as loaded.
            *pc = Some(state.pc);
        }
        rules.frame(&registers, &|at| self.stack.word(at)).or_else(|| {
            // arm64: the frame pointer comes to point to where its old value is saved.
            let saved = rules.saved(self.roles.fp).filter(|_| !self.is_amd64())?;
            let frame = state.register(self.roles.fp)?.wrapping_add_signed(saved.wrapping_neg());
            (frame > state.low).then_some(frame)
        })
    }

    /// Goes to the caller of a function whose frame is known.
    fn apply(&self, state: &State, rules: &Rules, frame: u64) -> Result<State, Stop> {
        if frame < state.low || frame > self.stack.end() || !frame.is_multiple_of(8) {
            return Err(Stop::Outside);
        }
        let mut registers = rules.caller(frame, &state.registers, &|at| self.stack.word(at));
        match registers.get_mut(usize::from(self.roles.ra)).and_then(Option::take) {
            // Only the innermost may have none of its own.
            Some(_) if frame == state.low && !state.exact => Err(Stop::Outside),
            Some(ra) => Ok(State { pc: self.plain(ra), registers, low: frame, exact: rules.is_signal }),
            None if state.exact && !rules.is_undefined(self.roles.ra) => Err(Stop::Unsaved),
            None => Err(Stop::Beginning),
        }
    }

    /// From the handler of a signal to what was interrupted: the kernel has put all registers onto the stack
    /// (`struct rt_sigframe`, arch/x86/include/asm/sigframe.h and arch/arm64/kernel/signal.c).
    fn interrupted(&self, state: &State) -> Result<State, &'static str> {
        const LOST: &str = "frame of a signal outside of the stack";
        let frame = state.register(self.roles.sp).ok_or(LOST)?;
        let word = |offset: u64| self.stack.word(frame.checked_add(offset)?);
        let mut registers: Registers = [None; REGISTERS];
        let pc = match self.code.arch {
            Arch::Amd64 => {
                for (register, offset) in
                    [(3, 128), (6, 120), (7, 160), (12, 72), (13, 80), (14, 88), (15, 96)]
                {
                    *registers.get_mut(register).ok_or(LOST)? = word(offset);
                }
                word(168)
            }
            Arch::Arm64 => {
                for (slot, offset) in registers.iter_mut().zip((312..).step_by(8)) {
                    *slot = word(offset);
                }
                word(568)
            }
        };
        let next = State { pc: pc.ok_or(LOST)?, registers, low: 0, exact: true };
        // A handler may have a stack of its own.
        let sp = next.register(self.roles.sp).filter(|sp| self.stack.contains(*sp)).ok_or(LOST)?;
        Ok(State { low: sp, ..next })
    }

    /// Looks for the return address of a function, whose rules, if there are any, need a register that is not
    /// known. It is the first that makes sense: it stands behind a call, of this function as far as the code
    /// says, and what comes after it makes sense in turn.
    fn search(
        &mut self,
        state: &State,
        callee: &Callee,
        rules: Option<&Rules>,
    ) -> Result<State, &'static str> {
        let by_code = self.code.frame_size(callee).and_then(|size| state.low.checked_add(size));
        for slot in by_code.into_iter().chain(self.stack.slots(state.low)) {
            let Some(ra) = self.stack.word(slot).map(|word| self.plain(word)) else { continue };
            if self.code.mapping(ra).is_none() {
                continue;
            }
            let found = Found { slot, ra };
            let Some(next) = self.after(state, found, rules) else { continue };
            let evidence = self.evidence(ra, callee);
            if evidence == Evidence::None {
                continue;
            }
            let holds = self.holds(&next).unwrap_or_else(|| {
                // The file that says nothing of the one had better not be asked for more of the other.
                let silent = rules.is_none() || by_code == Some(slot);
                silent || evidence == Evidence::Callee || self.has_record(slot)
            });
            if holds {
                return Ok(next);
            }
        }
        Err("no return address on the stack")
    }

    /// Looks for the caller of an innermost function that calls none, on arm64: its return address is in a
    /// register. But the caller's own is on the stack, behind a call of the caller. So of all functions that are
    /// called there, or jumped to from those, it is the one that in turn calls this one, and whose rules lead
    /// back to that very place.
    fn unsaved(&mut self, state: &State, callee: &Callee) -> Result<State, &'static str> {
        for slot in self.stack.slots(state.low) {
            let Some(ra) = self.stack.word(slot).map(|word| self.plain(word)) else { continue };
            let caller = match self.code.mapping(ra) {
                Some(_) if (self.beneath.is_go)(Addr(ra)) => self.entry,
                Some(_) => self.code.called_before(ra, self.memory),
                None => continue,
            };
            let Some(caller) = caller else { continue };
            let callers = self.code.reached(caller, self.memory);
            let returns = callers.flat_map(|caller| self.code.returns(caller, callee, self.memory));
            for pc in returns.collect::<Vec<u64>>() {
                let next = State { pc, exact: false, ..state.clone() };
                let Some((rules, _)) = self.rules(&next) else { continue };
                // Its frame pointer may not be known either: then its frame is where it would have to be.
                let saved =
                    rules.saved(self.roles.ra).map(|saved| slot.wrapping_add_signed(saved.wrapping_neg()));
                let leads = self.frame(&next, &rules).is_none_or(|frame| Some(frame) == saved);
                let after = self.after(&next, Found { slot, ra }, Some(&rules)).filter(|_| leads);
                if after.is_some_and(|after| self.holds(&after) != Some(false)) {
                    return Ok(next);
                }
            }
        }
        Err("return address in a register")
    }

    /// The caller, if that is where its address is.
    fn after(&self, state: &State, found: Found, rules: Option<&Rules>) -> Option<State> {
        let saved = match rules {
            Some(rules) => Some(rules.saved(self.roles.ra)?),
            None => self.is_amd64().then_some(-8),
        };
        let frame = saved.map(|saved| found.slot.wrapping_add_signed(saved.wrapping_neg()));
        // On both processors frames begin at multiples of 16.
        if frame.is_some_and(|frame| !frame.is_multiple_of(16)) {
            return None;
        }
        if let (Some(rules), Some(frame)) = (rules, frame) {
            return self.apply(state, rules, frame).ok();
        }
        let low = found.slot.checked_add(8)?;
        let mut next = State { pc: found.ra, registers: [None; REGISTERS], low, exact: false };
        next.set(self.roles.sp, frame);
        if frame.is_none() && self.has_record(found.slot) {
            next.set(self.roles.fp, found.slot.checked_sub(8).and_then(|at| self.stack.word(at)));
        }
        Some(next)
    }

    /// Whether a frame that was guessed is followed by others that make sense; `None` if nothing says so.
    fn holds(&mut self, state: &State) -> Option<bool> {
        let mut state = state.clone();
        let mut holds = None;
        for _ in 0..LOOK_AHEAD {
            if (self.beneath.is_go)(Addr(state.pc)) {
                return self.fits(&state).or(holds);
            }
            if self.code.is_sigreturn(state.pc, self.memory) {
                return holds;
            }
            let Some((rules, callee)) = self.rules(&state) else { return holds };
            let Some(frame) = self.frame(&state, &rules) else { return holds };
            match self.apply(&state, &rules, frame) {
                Ok(next) => state = next,
                Err(Stop::Beginning) => return Some(true),
                Err(Stop::Unsaved | Stop::Outside) => return Some(false),
            }
            // A signal interrupts anywhere.
            if !state.exact && self.evidence(state.pc, &callee) == Evidence::None {
                return Some(false);
            }
            holds = Some(true);
        }
        holds
    }

    /// Whether a saved frame pointer lies beside a return address.
    fn has_record(&self, slot: u64) -> bool {
        let fp = slot.checked_sub(8).and_then(|at| self.stack.word(at));
        fp.is_some_and(|fp| fp > slot && fp < self.stack.end() && fp.is_multiple_of(8))
    }

    /// What speaks for a return address; of Go's only its place does.
    fn evidence(&mut self, ra: u64, callee: &Callee) -> Evidence {
        if (self.beneath.is_go)(Addr(ra)) {
            Evidence::Call
        } else {
            self.code.evidence(ra, callee, self.memory)
        }
    }

    /// Whether Go's frame begins where the scheduling stack's saved pointer says.
    fn fits(&self, state: &State) -> Option<bool> {
        let (g0_sp, frame) = (self.beneath.g0_sp?, state.register(self.roles.sp)?);
        Some(g0_sp.0.checked_sub(frame).is_some_and(|left| GO_LEAVES.contains(&left)))
    }

    /// A return address without the signature that arm64 may have put into its upper bits.
    fn plain(&self, ra: u64) -> u64 {
        match self.code.arch {
            Arch::Arm64 if self.code.mapping(ra).is_none() => ra & ((1 << 48) - 1),
            _ => ra,
        }
    }
}
