//! Where a process may keep what it knows: what of its memory can be written, from `/proc/PID/maps`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use glg_engine::memory::Addr;
use glg_engine::reach::Region;

/// Mappings at most.
const REGIONS_MAX: usize = 1 << 14;
/// Bytes read of the list: more mappings than the kernel allows by default.
const LIST_MAX: u64 = 32 << 20;

/// All of it; `None` when it cannot be read, or is too much.
pub(super) fn writable(pid: u32) -> Option<Vec<Region>> {
    let file = File::open(format!("/proc/{pid}/maps")).ok()?.take(LIST_MAX);
    let (mut lines, mut line, mut found) = (BufReader::with_capacity(4096, file), Vec::new(), Vec::new());
    while lines.read_until(b'\n', &mut line).ok()? > 0 {
        found.extend(parse(&String::from_utf8_lossy(&line)));
        if found.len() > REGIONS_MAX {
            return None;
        }
        line.clear();
    }
    Some(found)
}

/// `7f00-7f10 rw-p 00000000 00:00 0    [heap]`, if it can be read and written (fs/proc/task_mmu.c,
/// `show_map_vma`).
fn parse(line: &str) -> Option<Region> {
    let mut words = line.splitn(3, ' ');
    let (from, to) = words.next()?.split_once('-')?;
    if !words.next()?.starts_with("rw") {
        return None;
    }
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let (from, to) = (hex(from)?, hex(to)?);
    Some(Region { from: Addr(from), len: to.checked_sub(from)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_written_is_taken() {
        let heap = "55d0-55f0 rw-p 00000000 00:00 0                          [heap]\n";
        assert_eq!(parse(heap), Some(Region { from: Addr(0x55d0), len: 0x20 }));
        for other in ["", "x", "1-2 r--p 0 0:0 0\n", "2-1 rw-p 0 0:0 0\n", "1-z rw-p 0 0:0 0\n", "1-2"] {
            assert_eq!(parse(other), None, "{other}");
        }
        let here = &raw const heap as u64;
        let own = writable(std::process::id()).unwrap();
        assert!(own.iter().any(|r| (r.from.0..r.from.0 + r.len).contains(&here)));
    }
}
