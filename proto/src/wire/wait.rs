//! What goroutines wait for.

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! waits {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a goroutine waits for, in the words of Go's own tracebacks, independent of the numbers
        /// that differ between Go versions (`runtime/runtime2.go`, `waitReasonStrings`). Append only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Wait { $($(#[$doc])* $name,)* }

        impl Wait {
            /// Every wait there is, in wire order.
            pub const ALL: &'static [Wait] = &[$(Wait::$name,)*];

            /// As Go prints it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Wait::$name => $text,)* }
            }
        }
    };
}

waits! {
    /// A wait reason this version has no word for.
    Other = "waiting",
    /// Runnable, not waiting.
    Runnable = "runnable",
    /// Running.
    Running = "running",
    /// In a system call or in C.
    Syscall = "syscall",
    /// `<-ch`.
    ChanReceive = "chan receive",
    /// `ch <-`.
    ChanSend = "chan send",
    /// `<-nil`.
    ChanReceiveNil = "chan receive (nil chan)",
    /// `nil <-`.
    ChanSendNil = "chan send (nil chan)",
    /// `select` with cases.
    Select = "select",
    /// `select {}`.
    SelectNoCases = "select (no cases)",
    /// `time.Sleep`.
    Sleep = "sleep",
    /// The network poller.
    IoWait = "IO wait",
    /// Semaphores: before Go 1.20 also sync.Mutex and RWMutex, before Go 1.24 also WaitGroup.
    Semacquire = "semacquire",
    /// `sync.Mutex.Lock`.
    MutexLock = "sync.Mutex.Lock",
    /// `sync.RWMutex.RLock`.
    RwMutexRLock = "sync.RWMutex.RLock",
    /// `sync.RWMutex.Lock`.
    RwMutexLock = "sync.RWMutex.Lock",
    /// `sync.Cond.Wait`.
    CondWait = "sync.Cond.Wait",
    /// `sync.WaitGroup.Wait`.
    WaitGroupWait = "sync.WaitGroup.Wait",
    /// Waits of the runtime itself (garbage collection, scavenger, finalisers).
    Runtime = "runtime",
    /// Being copied or preempted.
    Preempted = "preempted",
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
