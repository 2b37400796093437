//! Whether a goroutine that does not run is stuck, or only has nothing to do.
//!
//! That it has not run while it was observed is one reason only: nor do idle workers, subscribers, and producers before
//! a slow consumer. What has to come to it depends on what it waits for.

use glg_proto::wire::Wait;

/// What speaks against a goroutine besides its wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// There were more goroutines of its `go` statement at every pass.
    pub(super) grows: bool,
    /// The goroutine that created it has ended.
    pub(super) orphan: bool,
    /// It has waited for longer than is usual.
    pub(super) long: bool,
    /// Its `go` statement is known to have ever more goroutines, over a much longer time.
    pub(super) leaks: bool,
}

/// Whether healthy goroutines do not wait so.
pub(super) fn is_stuck(wait: Wait, standing: Standing) -> bool {
    let Standing { grows, orphan, long, leaks } = standing;
    match wait {
        // Who waits for the network or for a time goes on by himself, if it is not for ever.
        Wait::IoWait | Wait::Sleep => leaks && long,
        _ if leaks => true,
        // Nobody can end it.
        Wait::ChanReceiveNil | Wait::ChanSendNil | Wait::SelectNoCases => true,
        // Locks are for moments.
        Wait::MutexLock | Wait::RwMutexLock | Wait::RwMutexRLock => grows || long,
        // What makes things in advance, such as numbers for whoever asks for one, waits to send as long as nobody does;
        // but who began it is there then to receive.
        Wait::ChanSend => grows || (long && orphan),
        // A program's main goroutine waits for the others as long as they live. In Go 1.19 it looks like a lock.
        Wait::WaitGroupWait | Wait::Semacquire => grows,
        // To wait for work is what most goroutines do, for as long as there is none, and that there are more of them is
        // how a pool begins.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reasons of which one is enough, each by itself or two together.
    fn told(wait: Wait) -> [bool; 5] {
        let standing = |grows, orphan, long| is_stuck(wait, Standing { grows, orphan, long, leaks: false });
        [
            standing(false, false, false),
            standing(true, false, false),
            standing(false, true, false),
            standing(false, false, true),
            standing(false, true, true),
        ]
    }

    #[test]
    fn each_wait_takes_its_own_reasons() {
        for wait in Wait::ALL {
            let expected = match wait {
                Wait::ChanSendNil | Wait::ChanReceiveNil | Wait::SelectNoCases => [true; 5],
                Wait::MutexLock | Wait::RwMutexLock | Wait::RwMutexRLock => [false, true, false, true, true],
                Wait::ChanSend => [false, true, false, false, true],
                Wait::WaitGroupWait | Wait::Semacquire => [false, true, false, false, false],
                _ => [false; 5],
            };
            assert_eq!(told(*wait), expected, "{wait:?}");
            let leaks = |long| is_stuck(*wait, Standing { leaks: true, long, ..Standing::default() });
            assert!(leaks(true), "{wait:?}");
            assert_eq!(leaks(false), !matches!(wait, Wait::IoWait | Wait::Sleep), "{wait:?}");
        }
    }
}
