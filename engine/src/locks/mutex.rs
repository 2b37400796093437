//! What a thread waits for in the C library, and who has it: from the futex it waits on and the words around
//! it. Neither library says what they are, so each kind is told by its structure, which the stripped and the
//! static have, too.
//!
//! glibc: `nptl/` of 2.31 to 2.41 (`struct __pthread_mutex_s`: lock 0, count 4, owner 8, nusers 12, kind 16;
//! `struct __pthread_rwlock_arch_t`: wrphase_futex 8, writers_futex 12, cur_writer 24). musl 1.2:
//! `src/thread/pthread_mutex_timedlock.c` (type 0, lock 4).

pub use glg_proto::locks::LockKind as Kind;
use glg_proto::probe::STACK_NEAR;

use crate::locks::standing::FutexWait;
use crate::memory::{Addr, Error, Memory, Run, le};

/// `FUTEX_TID_MASK`.
const TID: u32 = 0x3fff_ffff;
/// Futex operations with their flags, as the libraries use them.
const WAIT_PRIVATE: u32 = 0x80;
const WAIT_SHARED: u32 = 0;
const BITSET_REALTIME_PRIVATE: u32 = 0x189;
const BITSET_PRIVATE: u32 = 0x89;
const BITSET_REALTIME: u32 = 0x109;
const BITSET: u32 = 9;
/// glibc's `__kind`: type, robust 0x10, priority 0x20 and 0x40, shared 0x80, elision 0x300.
const KIND_MASK: u32 = 0x3ff;
/// Those of it that tell the kind.
const KIND_ROBUST: u32 = 0x10;
const KIND_PI: u32 = 0x20;
/// musl's `_m_lock` of a normal mutex that is waited for: `EBUSY`, and the bit for waiters.
const MUSL_NORMAL: u32 = 0x8000_0010;
/// musl's `_m_type`: recursive 1, errorcheck 2, robust 4, priority 8, private 0x80.
const MUSL_KINDS: u32 = 0xf;
const MUSL_ROBUST: u32 = 4;
const MUSL_PI: u32 = 8;
/// Top bits of a word with a thread's number. The second: its owner has ended (`FUTEX_OWNER_DIED`); in musl's `FILE`s
/// instead that somebody waits.
const WAITERS: u32 = 0x8000_0000;
const ENDED: u32 = 0x4000_0000;
/// musl's `struct pthread` begins with its own address; from there to `detach_state`, on arm64 and amd64
/// (`src/internal/pthread_impl.h`), which stands 8 behind `tid`.
const MUSL_THREAD: [u64; 2] = [40, 56];
/// Bytes read around the futex: 24 before it, for locks whose word is not their first, 24 from it on.
const BEFORE: u64 = 24;
const AROUND: usize = 48;

/// Who has a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This thread, by its number in the process's own namespace. It lives.
    Thread(u32),
    /// A thread of this number, which there is none of any more; 0 where musl has taken the number out of it.
    Exited(u32),
    /// The lock does not say.
    Unknown,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Kind of wait.
    pub kind: Kind,
    /// Where the lock begins.
    pub at: Addr,
    /// Who has it.
    pub owner: Owner,
}

/// The words around a futex, those that could be read.
struct Words {
    bytes: [u8; AROUND],
    word: Addr,
}

impl Words {
    /// The 32-bit word at `offset` bytes from the futex.
    fn at(&self, offset: i64) -> Option<u32> {
        let at = usize::try_from(offset.checked_add_unsigned(BEFORE)?).ok()?;
        le::u32(&self.bytes, at).ok()
    }

    /// What glibc says of the kind of a mutex, if that can be.
    fn glibc_kind(&self) -> Option<u32> {
        self.at(16).filter(|kind| kind & !KIND_MASK == 0)
    }

    /// What musl says of it.
    fn musl_kind(&self) -> u32 {
        self.at(-4).unwrap_or(0) & MUSL_KINDS
    }

    fn base(&self, before: u64) -> Addr {
        Addr(self.word.0.saturating_sub(before))
    }
}

