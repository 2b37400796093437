//! Where a thread stands, as the kernel says it in one line: `/proc/PID/task/TID/syscall`
//! (fs/proc/base.c, `proc_pid_syscall`).

use crate::layout::Arch;
use crate::memory::{Addr, Error};

/// `futex(2)`.
const FUTEX_AMD64: u64 = 202;
const FUTEX_ARM64: u64 = 98;
/// Operations that wait (include/uapi/linux/futex.h).
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_LOCK_PI2: u64 = 13;
/// `FUTEX_PRIVATE_FLAG` and `FUTEX_CLOCK_REALTIME`.
const FLAGS: u64 = 0x180;

/// Where a thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It runs, or could.
    Running,
    /// It is blocked, but not in a system call: in a page fault, or stopped.
    Blocked,
    /// It is blocked in a system call.
    Call(Call),
}

/// A system call that a thread is blocked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number, which differs between architectures.
    pub number: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// The thread's stack pointer.
    pub sp: Addr,
    /// Where it goes on.
    pub pc: Addr,
}

/// A futex that a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutexWait {
    /// The word.
    pub word: Addr,
    /// Operation, flags included.
    pub op: u32,
    /// What the word had to hold for it to wait.
    pub value: u32,
    /// Whether it gives up some time.
    pub timed: bool,
}

impl Standing {
    /// Reads the line.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what no kernel writes.
    pub fn parse(line: &str) -> Result<Standing, Error> {
        let malformed = Error::Malformed { what: "system call of a thread", at: 0 };
        let mut words = line.split_ascii_whitespace();
        let number = match words.next().ok_or(malformed)? {
            "running" => return Ok(Standing::Running),
            "-1" => return Ok(Standing::Blocked),
            number => number.parse().map_err(|_| malformed)?,
        };
        let mut hex = || {
            let digits = words.next().and_then(|word| word.strip_prefix("0x")).ok_or(malformed)?;
            u64::from_str_radix(digits, 16).map_err(|_| malformed)
        };
        let mut args = [0; 6];
        for arg in &mut args {
            *arg = hex()?;
        }
        Ok(Standing::Call(Call { number, args, sp: Addr(hex()?), pc: Addr(hex()?) }))
    }
}

impl Call {
    /// Whether it is one that Go's scheduler itself makes while it has nothing to run
    /// (`runtime/lock_futex.go`, `netpoll_epoll.go`, `os_linux.go`).
    #[must_use]
    pub fn is_schedulers(&self, arch: Arch) -> bool {
        // futex, nanosleep, epoll_wait, epoll_pwait, clock_nanosleep, sched_yield.
        match arch {
            Arch::Amd64 => matches!(self.number, FUTEX_AMD64 | 35 | 232 | 281 | 230 | 24),
            Arch::Arm64 => matches!(self.number, FUTEX_ARM64 | 101 | 22 | 115 | 124),
        }
    }

    /// The futex it waits for, if that is what it does.
    #[must_use]
    pub fn futex(&self, arch: Arch) -> Option<FutexWait> {
        let number = match arch {
            Arch::Amd64 => FUTEX_AMD64,
            Arch::Arm64 => FUTEX_ARM64,
        };
        let [word, op, value, timeout, ..] = self.args;
        let waits = matches!(op & !FLAGS, FUTEX_WAIT | FUTEX_LOCK_PI | FUTEX_WAIT_BITSET | FUTEX_LOCK_PI2);
        if self.number != number || !waits || word == 0 {
            return None;
        }
        // The kernel takes 32 bits of both; the rest of the register is anything.
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default();
        Some(FutexWait { word: Addr(word), op: low(op), value: low(value), timed: timeout != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_kernels_write_them() {
        assert_eq!(Standing::parse("running\n"), Ok(Standing::Running));
        assert_eq!(Standing::parse("-1 0x7ffd1 0x401000\n"), Ok(Standing::Blocked));
        let line = "202 0x4c4d20 0x80 0x2 0x0 0x0 0x4c4d20 0x7f8c5ffea0 0x7f8c61e2f0\n";
        let Ok(Standing::Call(call)) = Standing::parse(line) else { panic!("{line}") };
        assert_eq!((call.sp, call.pc), (Addr(0x7f_8c5f_fea0), Addr(0x7f_8c61_e2f0)));
        let wait = FutexWait { word: Addr(0x4c_4d20), op: 0x80, value: 2, timed: false };
        assert_eq!(call.futex(Arch::Amd64), Some(wait));
        assert_eq!(call.futex(Arch::Arm64), None);
        let wake = Call { args: [0x4c_4d20, 0x81, 1, 0, 0, 0], ..call };
        assert_eq!(wake.futex(Arch::Amd64), None);
        // An undefined upper half of an argument of 32 bits.
        let wide = Call { args: [0x4c_4d20, 0x80, 0xdead_beef_0000_0002, 0, 0, 0], ..call };
        assert_eq!(wide.futex(Arch::Amd64), Some(wait));
    }

    #[test]
    fn rubbish_is_refused() {
        for line in ["", "x", "202", "202 0x1 0x2", "202 1 2 3 4 5 6 7 8", "202 0x0 0xg 0 0 0 0 0 0"] {
            assert!(Standing::parse(line).is_err(), "{line}");
        }
    }
}
