//! Where a process has code, and from which files: `/proc/PID/maps`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;

/// Mappings with code that are looked at. A process with 200 libraries has 202.
const MAPPINGS_MAX: usize = 256;
/// Bytes read of the list: some 300,000 mappings.
const LIST_MAX: u64 = 32 << 20;
/// Longest path that is kept.
const PATH_MAX: usize = 512;

/// A stretch of code in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// First address.
    pub(super) start: u64,
    /// First address behind it.
    pub(super) end: u64,
    /// Where it begins in its file.
    pub(super) offset: u64,
    /// Of the file; 0 when there is none.
    inode: u64,
    /// Of the file, as the process named it; may be cut off.
    path: Box<str>,
}

/// Reads all mappings with code of a process, in ascending order.
pub(super) fn read(pid: u32) -> std::io::Result<Vec<Mapping>> {
    let file = File::open(format!("/proc/{pid}/maps"))?.take(LIST_MAX);
    let (mut lines, mut line) = (BufReader::with_capacity(4096, file), Vec::new());
    let mut found = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 && found.len() < MAPPINGS_MAX {
        found.extend(parse(&String::from_utf8_lossy(&line)));
        line.clear();
    }
    Ok(found)
}

/// `7f00-7f10 r-xp 00001000 fe:01 4711    /usr/lib/libc.so.6`, if it is code (fs/proc/task_mmu.c, `show_map_vma`).
fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    if words.next()?.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let (start, end, offset) = (hex(start)?, hex(end)?, hex(words.next()?)?);
    let inode = words.nth(1)?.parse().ok()?;
    let path = words.next().unwrap_or_default().trim();
    let path = path.char_indices().nth(PATH_MAX).map_or(path, |(at, _)| path.split_at(at).0);
    (start < end).then(|| Mapping { start, end, offset, inode, path: path.into() })
}

impl Mapping {
    /// Base name of its file, or what the kernel calls it: `[vdso]`.
    pub(super) fn name(&self) -> &str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Opens the very file that is mapped. Where the kernel does not hand it out (it takes `CAP_SYS_ADMIN` or
    /// `CAP_CHECKPOINT_RESTORE`), what has its name, or is the program's own, must be the same file.
    pub(super) fn open(&self, pid: u32) -> Option<File> {
        if self.inode == 0 {
            return None;
        }
        // Never a device: to open one may do something.
        let is_file = |path: &String, inode: Option<u64>| {
            fs::metadata(path)
                .is_ok_and(|meta| meta.is_file() && inode.is_none_or(|inode| inode == meta.ino()))
        };
        let mapped = format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end);
        if is_file(&mapped, None)
            && let Ok(file) = File::open(mapped)
        {
            return Some(file);
        }
        // Whose device is not compared: overlays and snapshots show another one there than here.
        let paths = [format!("/proc/{pid}/root{}", self.path), format!("/proc/{pid}/exe")];
        File::open(paths.iter().find(|path| is_file(path, Some(self.inode)))?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_taken() {
        let line =
            "7f1000-7f3000 r-xp 00026000 fe:01 4711                       /usr/lib/x 1/libc.so.6 (deleted)\n";
        let mapping = parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f_1000, 0x7f_3000, 0x2_6000));
        assert_eq!((mapping.inode, mapping.name()), (4711, "libc.so.6"));
        let vdso = parse("7ffd1-7ffd2 r-xp 00000000 00:00 0                          [vdso]\n").unwrap();
        assert_eq!((vdso.inode, vdso.name()), (0, "[vdso]"));
        assert_eq!(vdso.open(std::process::id()).map(drop), None);
        for other in
            ["", "x", "1-2 r--p 0 0:0 0\n", "2-1 r-xp 0 0:0 0\n", "1-2 r-xp 0\n", "1-2 r-xp z 0:0 0\n"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
        let long = format!("1-2 r-xp 0 0:0 9 /{}\n", "ü".repeat(5000));
        assert!(parse(&long).unwrap().path.len() <= 2 * PATH_MAX);
    }

    #[test]
    fn the_mapped_file_is_opened() {
        let here = only_code_is_taken as *const () as usize as u64;
        let own = read(std::process::id()).unwrap();
        let mapping = own.iter().find(|m| (m.start..m.end).contains(&here)).unwrap();
        let (mapped, exe) =
            (mapping.open(std::process::id()).unwrap(), fs::metadata("/proc/self/exe").unwrap());
        assert_eq!(mapped.metadata().unwrap().ino(), exe.ino());
    }
}