/// Reads the lock behind a futex; `threads` are the process's own, in ascending order. `None` when its words
/// say that nobody has to wait for it any more.
///
/// # Errors
/// [`Error::Gone`]; [`Error::Unreadable`] when the word itself cannot be read.
pub fn lock(wait: &FutexWait, threads: &[u32], memory: &mut dyn Memory) -> Result<Option<Lock>, Error> {
    let words = read(wait.word, memory)?;
    let now = words.at(0).unwrap_or(0);
    let lives = |tid: u32| threads.binary_search(&tid).is_ok();
    let known = |kind, at, tid: u32| {
        let owner = if lives(tid) { Owner::Thread(tid) } else { Owner::Exited(tid) };
        Lock { kind, at, owner }
    };
    let unowned = Lock { kind: Kind::Futex, at: wait.word, owner: Owner::Unknown };
    let lock = match (wait.op, wait.value) {
        // The word holds the owner; the kernel itself hands it on. Bit 30: the owner has died.
        (0x86 | 0x06 | 0x8d | 0x0d, _) => match now & TID {
            0 => return Ok(None),
            tid => {
                let glibc = words.glibc_kind().is_some_and(|kind| kind & KIND_PI != 0);
                let before = if !glibc && words.musl_kind() & MUSL_PI != 0 { 4 } else { 0 };
                known(Kind::PiMutex, words.base(before), tid)
            }
        },
        // Both libraries' locks, and those of `FILE`s: no longer held.
        (_, 2) if now != 2 => return Ok(None),
        (_, 2) if is_glibc_mutex(&words, threads.len()) => {
            known(Kind::Mutex, wait.word, words.at(8).unwrap_or(0))
        }
        (BITSET_REALTIME_PRIVATE | BITSET_PRIVATE | BITSET_REALTIME | BITSET, 3) => match words.at(16) {
            // Whichever of its two futexes: 8 or 12 bytes from the beginning.
            Some(tid) if lives(tid) => known(Kind::RwLock, words.base(8), tid),
            _ => match words.at(12) {
                Some(tid) if lives(tid) => known(Kind::RwLock, words.base(12), tid),
                _ => unowned,
            },
        },
        // The kernel clears the word when the thread ends.
        (BITSET_REALTIME | BITSET, tid) if tid == now && lives(tid) => known(Kind::Join, wait.word, tid),
        (WAIT_PRIVATE, 2) => match musl_joined(&words, memory)? {
            Some(tid) if lives(tid) => known(Kind::Join, wait.word, tid),
            _ => unowned,
        },
        (WAIT_PRIVATE | WAIT_SHARED, MUSL_NORMAL) => {
            if now != MUSL_NORMAL {
                return Ok(None);
            }
            Lock { kind: Kind::Mutex, at: words.base(4), ..unowned }
        }
        // glibc's timed wait for a robust mutex is the only one of these that is of another operation.
        (WAIT_PRIVATE | WAIT_SHARED | BITSET_REALTIME | BITSET, value) => {
            with_number(value, now, &words, lives).unwrap_or(unowned)
        }
        _ => unowned,
    };
    Ok(Some(lock))
}

/// Whether a wait of this kind may be for a lock, as far as the call alone tells: not for a condition, a semaphore or
/// the end of a thread. `sp` is the waiting thread's stack pointer: musl's conditions are variables on its stack.
#[must_use]
pub fn may_be_lock(wait: &FutexWait, sp: Addr) -> bool {
    is_lock_call(wait.op, wait.value, wait.word.0.wrapping_sub(sp.0) < STACK_NEAR)
}

/// The same of a call that is known by its arguments.
#[must_use]
pub fn is_lock_call(op: u32, value: u32, on_stack: bool) -> bool {
    match (op, value) {
        (0x86 | 0x06 | 0x8d | 0x0d, _) | (_, MUSL_NORMAL) => true,
        (_, 2) => !on_stack,
        (BITSET_REALTIME_PRIVATE | BITSET_PRIVATE | BITSET_REALTIME | BITSET, 3) => true,
        // With the number of an owner; without one it is musl's semaphore.
        _ => value & WAITERS != 0 && value & TID != 0,
    }
}

