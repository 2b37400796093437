//! Where a process may keep what it knows: what of its memory can be written, from `/proc/PID/maps`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use std::os::unix::fs::FileExt;

use glg_engine::memory::Addr;
use glg_engine::reach::Region;
use nix::unistd::{SysconfVar, sysconf};

/// Mappings at most.
const REGIONS_MAX: usize = 1 << 14;
/// Bytes read of the list: more mappings than the kernel allows by default.
const LIST_MAX: u64 = 32 << 20;

/// Stretches of pages at most.
const STRETCHES_MAX: usize = 1 << 16;
/// Entries of the page map that are read in one go.
const ENTRIES: u64 = 4096;

/// What of it is in memory, or swapped out; `None` when that cannot be read, or is too much.
///
/// Pages that the process has never had are left out: to read them would give them to it, and nothing is in them.
pub(super) fn present(pid: u32) -> Option<Vec<Region>> {
    let regions = writable(pid)?;
    Some(in_memory(pid, &regions).unwrap_or(regions))
}

/// The stretches of these regions of which the page map says something (Documentation/admin-guide/mm/pagemap.rst: bit 63
/// present, bit 62 swapped out); `None` when it cannot be read, or they are too many.
fn in_memory(pid: u32, regions: &[Region]) -> Option<Vec<Region>> {
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok().filter(|page| *page > 0)?;
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).ok()?;
    let (mut entries, mut found) = (vec![0u8; usize::try_from(ENTRIES * 8).ok()?], Vec::<Region>::new());
    for region in regions {
        let (mut at, end) = (region.from.0, region.from.0.checked_add(region.len)?);
        while at < end {
            let count = (end - at).div_ceil(page).min(ENTRIES);
            let piece = entries.get_mut(..usize::try_from(count * 8).ok()?)?;
            pagemap.read_exact_at(piece, (at / page).checked_mul(8)?).ok()?;
            for entry in piece.chunks_exact(8) {
                let known = u64::from_ne_bytes(entry.try_into().ok()?) >> 62 != 0;
                match found.last_mut() {
                    Some(last) if known && last.from.0 + last.len == at => last.len += page,
                    _ if known => found.push(Region { from: Addr(at), len: page }),
                    _ => {}
                }
                at = at.checked_add(page)?;
            }
            if found.len() > STRETCHES_MAX {
                return None;
            }
        }
    }
    Some(found)
}

/// All of it; `None` when it cannot be read, or is too much.
fn writable(pid: u32) -> Option<Vec<Region>> {
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
        // Pages of which only one was ever touched.
        let mut sparse = vec![0u8; 64 << 20];
        let (middle, base) = (32 << 20, sparse.as_ptr() as u64);
        sparse[middle] = 1;
        let own = present(std::process::id()).unwrap();
        let has = |at: u64| own.iter().any(|r| (r.from.0..r.from.0 + r.len).contains(&at));
        let touched = (0..1024).filter(|nth| has(base + 4096 + nth * 65_536)).count();
        assert!(has(base + middle as u64) && touched < 1024 / 8, "{touched}");
        let here = &raw const heap as u64;
        let own = writable(std::process::id()).unwrap();
        assert!(own.iter().any(|r| (r.from.0..r.from.0 + r.len).contains(&here)));
    }
}
