//! Programs are read wherever they come from: in a container made by hand, from a file that was deleted or
//! replaced while it runs, from an overlay, from memory. What cannot be read is refused in plain words. Needs root,
//! and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Folder, GO, Program, Seen, agent, eventually, program};
use glg_engine::census::Census;
use glg_engine::goroutines::Walker;
use nix::sys::memfd::{MFdFlags, memfd_create};
use object::{Endianness, Object, ObjectSegment, read::elf::ElfFile64};
use serde_json::Value;

/// Goroutines that `park` is told to keep.
const PARKED: u32 = 20;

/// What `goleakguard` prints for a process, and what it remarks; `Err` with the remarks when it refuses.
fn dump(pid: u32) -> Result<(String, String), String> {
    let output = Command::new(agent()).args(["dump", "--pid", &pid.to_string()]).output().unwrap();
    let remarks = String::from_utf8(output.stderr).unwrap();
    let dump = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() || dump.is_empty(), "{dump}");
    if output.status.success() { Ok((dump, remarks)) } else { Err(remarks) }
}

/// What `ps` says of a process.
fn listed(pid: u32) -> Option<Value> {
    let output = Command::new(agent()).args(["ps", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let Value::Array(all) = serde_json::from_slice(&output.stdout).unwrap() else { panic!("{output:?}") };
    all.into_iter().find(|object| object["pid"] == pid)
}

/// `park`, which says how many goroutines it has, is counted, grouped, dumped and listed as that, with this path.
fn is_read(park: &mut Program, pid: u32, path: &str) {
    let goroutines = park.goroutines();
    assert_eq!(goroutines, PARKED + 1);
    let mut seen = Seen::open(pid);
    assert_eq!(seen.remote.path, path);
    assert_eq!(seen.count(), Ok(goroutines), "{path}");

    let (mut walker, mut census) = (Walker::new(1 << 16), Census::new(64));
    let process = seen.remote.process();
    census.take(&mut walker, &seen.runtime, process.memory, process.image, 1000).unwrap();
    let largest = census.sites().next().unwrap();
    let place = seen.runtime.creation(seen.remote.process().image, largest.key.gopc).unwrap();
    assert_eq!((place.function.as_str(), largest.count), ("main.start", PARKED), "{path}");

    let (text, remarks) = dump(pid).unwrap();
    assert_eq!(text.matches("\ncreated by main.start").count(), 20, "{path}: {text}");
    assert_eq!(remarks, "", "{path}");

    let listed = listed(pid).unwrap_or_else(|| panic!("{path} is not listed"));
    assert_eq!((&listed["path"], &listed["goroutines"]), (&path.into(), &goroutines.into()), "{listed}");
    assert_eq!((&listed["go"], &listed["note"]), (&GO.into(), &Value::Null), "{listed}");
}

/// Starts `park` by a command of its own and waits until it is up.
fn start(command: impl AsRef<OsStr>, arguments: &[&str]) -> Program {
    let mut park = Program::begin(Path::new(command.as_ref()), arguments);
    // In a namespace of its own it has another number.
    assert!(park.line().starts_with("READY "));
    park
}

/// A copy of `park` that runs, and the folder it is in.
fn parked_copy() -> (Folder, String, Program) {
    let folder = Folder::new();
    let path = folder.copy_of(GO, "park");
    let park = Program::start(&path, &[&PARKED.to_string()]);
    (folder, path.to_str().unwrap().to_owned(), park)
}

/// A file system of its own that nobody outside sees, its own root, its own processes: the outer number leads there.
#[test]
fn a_program_in_a_container() {
    let folder = Folder::new();
    let root = folder.path().to_str().unwrap();
    let script = format!(
        "mount -t tmpfs none {root} && cp {} {root}/park && exec chroot {root} /park {PARKED}",
        program(GO, "park").display()
    );
    let mut park = start("unshare", &["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", &script]);
    assert!(!folder.path().join("park").exists());
    let children = format!("/proc/{0}/task/{0}/children", park.pid());
    let pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    // As the kernel tells it from outside; from inside it is /park.
    is_read(&mut park, pid, &format!("{root}/park"));
}

#[test]
fn a_program_in_an_overlay() {
    let folder = Folder::new();
    let root = folder.path().to_str().unwrap();
    // The layers in memory: not every file system can hold them.
    let script = format!(
        "mount -t tmpfs none {root} && mkdir {root}/lower {root}/upper {root}/work {root}/merged && \
         cp {} {root}/lower/park && \
         mount -t overlay overlay -o lowerdir={root}/lower,upperdir={root}/upper,workdir={root}/work \
         {root}/merged && exec {root}/merged/park {PARKED}",
        program(GO, "park").display()
    );
    let mut park = start("unshare", &["--mount", "sh", "-ec", &script]);
    let pid = park.pid();
    is_read(&mut park, pid, &format!("{root}/merged/park"));
}

#[test]
fn a_program_whose_file_is_deleted() {
    let (_folder, path, mut park) = parked_copy();
    fs::remove_file(&path).unwrap();
    let pid = park.pid();
    is_read(&mut park, pid, &path);
}

/// As an update does it: another file is moved to its place. What runs is the old one.
#[test]
fn a_program_whose_file_is_replaced() {
    let (folder, path, mut park) = parked_copy();
    let newer = folder.executable("newer", &fs::read(program("1.27.3", "kinds")).unwrap());
    fs::rename(newer, &path).unwrap();
    let pid = park.pid();
    is_read(&mut park, pid, &path);
    // Started anew it is the new one.
    drop(park);
    let kinds = Program::start(Path::new(&path), &[]);
    let listed = listed(kinds.pid()).expect("it is listed");
    assert_eq!((&listed["go"], &listed["path"]), (&"1.27.3".into(), &path.into()), "{listed}");
}

#[test]
fn a_program_out_of_memory() {
    let memory = memfd_create("parked", MFdFlags::empty()).unwrap();
    let mut memory = fs::File::from(memory);
    memory.write_all(&fs::read(program(GO, "park")).unwrap()).unwrap();
    // Reopened without the right to write: what is written to is not run.
    let name = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let readable = fs::File::open(&name).unwrap();
    drop(memory);
    let name = format!("/proc/{}/fd/{}", std::process::id(), readable.as_raw_fd());
    let mut park = start(&name, &[&PARKED.to_string()]);
    let pid = park.pid();
    is_read(&mut park, pid, "/memfd:parked");
}

#[test]
fn a_32_bit_program_is_refused_in_plain_words() {
    let park = Program::start(&program(GO, "park-32"), &[&PARKED.to_string()]);
    let why = dump(park.pid()).unwrap_err();
    assert!(why.contains("32-bit program: only 64-bit programs are read"), "{why}");
    let listed = listed(park.pid()).expect("it is listed");
    assert_eq!(listed["note"], "32-bit program: only 64-bit programs are read");
    assert_eq!((&listed["go"], &listed["goroutines"]), (&GO.into(), &Value::Null), "{listed}");
    assert_eq!(listed["package"], "goleakguard.test/programs/park");
}

#[test]
fn what_is_no_go_program_is_refused_in_plain_words() {
    let refused = |pid: u32, why: &str| {
        let said = dump(pid).unwrap_err();
        assert!(said.contains(&format!("process {pid}")) && said.contains(why), "{said}");
        assert_eq!(listed(pid), None);
    };
    refused(std::process::id(), "not a Go program");
    refused(kernel_thread(), "is a kernel thread");
    refused(4_194_305, "does not exist");
    let zombie = Zombie::of(&program(GO, "minimal"));
    refused(zombie.0.id(), "a zombie");
}

/// A process that has ended and was not waited for.
struct Zombie(Child);

impl Zombie {
    fn of(path: &Path) -> Zombie {
        let child = Command::new(path).stdin(Stdio::null()).spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        eventually("its end", || fs::read_to_string(&stat).unwrap().contains(") Z ").then_some(()));
        Zombie(child)
    }
}

impl Drop for Zombie {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

/// Any: their flags have `PF_KTHREAD` (include/linux/sched.h).
fn kernel_thread() -> u32 {
    let flags = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse::<u32>().ok()
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| flags(*pid).is_some_and(|flags| flags & 0x0020_0000 != 0))
        .expect("a kernel thread is visible")
}

/// The number that `top -H` shows: its process is meant.
#[test]
fn a_thread_leads_to_its_process() {
    let park = Program::start(&program(GO, "kinds"), &[]);
    park.at_rest();
    let tasks = fs::read_dir(format!("/proc/{}/task", park.pid())).unwrap().flatten();
    let tids = tasks.map(|entry| entry.file_name().to_str().unwrap().parse::<u32>().unwrap());
    let tid = tids.max().unwrap();
    assert_ne!(tid, park.pid());
    let (text, remarks) = dump(tid).unwrap();
    assert_eq!(text, dump(park.pid()).unwrap().0);
    assert!(remarks.contains(&format!("{tid} is a thread of process {}", park.pid())), "{remarks}");
    assert_eq!(listed(tid), None);
}

/// A program that stands at its very first instruction, for ever.
#[test]
fn a_program_that_has_not_begun_is_not_initialised_yet() {
    let mut file = fs::read(program(GO, "park")).unwrap();
    let elf = ElfFile64::<Endianness>::parse(file.as_slice()).unwrap();
    let entry = elf.entry();
    let text = elf.segments().find(|s| (s.address()..s.address() + s.size()).contains(&entry)).unwrap();
    let at = usize::try_from(text.file_range().0 + entry - text.address()).unwrap();
    // A jump to itself.
    let jump: &[u8] = if cfg!(target_arch = "aarch64") { &[0, 0, 0, 0x14] } else { &[0xeb, 0xfe] };
    file[at..at + jump.len()].copy_from_slice(jump);
    let folder = Folder::new();
    let newborn = Program::begin(&folder.executable("newborn", &file), &["1"]);
    let exe = format!("/proc/{}/exe", newborn.pid());
    eventually("its own program", || {
        fs::read_link(&exe).is_ok_and(|now| now.ends_with("newborn")).then_some(())
    });
    let why = dump(newborn.pid()).unwrap_err();
    assert!(why.contains("Go runtime not initialised yet"), "{why}");
    let listed = listed(newborn.pid()).expect("it is listed");
    assert_eq!((&listed["note"], &listed["goroutines"]), (&"not initialised yet".into(), &Value::Null));
    assert_eq!((&listed["go"], &listed["stripped"]), (&GO.into(), &false.into()));
}

/// Of code in a plugin, a second module, no name is known: then none is said, and a stack ends there.
#[test]
fn code_in_a_plugin_is_called_that_and_nothing_else() {
    let plugin = program(GO, "plug.so");
    let mut plugged = Program::start(&program(GO, "plugged-host"), &[plugin.to_str().unwrap()]);
    let said = plugged.ask("stacks");
    let inside = said["plain"].as_str().unwrap();
    assert_eq!(inside.matches("/plug.receive(").count(), 12, "{inside}");
    let (text, remarks) = dump(plugged.pid()).unwrap();
    // Where libraries are.
    let far = if cfg!(target_arch = "aarch64") { "0xffff" } else { "0x7" };
    let elsewhere = format!("[chan receive]:\ncode in another module\n\tpc={far}");
    assert_eq!(text.matches(&elsewhere).count(), 12, "{text}");
    let created = format!("\ncreated by code in another module in goroutine 1\n\tpc={far}");
    assert_eq!(text.matches(&created).count(), 12);
    assert_eq!(text.matches("\ncreated by main.park in goroutine 1\n").count(), 8);
    assert!(remarks.contains("12 stacks are not shown to their end"), "{remarks}");

    let grouped = Command::new(agent())
        .args(["dump", "--grouped", "--pid", &plugged.pid().to_string()])
        .output()
        .unwrap();
    let grouped = String::from_utf8(grouped.stdout).unwrap();
    let groups = grouped.split_once('\n').unwrap().1;
    let group = groups.split("\n\n").find(|group| group.starts_with(&format!("12 @ {far}"))).expect(&grouped);
    assert!(group.lines().nth(1).unwrap().ends_with("\tcode in another module"), "{grouped}");
    assert_eq!(group.lines().count(), 2, "{grouped}");

    let mut seen = Seen::open(plugged.pid());
    assert_eq!(seen.count(), Ok(plugged.goroutines()));
    let (mut walker, mut census) = (Walker::new(1 << 16), Census::new(64));
    let process = seen.remote.process();
    census.take(&mut walker, &seen.runtime, process.memory, process.image, 1000).unwrap();
    let largest = *census.sites().next().unwrap();
    assert_eq!(largest.count, 12);
    assert!(!seen.runtime.is_go_code(largest.key.gopc));
    assert!(seen.runtime.creation(seen.remote.process().image, largest.key.gopc).is_err());
}