/// What was waited for, and where it begins, when the wait may be over and the lock free again.
///
/// # Errors
/// [`Error::Gone`].
pub fn kind(
    wait: &FutexWait,
    on_stack: bool,
    threads: &[u32],
    memory: &mut dyn Memory,
) -> Result<(Kind, Addr), Error> {
    match lock(wait, threads, memory) {
        Ok(Some(lock)) if lock.kind != Kind::Futex => return Ok((lock.kind, lock.at)),
        Err(Error::Gone) => return Err(Error::Gone),
        Ok(_) | Err(_) => {}
    }
    let words = match read(wait.word, memory) {
        Ok(words) => words,
        Err(Error::Gone) => return Err(Error::Gone),
        // Unmapped by now.
        Err(_) => Words { bytes: [0xff; AROUND], word: wait.word },
    };
    let glibc = words.glibc_kind();
    let (kind, before) = match (wait.op, wait.value) {
        (0x86 | 0x06 | 0x8d | 0x0d, _) => (Kind::PiMutex, 0),
        (WAIT_PRIVATE | WAIT_SHARED, 2) if on_stack => (Kind::Condition, 0),
        (WAIT_PRIVATE | WAIT_SHARED, 2) if may_be_glibc_mutex(&words, threads.len()) => (Kind::Mutex, 0),
        (BITSET_REALTIME_PRIVATE | BITSET_PRIVATE, 0) => (Kind::Condition, 0),
        // A timed wait for a mutex that is free by now looks the same as one for a lock that readers have.
        (BITSET_REALTIME_PRIVATE | BITSET_PRIVATE, 2) if glibc.is_some_and(|kind| kind != 0) => {
            (Kind::Mutex, 0)
        }
        (BITSET_REALTIME_PRIVATE | BITSET_PRIVATE | BITSET_REALTIME | BITSET, 2 | 3) => (Kind::RwLock, 0),
        (BITSET_REALTIME | BITSET, 1..WAITERS) => (Kind::Join, 0),
        (WAIT_PRIVATE | WAIT_SHARED, MUSL_NORMAL) => (Kind::Mutex, 4),
        // musl's semaphores, and its locks that a writer has.
        (WAIT_PRIVATE | WAIT_SHARED, WAITERS) => (Kind::Condition, 0),
        (WAIT_PRIVATE | WAIT_SHARED, u32::MAX) => (Kind::RwLock, 0),
        (_, value) if value & WAITERS != 0 && glibc.is_some_and(|kind| kind & KIND_ROBUST != 0) => {
            (Kind::RobustMutex, 0)
        }
        (_, value) if value & WAITERS != 0 && words.musl_kind() & MUSL_ROBUST != 0 => (Kind::RobustMutex, 4),
        (_, value) if value & WAITERS != 0 && words.musl_kind() & 3 != 0 => (Kind::Mutex, 4),
        (_, value) if value & WAITERS != 0 => (Kind::RwLock, 0),
        _ => (Kind::Futex, 0),
    };
    Ok((kind, words.base(before)))
}

/// A lock whose word holds the number of its owner.
fn with_number(value: u32, now: u32, words: &Words, lives: impl Fn(u32) -> bool) -> Option<Lock> {
    let tid = value & TID;
    let glibc = words.glibc_kind().is_some_and(|kind| kind & KIND_ROBUST != 0);
    let musl = !glibc && matches!(words.musl_kind(), 1 | 2 | 4..=6);
    let robust = words.musl_kind() & MUSL_ROBUST != 0;
    let lock = |kind, before, owner| Some(Lock { kind, at: words.base(before), owner });
    // A thread that ends gives its robust locks away and lets all others be locked for ever, by nobody.
    if musl && !robust && now & !WAITERS == ENDED && (value == now || value & ENDED == 0) {
        return lock(Kind::Mutex, 4, Owner::Exited(tid));
    }
    if value != now || !lives(tid) {
        return None;
    }
    let owner = Owner::Thread(tid);
    match value & WAITERS != 0 {
        true if musl && !robust => lock(Kind::Mutex, 4, owner),
        true if musl => lock(Kind::RobustMutex, 4, owner),
        true => lock(Kind::RobustMutex, 0, owner),
        // A `FILE`.
        false if value & ENDED != 0 => lock(Kind::Futex, 0, owner),
        false => None,
    }
}

