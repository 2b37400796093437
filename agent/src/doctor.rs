//! `goleakguard doctor`: what this system allows, what is missing, and what to do about it.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use glg_engine::memory::Memory;

use crate::clock;
use crate::probes::{ProbeLimits, Probes};
use crate::remote::Remote;

/// One finding.
struct Finding {
    what: &'static str,
    /// What was found, or what to do.
    result: Result<String, String>,
    /// Whether the agent cannot do its basic work without it.
    needed: bool,
}

/// Prints all findings; `true` when nothing that is needed is missing.
#[must_use]
pub fn examine() -> bool {
    let loaded = ebpf();
    let (text, cost) = match loaded {
        Ok((text, probes)) => (Ok(text), cost(probes)),
        Err(error) => (Err(error), Err("not without eBPF".to_owned())),
    };
    let findings = [
        Finding { what: "kernel", result: kernel(), needed: true },
        Finding { what: "/proc", result: proc(), needed: true },
        Finding { what: "read foreign memory", result: foreign_memory(), needed: true },
        Finding { what: "threads in C", result: threads(), needed: false },
        Finding { what: "load eBPF", result: text, needed: false },
        Finding { what: "probe cost", result: cost, needed: false },
        Finding { what: "waits for locks", result: waits(), needed: false },
        Finding { what: "clock", result: wall_clock(), needed: false },
    ];
    let mut fit = true;
    for finding in findings {
        let (mark, text) = match &finding.result {
            Ok(text) => ("ok     ", text),
            Err(text) if finding.needed => ("MISSING", text),
            Err(text) => ("without", text),
        };
        fit &= finding.result.is_ok() || !finding.needed;
        println!("{mark}  {:<20} {text}", finding.what);
    }
    println!("{}", if fit { "The agent can run here." } else { "The agent cannot work here: see above." });
    fit
}

fn kernel() -> Result<String, String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|e| format!("unknown: {e}"))?;
    let mut parts = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let text = format!("{} {}", release.trim_end(), std::env::consts::ARCH);
    if version < (5, 8) {
        return Err(format!("{text}: older than 5.8, which is the first with eBPF ring buffers"));
    }
    Ok(text)
}

fn proc() -> Result<String, String> {
    if Path::new("/proc/1/comm").exists() {
        return Ok("mounted, other processes are visible".to_owned());
    }
    Err("other processes are not visible: mount /proc, without hidepid for the agent".to_owned())
}

/// Bits of capabilities (include/uapi/linux/capability.h): to read memory, and the files in /proc that belong to
/// other users.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_DAC_OVERRIDE: u32 = 1;

/// Tries on a child of its own, which is always permitted where the system call is, and looks whether it may
/// do the same to the programs of others.
fn foreign_memory() -> Result<String, String> {
    let mut child = Command::new("/proc/self/exe")
        .arg("doctor-sleep")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("no child process: {error}"))?;
    // Only when it has answered does it run its own program.
    let mut answer = [0];
    let answered = child.stdout.as_mut().map(|stdout| stdout.read_exact(&mut answer));
    let read = match Remote::open(child.id()) {
        _ if !matches!(answered, Some(Ok(()))) => Err("it did not answer".to_owned()),
        Ok(Some(mut remote)) => {
            let entry = remote.entry;
            let memory: &mut dyn Memory = remote.process().memory;
            memory.read(entry, &mut [0; 8]).map_err(|error| error.to_string())
        }
        Ok(None) => Err("it ended too early".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    drop(child.stdin.take()); // its end
    child.wait().map_err(|error| format!("child process: {error}"))?;
    read.map_err(|error| {
        format!(
            "a child process: {error}: allow process_vm_readv (kernel: CONFIG_CROSS_MEMORY_ATTACH; seccomp)"
        )
    })?;
    if may_read_others() {
        return Ok("process_vm_readv works, programs of all users may be read".to_owned());
    }
    Err("only programs of this user may be read: run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
        .to_owned())
}

fn may_read_others() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let has = |bit: u32| capabilities.is_some_and(|bits| bits >> bit & 1 == 1);
    has(CAP_SYS_PTRACE) && (has(CAP_DAC_READ_SEARCH) || has(CAP_DAC_OVERRIDE))
}

/// What the child of the memory test does: it says that it is there and waits until its input ends.
pub fn sleep_until_eof() {
    print!("!");
    let _ = std::io::stdout().flush();
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

const LIMITS: ProbeLimits = ProbeLimits { sites: 16, targets: 1, event_bytes: 4096 };

fn threads() -> Result<String, String> {
    match fs::read("/proc/thread-self/syscall") {
        Ok(_) => Ok("the kernel tells where threads stand".to_owned()),
        Err(error) => Err(format!("deadlocks in C are not found: /proc/PID/task/TID/syscall: {error}")),
    }
}

/// Observes itself for a moment.
fn waits() -> Result<String, String> {
    let mut probes = Probes::load_observing(&LIMITS, 16).map_err(|error| error.to_string())?;
    let observed = probes.observe(std::process::id(), 0..0, u64::MAX);
    probes.stop_observing();
    observed.map_err(|error| error.to_string())?;
    Ok("can be measured: one of the agent's own was seen".to_owned())
}

fn ebpf() -> Result<(String, Probes), String> {
    let mut probes = Probes::load(&LIMITS).map_err(|error| error.to_string())?;
    // A process of our own, seen to begin and to end.
    let child = Command::new("/proc/self/exe").arg("--version").stdout(Stdio::null()).spawn();
    let mut child = child.map_err(|error| format!("no child process: {error}"))?;
    let pid = child.id();
    child.wait().map_err(|error| format!("child process: {error}"))?;
    let mut seen = 0;
    probes.drain_events(256, |event| seen += u32::from(event.tgid == pid));
    match seen {
        2.. => Ok(("programs load; a process was seen to begin and to end".to_owned(), probes)),
        _ => {
            Err("programs load, but the kernel tells of no processes: new ones are found by scanning"
                .to_owned())
        }
    }
}

fn cost(mut probes: Probes) -> Result<String, String> {
    let cost = probes.calibrate().map_err(|error| error.to_string())?;
    Ok(format!("{:.0} ns a hit emulated, {:.0} ns single-stepped", cost.emulated_ns, cost.stepped_ns))
}

fn wall_clock() -> Result<String, String> {
    use glg_proto::wire::ClockQuality;
    match clock::now().clock {
        ClockQuality::Synced => Ok("in step with a reference".to_owned()),
        ClockQuality::Free => Ok("plausible; no one keeps it in step".to_owned()),
        ClockQuality::Wrong => Err("was never set: alerts carry the time since boot only".to_owned()),
    }
}
