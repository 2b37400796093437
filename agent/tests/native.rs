//! Stacks of threads that wait in C, against what the program says of them itself: however it was compiled,
//! with its symbols and without. Needs root, a C compiler, and zig of `cargo xtask setup` for musl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Folder, Program, Seen, eventually, program, releases};
use glg_engine::layout::Arch;
use glg_engine::locks::scan::{Threads, Tid};
use glg_engine::locks::standing::{Call, Standing};
use glg_engine::locks::threads::{self, M};
use glg_engine::memory::{Addr, Memory};
use goleakguard::native::{Beneath, End, Frame, How, Native, Start};
use goleakguard::remote::Remote;
use goleakguard::threads::ProcThreads;

const ARCH: Arch = if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 };

/// A thread that waits, as its program tells of it.
struct Told {
    way: String,
    tid: u32,
    mutex: Addr,
    /// The functions it is in and where each of them returns to, the innermost first.
    functions: Vec<(String, Addr)>,
}

impl Told {
    /// `STACK way tid mutex function=return-address ...`.
    fn parse(line: &str) -> Told {
        let address = |text: &str| Addr(u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap());
        let words: Vec<&str> = line.split(' ').collect();
        let [_, way, tid, mutex, functions @ ..] = &words[..] else { panic!("{line}") };
        let function = |word: &&str| {
            let (name, returns) = word.split_once('=').unwrap();
            (name.to_owned(), address(returns))
        };
        Told {
            way: (*way).to_owned(),
            tid: tid.parse().unwrap(),
            mutex: address(mutex),
            functions: functions.iter().map(function).collect(),
        }
    }

    /// The return addresses that are on the stack: a function that was jumped to returns where the one before
    /// it would have.
    fn returns(&self) -> Vec<Addr> {
        let mut kept: Vec<&(String, Addr)> = self.functions.iter().collect();
        kept.dedup_by(|next, before| next.1 == before.1 && next.0 != before.0);
        kept.iter().map(|(_, returns)| *returns).collect()
    }
}

/// The program of `native/waits.c`, compiled in some way.
struct Waits {
    program: Program,
    told: Vec<Told>,
    name: String,
}

impl Waits {
    fn start(path: &Path) -> Waits {
        let mut program = Program::begin(path, &[]);
        let mut told = Vec::new();
        loop {
            let line = program.line();
            if line == format!("READY {}", program.pid()) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                return Waits { program, told, name };
            }
            told.push(Told::parse(&line));
        }
    }

    /// Where a thread stands once it waits for its mutex.
    fn call(&self, told: &Told) -> Call {
        let mut threads = ProcThreads::new(self.program.pid());
        eventually("a thread that waits", || {
            match threads.standing(Tid { inner: told.tid, outer: told.tid }) {
                Ok(Standing::Call(call)) if call.args[0].abs_diff(told.mutex.0) < 16 => Some(call),
                _ => None,
            }
        })
    }
}

/// What is to be seen of a program: see `native/variants.txt`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seeing {
    Named,
    Whole,
    Returns,
}

/// A way to compile `waits.c`: a line of `native/variants.txt`.
struct Variant<'a> {
    name: &'a str,
    compiler: &'a str,
    seeing: Seeing,
    options: Vec<&'a str>,
}

