//! How much memory a process takes, and how much is left to it: `/proc/PID/statm`, the limits of its control groups and
//! what the machine has available.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use glg_engine::footprint::{Footprint, Room};
use glg_proto::wire::MemoryLimit;

use crate::groups::{Group, Groups, Version, small_file};

/// Bytes of `/proc/PID/statm`: seven numbers.
const STATM_MAX: usize = 7 * 21;
/// Control groups are nested so deep at most; those above are not asked.
const NESTED_MAX: usize = 16;

/// The memory of one process.
pub(crate) struct ProcFootprint {
    pid: u32,
    /// Bytes of a page.
    page: u64,
    /// Kept open: it is read at every tick.
    statm: Option<File>,
}

impl ProcFootprint {
    /// Of process `pid`, on a machine with pages of so many bytes.
    pub(crate) fn new(pid: u32, page: u64) -> ProcFootprint {
        ProcFootprint { pid, page, statm: File::open(format!("/proc/{pid}/statm")).ok() }
    }
}

impl Footprint for ProcFootprint {
    fn resident_kib(&mut self) -> Option<u32> {
        let mut line = [0; STATM_MAX];
        let read = self.statm.as_ref()?.read_at(&mut line, 0).ok()?;
        resident_kib(std::str::from_utf8(line.get(..read)?).ok()?, self.page)
    }

    fn room(&mut self) -> Option<Room> {
        let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_kib(&text));
        let machine = machine.map(|kib| Room { kib, limit: MemoryLimit::Machine });
        let groups = Groups::of(self.pid).as_ref().and_then(group_room_kib);
        let groups = groups.map(|kib| Room { kib, limit: MemoryLimit::Cgroup });
        [groups, machine].into_iter().flatten().min_by_key(|room| room.kib)
    }
}

/// The second number of `statm`, in pages (Documentation/filesystems/proc.rst, table 1-3).
fn resident_kib(line: &str, page: u64) -> Option<u32> {
    let pages: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    u32::try_from(pages.checked_mul(page)? / 1024).ok()
}

/// `MemAvailable` of `/proc/meminfo`: what can be had without swapping.
fn available_kib(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// What the closest limit leaves, of all control groups around a process; `None` when none of them has one.
fn group_room_kib(groups: &Groups) -> Option<u64> {
    groups.with("memory").filter_map(|group| room_kib(&group)).min()
}

struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Pages of files that nobody uses just now: they are given back before anything is killed.
    reclaimable: &'static str,
}

/// Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files".
const VERSION_2: Files =
    Files { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file " };
/// Documentation/admin-guide/cgroup-v1/memory.rst, section 5.
const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};
/// What version 1 says where there is no limit is the largest number of whole pages; no machine has that much.
const NO_LIMIT: u64 = 1 << 60;

/// What the closest limit on the way up leaves.
fn room_kib(group: &Group) -> Option<u64> {
    let files = match group.version {
        Version::One => VERSION_1,
        Version::Two => VERSION_2,
    };
    let places = group.path.ancestors().take(NESTED_MAX).map(|path| group.root.join(path));
    places.filter_map(|folder| room_at(&folder, &files)).min().map(|bytes| bytes / 1024)
}

fn room_at(folder: &Path, files: &Files) -> Option<u64> {
    let number = |file: &str| small_file(&folder.join(file))?.trim().parse::<u64>().ok();
    let limit = number(files.limit).filter(|limit| *limit < NO_LIMIT)?;
    let usage = number(files.usage)?;
    let stat = small_file(&folder.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat.lines().find_map(|line| line.strip_prefix(files.reclaimable)?.parse().ok());
    Some(limit.saturating_sub(usage.saturating_sub(reclaimable.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn own_memory_is_told() {
        let mut own = ProcFootprint::new(std::process::id(), 4096);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let told = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let told: u32 = told.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        let seen = own.resident_kib().unwrap();
        assert!(seen.abs_diff(told) < 2048, "{seen} against {told} KiB");
        let room = own.room().unwrap();
        assert!(room.kib > 1024, "{room:?}");
        assert_eq!(ProcFootprint::new(u32::MAX, 4096).resident_kib(), None);
    }

    #[test]
    fn what_is_no_number_is_not_told() {
        assert_eq!(resident_kib("1 25 3 4 5 6 7\n", 16_384), Some(400));
        for line in ["", "1", "1 x", "1 18446744073709551615 3"] {
            assert_eq!(resident_kib(line, 4096), None, "{line}");
        }
        assert_eq!(available_kib("MemTotal: 9 kB\nMemAvailable:   1234 kB\n"), Some(1234));
        assert_eq!(available_kib("MemFree: 9 kB\n"), None);
    }

    #[test]
    fn the_closest_limit_counts() {
        let folder = Folder::new("limits");
        let put = |group: &str, file: &str, text: &str| folder.put(group, file, text);
        let room = |groups: &str| group_room_kib(&Groups::new(groups, &folder.0));
        put("", "memory.stat", "inactive_file 0\n");
        assert_eq!(room("0::/apps/gateway\n"), None, "the root has no limit");
        put("apps/gateway", "memory.max", "max\n");
        put("apps/gateway", "memory.current", "500\n");
        assert_eq!(room("0::/apps/gateway\n"), None, "without a limit");
        put("apps", "memory.max", "10485760\n");
        put("apps", "memory.current", "9437184\n");
        assert_eq!(room("0::/apps/gateway\n"), Some(1024), "that of the group around it");
        put("apps", "memory.stat", "anon 7\ninactive_file 1048576\nactive_file 3\n");
        assert_eq!(room("0::/apps/gateway\n"), Some(2048), "files that nobody uses are given back");
        put("apps/gateway", "memory.max", "1500\n");
        assert_eq!(room("0::/apps/gateway\n"), Some(0), "1,000 bytes");
        put("memory/old", "memory.limit_in_bytes", "3145728\n");
        put("memory/old", "memory.usage_in_bytes", "4194304\n");
        put("memory/old", "memory.stat", "inactive_file 9999999\ntotal_inactive_file 3145728\n");
        assert_eq!(room("4:cpu,memory:/old\n3:cpu:/apps/gateway\n"), Some(2048), "version 1");
        put("memory/old", "memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(room("4:memory:/old\n"), None);
        for odd in ["", "0:", "0::", "0::apps/gateway", "0::/../x", "x"] {
            assert_eq!(room(odd), None, "{odd}");
        }
    }
}
