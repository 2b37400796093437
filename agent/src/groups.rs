//! The control groups of a process, and what their files say (cgroups(7)).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where they are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Bytes of a file of a control group that are read: `memory.stat` has some fifty lines.
const FILE_MAX: usize = 8 << 10;

/// Which hierarchy a group is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// One for each controller.
    One,
    /// One for all.
    Two,
}

/// A process's place in a hierarchy.
pub(crate) struct Group {
    /// Of which kind that is.
    pub(crate) version: Version,
    /// Where the hierarchy is mounted.
    pub(crate) root: PathBuf,
    /// The group, from there on.
    pub(crate) path: PathBuf,
}

/// What `/proc/PID/cgroup` says, and where the hierarchies are.
pub(crate) struct Groups {
    text: String,
    root: PathBuf,
}

impl Groups {
    /// Those of process `pid`; `None` when it has ended.
    pub(crate) fn of(pid: u32) -> Option<Groups> {
        Some(Groups::new(fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?, Path::new(ROOT)))
    }

    pub(crate) fn new(text: impl Into<String>, root: &Path) -> Groups {
        Groups { text: text.into(), root: root.to_owned() }
    }

    /// Those in the hierarchy of this controller of version 1, and in the one of version 2.
    pub(crate) fn with(&self, controller: &str) -> impl Iterator<Item = Group> {
        self.text.lines().filter_map(move |line| group(line, controller, &self.root))
    }

    /// Whether nothing in them runs: `freezer.state` of version 1 (Documentation/admin-guide/cgroup-v1/
    /// freezer-subsystem.rst), `cgroup.events` of version 2 (Documentation/admin-guide/cgroup-v2.rst, "Core Interface
    /// Files"); both know of the groups around them.
    pub(crate) fn are_frozen(&self) -> bool {
        self.with("freezer").any(|group| match group.version {
            Version::One => {
                let state = small_file(&group.root.join(group.path).join("freezer.state"));
                state.is_some_and(|state| state.trim() != "THAWED")
            }
            // Beside those of version 1 it is mounted in a folder of its own.
            Version::Two => [group.root.join("unified"), group.root].into_iter().any(|root| {
                let events = small_file(&root.join(&group.path).join("cgroup.events"));
                events.is_some_and(|events| events.lines().any(|line| line == "frozen 1"))
            }),
        })
    }
}

/// A line of `/proc/PID/cgroup`: `0::/path`, or `N:memory:/path` of version 1.
fn group(line: &str, wanted: &str, root: &Path) -> Option<Group> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    // Out of the root that we see.
    if path.contains("..") {
        return None;
    }
    let path = PathBuf::from(path.strip_prefix('/')?);
    match controllers {
        "" => Some(Group { version: Version::Two, root: root.to_owned(), path }),
        _ if controllers.split(',').any(|controller| controller == wanted) => {
            Some(Group { version: Version::One, root: root.join(wanted), path })
        }
        _ => None,
    }
}

/// What is in a file, as far as it is read.
pub(crate) fn small_file(path: &Path) -> Option<String> {
    let mut bytes = vec![0; FILE_MAX];
    let read = File::open(path).ok()?.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(read);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn what_is_frozen_is_known_in_every_hierarchy() {
        let folder = Folder::new("frozen");
        let frozen = |text: &str| Groups::new(text, &folder.0).are_frozen();
        folder.put("apps/gateway", "cgroup.events", "populated 1\nfrozen 0\n");
        folder.put("freezer/gateway", "freezer.state", "THAWED\n");
        assert!(!frozen("0::/apps/gateway\n") && !frozen("6:freezer:/gateway\n0::/apps/gateway\n"));
        folder.put("apps/gateway", "cgroup.events", "populated 1\nfrozen 1\n");
        assert!(frozen("0::/apps/gateway\n") && !frozen("0::/apps\n"));
        folder.put("unified/other", "cgroup.events", "frozen 1\n");
        assert!(frozen("0::/other\n"));
        for state in ["FREEZING\n", "FROZEN\n"] {
            folder.put("freezer/gateway", "freezer.state", state);
            assert!(frozen("6:freezer:/gateway\n0::/apps\n") && !frozen("6:memory:/gateway\n"));
        }
        for odd in ["", "0:", "0::", "0::apps/gateway", "0::/../apps/gateway", "x"] {
            assert!(!frozen(odd), "{odd}");
        }
        assert!(!Groups::of(std::process::id()).unwrap().are_frozen());
        assert!(Groups::of(u32::MAX).is_none());
    }
}