impl<'a> Variant<'a> {
    /// Those for this architecture.
    fn all(text: &'a str) -> Vec<Variant<'a>> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let all = lines.filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, arch, compiler, seeing, options @ ..] = &words[..] else { panic!("{line}") };
            let seeing = match *seeing {
                "named" => Seeing::Named,
                "whole" => Seeing::Whole,
                "returns" => Seeing::Returns,
                _ => panic!("{line}"),
            };
            let here = ["*", if ARCH == Arch::Arm64 { "arm64" } else { "amd64" }].contains(arch);
            here.then(|| Variant { name, compiler, seeing, options: options.to_vec() })
        });
        all.collect()
    }

    /// Compiles it, or takes what was compiled before from the folder that `GLG_C_PROGRAMS` names. The second has
    /// no symbols.
    fn programs(&self, folder: &Folder) -> [PathBuf; 2] {
        if let Some(built) = env::var_os("GLG_C_PROGRAMS").map(PathBuf::from) {
            return [self.name.to_owned(), format!("{}-stripped", self.name)].map(|name| built.join(name));
        }
        let source: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "native", "waits.c"].iter().collect();
        let path = folder.path().join(self.name);
        let mut compile = if self.compiler == "musl" { zig() } else { Command::new("cc") };
        succeeds(compile.args(&self.options).arg("-pthread").arg("-o").arg(&path).arg(source));
        let stripped = folder.path().join(format!("{}-stripped", self.name));
        succeeds(Command::new("strip").arg("-s").arg("-o").arg(&stripped).arg(&path));
        [path, stripped]
    }
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: install a C compiler"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// zig, where `cargo xtask setup` has put it.
fn zig() -> Command {
    let cache = || PathBuf::from(env::var_os("HOME").unwrap()).join(".cache/goleakguard");
    let tools = env::var_os("GOLEAKGUARD_TOOLS").map_or_else(cache, PathBuf::from);
    let entries = fs::read_dir(&tools).unwrap_or_else(|e| panic!("{}: {e}", tools.display()));
    let mut zigs = entries.map(|entry| entry.unwrap().path().join("ziglang/zig"));
    let mut command =
        Command::new(zigs.find(|zig| zig.is_file()).expect("zig is missing: run `cargo xtask setup`"));
    let target = if ARCH == Arch::Arm64 { "aarch64-linux-musl" } else { "x86_64-linux-musl" };
    command.args(["cc", "-target", target]);
    command
}

fn shown(frames: &[Frame]) -> String {
    frames.iter().map(|frame| format!("\n  {frame} [{:?} {}]", frame.how, frame.pc)).collect()
}

/// All stacks of a program, compared with what it says.
fn compare(path: &Path, symbols: bool, seeing: Seeing) {
    let waits = Waits::start(path);
    assert_eq!(waits.told.len(), 6);
    let mut remote = Remote::open(waits.program.pid()).unwrap().unwrap();
    let mut native = Native::new(waits.program.pid(), ARCH);
    let mut frames = Vec::new();
    for told in &waits.told {
        let call = waits.call(told);
        if seeing == Seeing::Returns && told.way == "signal" && ARCH == Arch::Arm64 {
            // Without tables it is not known there where the frame of a function begins, and so the kernel's.
            continue;
        }
        let end = native
            .stack(remote.process().memory, Start::from(&call), &Beneath::nothing(), &mut frames)
            .unwrap();
        let context = format!("{}, {}: {end:?}{}", path.display(), told.way, shown(&frames));
        if env::var_os("GLG_SHOW").is_some() {
            println!("{context}");
        }
        assert_eq!(frames[0].pc, call.pc, "{context}");
        let returns = told.returns();
        let mut wanted = returns.iter().peekable();
        for frame in frames.iter().filter(|frame| matches!(frame.how, How::Unwound | How::Guessed)) {
            wanted.next_if(|returns| **returns == frame.pc);
        }
        assert_eq!(wanted.next(), None, "a return address is missing: {:x?} of {context}", told.functions);
        if seeing == Seeing::Returns {
            continue;
        }
        assert_eq!(end, End::Beginning, "{context}");
        let locks = |frame: &Frame| {
            frame.name.as_deref().is_some_and(|name| name.trim_start_matches('_') == "pthread_mutex_lock")
        };
        assert!(frames.iter().take(6).any(locks) || seeing == Seeing::Whole && !symbols, "{context}");
        if symbols {
            let own = |name: &&str| told.functions.iter().any(|(own, _)| own == *name);
            let ours = frames.iter().filter(|frame| frame.module[..] == waits.name);
            let seen: Vec<&str> = ours.filter_map(|frame| frame.name.as_deref()).filter(own).collect();
            let functions: Vec<&str> = told.functions.iter().map(|(name, _)| &name[..]).collect();
            assert_eq!(seen, functions, "{context}");
        }
    }
}

/// All programs of this kind, however they were compiled.
fn compare_all(seeing: Seeing) {
    let (folder, text) = (Folder::new(), include_str!("native/variants.txt"));
    let mut variants = Variant::all(text);
    variants.retain(|variant| variant.seeing == seeing);
    assert!(!variants.is_empty());
    for variant in variants {
        let [path, stripped] = variant.programs(&folder);
        compare(&path, true, seeing);
        compare(&stripped, false, seeing);
    }
}

#[test]
fn dynamic_programs() {
    compare_all(Seeing::Named);
}

#[test]
fn static_programs() {
    compare_all(Seeing::Whole);
}

