//! What can go wrong with the kernel's side, and what to do about it.

use std::{error::Error, fmt, io};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, uprobe::UProbeError},
};

/// Why the kernel's side does not do what it should. The text says what to do.
#[derive(Debug)]
pub enum ProbeError {
    /// The kernel refuses it to this user.
    NoPermission {
        /// What was tried.
        doing: &'static str,
    },
    /// The kernel has no uprobes, or sysfs is not mounted.
    NoUprobes,
    /// The verifier does not accept a program.
    Rejected {
        /// Its name.
        program: &'static str,
        /// The last lines of the verifier's log.
        log: String,
    },
    /// A map could not be made.
    Map {
        /// Its name.
        map: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The ring buffer's size is not a power of two of at least one page.
    EventBytes(u32),
    /// As many targets are attached as there is room for.
    TargetsFull {
        /// The room.
        limit: u32,
    },
    /// Two probes at one place would count everything twice.
    AlreadyAttached {
        /// The target's process.
        pid: u32,
    },
    /// The target has ended.
    TargetGone {
        /// Its process.
        pid: u32,
    },
    /// The kernel does not put a probe there.
    NotAttachable {
        /// The target's process.
        pid: u32,
        /// Place in its executable's file, in bytes.
        offset: u64,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Waits for locks cannot be observed here.
    NotObservable(&'static str),
    /// Calibration: the probe was passed, but not counted every time.
    NotCounted {
        /// Times passed.
        passed: u64,
        /// Times counted.
        counted: u64,
    },
    /// Calibration: the agent's own code was not found in its memory map.
    OwnCode(io::Error),
    /// The agent's object file and its code do not belong together.
    Object(String),
    /// Anything else the kernel answered.
    Kernel {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        cause: String,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPermission { doing } => write!(
                f,
                "no permission for {doing}: run as root or with CAP_BPF and CAP_PERFMON (before Linux 5.11 also \
                 CAP_SYS_RESOURCE), and see whether lockdown or an LSM forbids eBPF"
            ),
            Self::NoUprobes => write!(
                f,
                "this kernel has no uprobes: mount sysfs on /sys, or build the kernel with CONFIG_UPROBE_EVENTS"
            ),
            Self::Rejected { program, log } => write!(
                f,
                "the kernel's verifier rejects the program `{program}`: report it with the kernel's version and \
                 this log:\n{log}"
            ),
            Self::Map { map, cause } => write!(
                f,
                "the map {map} cannot be made ({cause}): lower `max_sites` in the board config, or see whether \
                 the kernel is older than 5.8"
            ),
            Self::EventBytes(bytes) => write!(
                f,
                "{bytes} bytes is no size for the event buffer: take a power of two of at least one page"
            ),
            Self::TargetsFull { limit } => write!(
                f,
                "{limit} targets are being attributed already: wait until one is done, or raise the limit in the \
                 board config"
            ),
            Self::AlreadyAttached { pid } => {
                write!(f, "process {pid} is being attributed already: detach from it first")
            }
            Self::TargetGone { pid } => write!(f, "process {pid} has ended: nothing to do"),
            Self::NotAttachable { pid, offset, cause } => write!(
                f,
                "no probe on process {pid} at byte {offset:#x} of its file ({cause}): its file may be on a file \
                 system without page cache; it is watched without attribution"
            ),
            Self::NotObservable(why) => {
                write!(
                    f,
                    "waits for locks cannot be observed ({why}): who waits at a moment is seen all the same"
                )
            }
            Self::NotCounted { passed, counted } => write!(
                f,
                "{passed} passes of the calibration probe gave {counted} counts: the kernel drops uprobes; do not \
                 trust attribution here, and report the kernel's version"
            ),
            Self::OwnCode(cause) => {
                write!(f, "the agent does not find its own code in /proc/self/maps ({cause}): mount /proc")
            }
            Self::Object(cause) => {
                write!(f, "the built-in eBPF object is wrong ({cause}): build anew with `cargo xtask build`")
            }
            Self::Kernel { doing, cause } => {
                write!(f, "{doing} failed ({cause}): run `goleakguard doctor` to see what this kernel offers")
            }
        }
    }
}

impl Error for ProbeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Map { cause, .. } | Self::NotAttachable { cause, .. } | Self::OwnCode(cause) => Some(cause),
            _ => None,
        }
    }
}

/// The verifier's reason stands in its last lines.
const LOG_LINES: usize = 6;

impl ProbeError {
    /// Of making maps and reading the object.
    pub(super) fn of_object(error: EbpfError) -> Self {
        match error {
            EbpfError::MapError(MapError::CreateError { name, io_error }) if !denied(&io_error) => {
                Self::Map { map: name, cause: io_error }
            }
            EbpfError::MapError(error) => Self::of_map("making eBPF maps", &error),
            EbpfError::ProgramError(error) => Self::of_program("reading the eBPF object", &error),
            other => Self::Object(chain(&other)),
        }
    }

    /// Of reading or writing a map.
    pub(super) fn of_map(doing: &'static str, error: &MapError) -> Self {
        match error {
            MapError::CreateError { io_error, .. } if denied(io_error) => Self::NoPermission { doing },
            MapError::SyscallError(e) if denied(&e.io_error) => Self::NoPermission { doing },
            _ => Self::Kernel { doing, cause: chain(error) },
        }
    }

    /// Of the verifier.
    pub(super) fn of_verifier(program: &'static str, error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } if !denied(&io_error) => {
                let log = verifier_log.to_string();
                let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
                let tail = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
                Self::Rejected { program, log: format!("{io_error}\n{}", tail.join("\n")) }
            }
            ProgramError::LoadError { .. } => Self::NoPermission { doing: "loading eBPF programs" },
            other => Self::of_program("loading eBPF programs", &other),
        }
    }

    /// Of a uprobe on a process.
    pub(super) fn of_attach(pid: u32, offset: u64, error: ProgramError) -> Self {
        match error {
            ProgramError::UProbeError(UProbeError::FileError { .. }) => Self::NoUprobes,
            ProgramError::SyscallError(e) if denied(&e.io_error) => Self::NoPermission { doing: "a uprobe" },
            ProgramError::SyscallError(e) => match e.io_error.kind() {
                _ if e.io_error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => {
                    Self::TargetGone { pid }
                }
                io::ErrorKind::NotFound => Self::TargetGone { pid },
                _ => Self::NotAttachable { pid, offset, cause: e.io_error },
            },
            other => Self::of_program("a uprobe", &other),
        }
    }

    /// Of anything else with programs.
    pub(super) fn of_program(doing: &'static str, error: &ProgramError) -> Self {
        match error {
            ProgramError::SyscallError(e) if denied(&e.io_error) => Self::NoPermission { doing },
            _ => Self::Kernel { doing, cause: chain(error) },
        }
    }
}

fn denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// An error with its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