/// The thread of musl's whose end is waited for, if it is one.
fn musl_joined(words: &Words, memory: &mut dyn Memory) -> Result<Option<u32>, Error> {
    for before in MUSL_THREAD {
        let (thread, mut own) = (words.base(before), [0; 8]);
        match memory.read(thread, &mut own) {
            Ok(()) if u64::from_le_bytes(own) == thread.0 => return Ok(words.at(-8)),
            Err(Error::Gone) => return Err(Error::Gone),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(None)
}

/// Whether the words can be a glibc mutex that nobody has any more, or somebody again.
fn may_be_glibc_mutex(words: &Words, threads: usize) -> bool {
    let (now, users) = (words.at(0).unwrap_or(u32::MAX), words.at(12).unwrap_or(u32::MAX) as usize);
    let owner = words.at(8).unwrap_or(u32::MAX);
    now <= 2 && users <= threads + 1 && owner & !TID == 0 && words.glibc_kind().is_some()
}

/// Whether the words are a held glibc mutex: it has an owner, at least one user and no more than there are
/// threads, and a kind that exists. A `FILE`'s lock has a pointer where the owner and the users would be.
fn is_glibc_mutex(words: &Words, threads: usize) -> bool {
    let users = words.at(12).unwrap_or(0) as usize;
    let owner = words.at(8).unwrap_or(0);
    (1..=threads + 1).contains(&users) && owner != 0 && owner & !TID == 0 && words.glibc_kind().is_some()
}

/// Reads as much as there is: a lock may stand at the edge of its mapping.
fn read(word: Addr, memory: &mut dyn Memory) -> Result<Words, Error> {
    let mut words = Words { bytes: [0; AROUND], word };
    let from = Addr(word.0.saturating_sub(BEFORE));
    match memory.read_runs(&[Run { at: from, len: AROUND }], &mut words.bytes) {
        Ok(()) => return Ok(words),
        Err(Error::Gone) => return Err(Error::Gone),
        Err(_) => words.bytes = [0; AROUND],
    }
    let (before, after) = words.bytes.split_at_mut(24);
    match memory.read(word, after) {
        Err(Error::Unreadable { .. }) => {
            // The futex's own page ends behind it.
            let (own, _) = after.split_at_mut(4);
            memory.read(word, own)?;
        }
        other => other?,
    }
    match memory.read(from, before) {
        Err(Error::Gone) => Err(Error::Gone),
        Ok(()) | Err(_) => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: u64 = 0x5000;

    /// 32-bit words, of which this many stand before `WORD`.
    const BEFORE_WORD: usize = 16;
    struct Around([u32; BEFORE_WORD + 6]);

    impl Memory for Around {
        fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
            let bytes: heapless::Vec<u8, 88> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
            let first = WORD - 4 * BEFORE_WORD as u64;
            let mut out = out;
            for run in runs {
                let unreadable = Error::Unreadable { at: run.at.0 };
                let from = usize::try_from(run.at.0.checked_sub(first).ok_or(unreadable)?).unwrap();
                let (now, later) = out.split_at_mut(run.len);
                now.copy_from_slice(bytes.get(from..from + run.len).ok_or(unreadable)?);
                out = later;
            }
            Ok(())
        }
    }

    fn judged(op: u32, value: u32, from_word: &[u32], before: &[u32]) -> Option<(Kind, u64, Owner)> {
        let mut words = [0; BEFORE_WORD + 6];
        words[BEFORE_WORD..BEFORE_WORD + from_word.len()].copy_from_slice(from_word);
        words[BEFORE_WORD - before.len()..BEFORE_WORD].copy_from_slice(before);
        let wait = FutexWait { word: Addr(WORD), op, value, timed: false };
        let lock = lock(&wait, &[100, 101, 102], &mut Around(words)).unwrap();
        lock.map(|lock| (lock.kind, lock.at.0, lock.owner))
    }

    #[test]
    fn each_kind_of_lock() {
        let thread = Owner::Thread(101);
        let mutex = Some((Kind::Mutex, WORD, thread));
        assert_eq!(judged(0x80, 2, &[2, 0, 101, 1, 0], &[]), mutex);
        assert_eq!(judged(0x189, 2, &[2, 0, 101, 1, 0], &[]), mutex, "timed");
        assert_eq!(judged(0x80, 2, &[2, 3, 101, 1, 1], &[]), mutex, "recursive");
        assert_eq!(judged(0x80, 2, &[2, 0, 99, 1, 0], &[]), Some((Kind::Mutex, WORD, Owner::Exited(99))));
        assert_eq!(judged(0x80, 2, &[0, 0, 101, 1, 0], &[]), None, "free by now");
        assert_eq!(judged(0, 0x8000_0065, &[0x8000_0065], &[]), Some((Kind::RobustMutex, WORD, thread)));
        assert_eq!(judged(0x86, 0, &[0x8000_0065], &[]), Some((Kind::PiMutex, WORD, thread)));
        assert_eq!(judged(0x86, 0, &[0], &[]), None);
        let rwlock = |before| Some((Kind::RwLock, WORD - before, thread));
        assert_eq!(judged(0x189, 3, &[3, 0, 0, 0, 101], &[]), rwlock(8));
        assert_eq!(judged(0x189, 3, &[3, 0, 0, 101, 0], &[]), rwlock(12));
        assert_eq!(judged(0x109, 101, &[101], &[]), Some((Kind::Join, WORD, thread)));
        // Whatever stands before glibc's.
        let robust = Some((Kind::RobustMutex, WORD, thread));
        assert_eq!(judged(0, 0x8000_0065, &[0x8000_0065, 0, 101, 1, 0x10], &[1]), robust);
        assert_eq!(judged(0x109, 0x8000_0065, &[0x8000_0065, 0, 101, 1, 0x10], &[]), robust, "timed");
        assert_eq!(
            judged(0, 0x8000_0063, &[0x4000_0000, 0, 99, 1, 0x10], &[2]),
            futex(),
            "about to be given on"
        );
        let pi = Some((Kind::PiMutex, WORD, thread));
        assert_eq!(judged(0x86, 0, &[0x8000_0065, 0, 101, 1, 0x20], &[8]), pi);
    }

    #[test]
    fn each_kind_of_musls() {
        let musl = |kind, owner| Some((kind, WORD - 4, owner));
        let thread = Owner::Thread(101);
        assert_eq!(judged(0x80, 0x8000_0065, &[0x8000_0065], &[1]), musl(Kind::Mutex, thread));
        assert_eq!(judged(0, 0x8000_0065, &[0x8000_0065], &[0x82]), musl(Kind::Mutex, thread), "shared");
        assert_eq!(judged(0x80, 0x8000_0065, &[0x8000_0065], &[4]), musl(Kind::RobustMutex, thread));
        assert_eq!(judged(0x86, 0, &[0x8000_0065], &[8]), musl(Kind::PiMutex, thread));
        assert_eq!(judged(0x80, 0x8000_0010, &[0x8000_0010], &[0]), musl(Kind::Mutex, Owner::Unknown));
        // The number is gone with the thread; who has come before that still knows it.
        assert_eq!(judged(0x80, 0xc000_0000, &[0xc000_0000], &[2]), musl(Kind::Mutex, Owner::Exited(0)));
        assert_eq!(judged(0x80, 0x8000_0063, &[0x4000_0000], &[2]), musl(Kind::Mutex, Owner::Exited(99)));
        let file = Some((Kind::Futex, WORD, thread));
        assert_eq!(judged(0x80, 0x4000_0065, &[0x4000_0065], &[0xffff_ffff]), file);
        let [low, high] = [WORD - 56, 0].map(|word| u32::try_from(word).unwrap());
        let mut joined = [0; 14];
        (joined[0], joined[1], joined[12]) = (low, high, 101);
        assert_eq!(judged(0x80, 2, &[2], &joined), Some((Kind::Join, WORD, thread)));
        joined[0] += 8;
        assert_eq!(judged(0x80, 2, &[2], &joined), futex());
    }

    fn futex() -> Option<(Kind, u64, Owner)> {
        Some((Kind::Futex, WORD, Owner::Unknown))
    }

    #[test]
    fn what_has_no_owner_is_given_none() {
        let other = futex();
        // A condition, readers of a rwlock, a barrier, a FILE's lock, whose owner is a pointer.
        assert_eq!(judged(0x189, 0, &[0; 6], &[]), other);
        assert_eq!(judged(0x189, 2, &[2, 0, 0, 0, 0], &[]), other);
        assert_eq!(judged(0x80, 0, &[0; 6], &[]), other);
        assert_eq!(judged(0x80, 2, &[2, 1, 0xf7c0_0740, 0x7f12, 0], &[]), other);
        assert_eq!(judged(0x80, 2, &[2, 0, 101, 1, 0xffff_0000], &[]), other);
    }
}
