//! What a function's name tells of how it is unwound and shown.

use super::Shown;
use crate::memory::{Addr, Bias};
use crate::pclntab::Code;
use crate::runtime::Owner;
use crate::stack::{Ends, Place};

/// What a function's name tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Shown in tracebacks.
    pub(super) public: bool,
    /// `runtime.gopanic`: shown unless it is the first.
    pub(super) gopanic: bool,
    /// A wrapper that called it is shown.
    pub(super) panics: bool,
    /// See [`crate::stack::Place::injected`].
    pub(super) injected: bool,
    /// See [`crate::stack::Place::traps`].
    pub(super) traps: bool,
    /// `runtime.cgocallback`.
    pub(super) cgocallback: bool,
    /// Whose a goroutine is that starts with it.
    pub(super) owner: Owner,
}

impl Kind {
    pub(crate) fn of(name: &str, minor: u16) -> Kind {
        let gopanic = name == "runtime.gopanic";
        let injected = matches!(name, "runtime.sigpanic" | "runtime.asyncPreempt" | "runtime.debugCallV2");
        let ours = name.strip_prefix("runtime.");
        // Shown always since Go 1.25, to tell what the goroutine is.
        let runs = minor >= 25 && matches!(name, "runtime.runFinalizers" | "runtime.runCleanups");
        Kind {
            public: runs || name.contains('.') && ours.is_none_or(|rest| is_exported(rest, minor)),
            gopanic,
            panics: gopanic || matches!(name, "runtime.sigpanic" | "runtime.panicwrap"),
            injected,
            traps: injected && (minor >= 21 || name == "runtime.sigpanic"),
            cgocallback: name == "runtime.cgocallback",
            owner: Owner::of(name),
        }
    }

    /// What unwinding needs to know of a place in this function's code, but for its arguments.
    pub(crate) fn place(self, code: &Code, bias: Bias) -> Place {
        let ends = match (code.top, code.switches_stack) {
            (true, _) => Ends::Always,
            // It is written so that it can be unwound at any time (`resolveInternal`).
            (false, true) if !self.cgocallback => Ends::UnlessSyscall,
            _ => Ends::No,
        };
        Place {
            entry: code.entry.biased(bias),
            frame_bytes: code.frame_bytes,
            ends,
            injected: self.injected,
            traps: self.traps,
            argument_bytes: 0,
            slot: 0,
        }
    }

    pub(super) fn shown(self, end: usize, returns: Addr, wrapper: bool) -> Shown {
        Shown { end, returns, wrapper, panics: self.panics, gopanic: self.gopanic, public: self.public }
    }
}

/// `isExportedRuntime` of `runtime/traceback.go`; methods count since Go 1.23.
fn is_exported(rest: &str, minor: u16) -> bool {
    let upper = |text: &str| text.starts_with(|c: char| c.is_ascii_uppercase());
    if minor < 23 {
        return upper(rest);
    }
    match rest.rsplit_once('.') {
        None => upper(rest),
        Some((receiver, method)) => {
            let pointer = receiver.strip_prefix("(*").and_then(|r| r.strip_suffix(')'));
            let receiver = pointer.unwrap_or(receiver);
            upper(method) && (receiver.is_empty() || upper(receiver))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glg_proto::wire::Wait;

    #[test]
    fn what_is_shown_depends_on_the_release() {
        for (minor, name, public) in [
            (24, "main.main", true),
            (24, "runtime.gopark", false),
            (24, "runtime.Gosched", true),
            (24, "internal/poll.runtime_pollWait", true),
            (24, "gosave_systemstack_switch", false),
            (22, "runtime.(*Func).Entry", false),
            (23, "runtime.(*Func).Entry", true),
            (23, "runtime.(*mheap).Alloc", false),
            (24, "runtime.Pinner.Pin", true),
            (24, "runtime.runFinalizers", false),
            (25, "runtime.runFinalizers", true),
            (27, "runtime.", false),
        ] {
            assert_eq!(Kind::of(name, minor).public, public, "Go 1.{minor} {name}");
        }
    }

    #[test]
    fn where_a_function_was_stopped_depends_on_the_release() {
        for (minor, name, traps) in [
            (19, "runtime.sigpanic", true),
            (19, "runtime.asyncPreempt", false),
            (21, "runtime.asyncPreempt", true),
            (24, "runtime.gopanic", false),
        ] {
            assert_eq!(Kind::of(name, minor).traps, traps, "Go 1.{minor} {name}");
        }
    }

    #[test]
    fn whose_a_goroutine_is_depends_on_what_it_waits_for() {
        for (name, wait, system) in [
            ("main.main", Wait::Runtime, false),
            ("runtime.main", Wait::ChanReceive, false),
            ("runtime.bgsweep", Wait::ChanReceive, true),
            ("runtime.runfinq", Wait::Runtime, true),
            ("runtime.runfinq", Wait::ChanReceive, false),
            ("runtime.runFinalizers", Wait::Running, false),
            ("runtime.runCleanups", Wait::Runtime, true),
            ("runtime.runCleanups", Wait::SelectNoCases, false),
        ] {
            assert_eq!(Kind::of(name, 25).owner.is_system(wait), system, "{name} {wait:?}");
        }
    }
}