/// Nothing says how their functions are unwound: return addresses are looked for.
#[test]
fn programs_without_tables() {
    compare_all(Seeing::Returns);
}

/// The oldest, the one in most use and the newest.
const RELEASES: [&str; 3] = ["1.19.8", "1.24.11", "1.27.3"];

/// A word of the process.
fn word(memory: &mut dyn Memory, at: Addr) -> Addr {
    let mut bytes = [0; 8];
    memory.read(at, &mut bytes).unwrap();
    Addr(u64::from_le_bytes(bytes))
}

/// The stacks of all threads of `locks` that wait in C, with what the program says of each.
fn stacks_of_go(path: &Path, mode: &[&str], check: impl Fn(&serde_json::Value, &[Frame], End, &str)) {
    let mut target = Program::start(path, mode);
    let said = target.ask("expected");
    let mut seen = Seen::open(target.pid());
    let (mut all, mut proc) = (Vec::<M>::new(), ProcThreads::new(target.pid()));
    let process = seen.remote.process();
    threads::list(&seen.runtime, process.memory, 1000, &mut all).unwrap();
    let mut native = Native::new(target.pid(), ARCH);
    let sched_sp = u64::from(seen.runtime.layout.g.sched_sp);
    let (is_go, mut frames) = (|pc| seen.runtime.is_go_code(pc), Vec::new());
    for wait in said["waits"].as_array().unwrap() {
        let tid = u32::try_from(wait["tid"].as_u64().unwrap()).unwrap();
        let Ok(Standing::Call(call)) = proc.standing(Tid { inner: tid, outer: tid }) else {
            panic!("{wait}")
        };
        let m = all.iter().find(|m| m.tid == tid && wait["goid"].is_u64());
        let mut saved = |g: Addr| word(process.memory, g.plus(sched_sp).unwrap());
        let (g0_sp, g_sp) = (m.map(|m| saved(m.g0)), m.and_then(|m| m.curg).map(&mut saved));
        let beneath = Beneath { is_go: &is_go, g0_sp, g_sp };
        let end = native.stack(process.memory, Start::from(&call), &beneath, &mut frames).unwrap();
        let context = format!("{} {mode:?}: {wait}: {end:?}{}", path.display(), shown(&frames));
        if env::var_os("GLG_SHOW").is_some() {
            println!("{context}");
        }
        check(wait, &frames, end, &context);
    }
}

/// From the function that the program says it waits in down to the one that Go has called.
fn down_to_go(path: &Path, symbols: bool) {
    let module = path.file_name().unwrap().to_string_lossy();
    for mode in [
        &["relock"][..],
        &["abba-go"],
        &["three"],
        &["tail"],
        &["deep"],
        &["cond"],
        &["callback"],
        &["syncmutex"],
    ] {
        stacks_of_go(path, mode, |wait, frames, end, context| {
            if wait["goid"].is_u64() {
                assert_eq!(end, End::Go { fits: Some(true) }, "{context}");
            }
            let own = || frames.iter().filter(|frame| frame.module[..] == *module);
            assert!(own().count() > 0, "{context}");
            if symbols {
                let names: Vec<&str> = own().filter_map(|frame| frame.name.as_deref()).collect();
                let function = wait["c_function"].as_str().unwrap();
                // Called through a pointer, these leave by a jump: nothing is left of them anywhere.
                let vanished = ["wait_at_barrier", "wait_for_first"].contains(&function);
                assert!(names.contains(&function) || vanished && names.contains(&"run"), "{context}");
                let entry = names.last().unwrap();
                assert_eq!(entry.starts_with("_cgo_"), wait["goid"].is_u64(), "{context}");
            }
        });
    }
}

/// On the device there may be fewer releases.
fn wanted() -> Vec<String> {
    match env::var_os("GLG_GO_RELEASES") {
        Some(_) => releases(),
        None => RELEASES.map(str::to_owned).to_vec(),
    }
}

#[test]
fn down_to_go_with_glibc() {
    for release in &wanted() {
        down_to_go(&program(release, "locks-cgo"), true);
        down_to_go(&program(release, "locks-cgo-O0"), true);
        down_to_go(&program(release, "locks-cgo-stripped"), false);
    }
}

#[test]
fn down_to_go_with_musl() {
    for release in &wanted() {
        down_to_go(&program(release, "locks-musl"), true);
        down_to_go(&program(release, "locks-musl-stripped"), false);
    }
}
