//! `cargo xtask qemu`: the scenario on a real arm64 kernel, the static binary running as a service of a small
//! system, the broker outside of it. With `--tests` the agent's real-process tests.

pub(crate) mod agent_tests;
pub(crate) mod errand;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu_tests::guest;
use qemu_tests::machine::{self, Machine};

use crate::broker::Broker;
use crate::child::{Child, Events, Source, What};
use crate::cmd::Progress;
use crate::demo::{Programs, build_programs, show, start_watchers};
use crate::go::{self, Arch, Variant};
use crate::proxy::Proxy;
use crate::remote::Operator;
use crate::scenario::Scenario;
use crate::setup::kernel::{self, Kernel};
use crate::setup::{self, Component};
use crate::{build, cmd, paths};

const DEVICE: &str = "qemu-virt";
/// From power-on to the agent's announcement, on an emulated processor that shares two cores with others.
const UP_WITHIN: Duration = Duration::from_secs(90);
/// How long the healthy program is watched from the begin of leak and deadlock on, at least.
const WATCH_FOR: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(90);
const MEMORY_MIB: u32 = 1024;
/// Of the guest's flash.
const DISK_BYTES: u64 = 32 << 20;

/// Runs the scenario on the kernel of this name, `6.1` for example.
pub(crate) fn run(kernel: &str) -> Result<()> {
    let kernel = Kernel::named(kernel)?;
    setup::ensure(&[Component::Bpf, Component::Vehicle, Component::Broker, Component::Qemu])?;
    kernel::ensure(kernel)?;
    build::vehicle()?;
    build::host()?;
    let programs = build_programs(Arch::Arm64, Variant::Musl)?;
    let dir = paths::target().join("qemu").join(kernel.name);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;

    let events = Events::new()?;
    let broker = Broker::start(&dir, Some(&events))?;
    let watchers = start_watchers(broker.port, &dir, &events)?;
    let (link, operator) = (Proxy::start(broker.port)?, Operator::new(&dir)?);
    let image = dir.join("initramfs.cpio");
    write_image(&image, kernel, &board_files(link.port, &operator)?, &programs)?;
    let disk = make_disk(&dir)?;

    println!(
        "==> booting arm64 Linux {} in QEMU; console: {}",
        kernel.name,
        dir.join("console.log").display()
    );
    let machine = Machine { kernel: &kernel.image(), initramfs: &image, mib: MEMORY_MIB, disk: Some(&disk) };
    let power_on = |name| Child::start(name, Source::Console, &machine.command(), &dir, Some(&events));
    let mut stage = Stage { console: power_on("console")?, link, operator, port: broker.port };
    let mut scenario = Scenario::new(DEVICE, &go::programs_dir())?;
    let played = stage.play(&mut scenario, &events, &power_on);
    let console = &stage.console;
    match played.and_then(|dump| Ok((scenario.verdict()?, dump))) {
        Ok((seen, dump)) => {
            println!("\n==> as expected on arm64 Linux {}:\n{seen}\n{dump}", kernel.name);
            println!("logs: {}", dir.display());
            Ok(())
        }
        Err(error) => {
            let [text, json] = &watchers;
            if events.check_interrupt().is_ok() {
                for child in [&broker.child, text, json, console] {
                    eprint!("{}", child.log_tail());
                }
            }
            Err(error)
        }
    }
}

/// The vehicle's memory for the agent, all included: 2.8 MiB, of which three quarters are the binary itself.
const MEMORY_BUDGET_KIB: u64 = 2867;

/// Makes the guest tell what memory the agent takes, in three lines that begin with `agent `.
const MEMORY: &str = "sed -n 's/^VmHWM:[[:space:]]*/agent peak /p; s/^VmRSS:[[:space:]]*/agent rss /p; \
                      s/^RssAnon:[[:space:]]*/agent anonymous /p' /proc/$(pidof goleakguard)/status";

/// The machine, and what is around it.
struct Stage {
    console: Child,
    link: Proxy,
    operator: Operator,
    /// The broker's.
    port: u16,
}

impl Stage {
    /// All acts; says what was fetched from far away.
    fn play(
        &mut self,
        scenario: &mut Scenario,
        events: &Events,
        power_on: &dyn Fn(&'static str) -> Result<Child>,
    ) -> Result<String> {
        let switched_on = Instant::now();
        scenario.start(events, UP_WITHIN, &mut show)?;
        println!("    up after {:.1} s", switched_on.elapsed().as_secs_f64());
        scenario.misbehave(events, WATCH_FOR, &mut show, || {
            self.console.say("echo leak >/run/leaky; echo deadlock >/run/stuck")
        })?;
        memory(scenario, &mut self.console, events)?;
        let dump = self.operator.dump(self.port, DEVICE, "leaky")?;
        kill_the_agent(scenario, &mut self.console, events)?;
        self.cut_the_power(scenario, events, power_on)?;
        switch_off(scenario, &mut self.console, events)?;
        Ok(dump)
    }

    /// The agent finds the deadlock once more, but there is no link; then the power goes. What it had to say arrives
    /// after the next start.
    fn cut_the_power(
        &mut self,
        scenario: &mut Scenario,
        events: &Events,
        power_on: &dyn Fn(&'static str) -> Result<Child>,
    ) -> Result<()> {
        println!("==> the link is taken away, and the agent killed");
        self.link.cut();
        let mut found = false;
        self.console.say("kill -9 $(pidof goleakguard)")?;
        let deadline = Instant::now() + PATIENCE;
        while !found {
            let event = events.next(deadline)?.context("the new agent has not found the deadlock")?;
            show(&event);
            let What::Line(line) = &event.what else { bail!("{:?} has ended", event.from) };
            found = event.from == Source::Console && line.contains("DEADLOCK");
        }
        println!("==> the new agent has found the deadlock; now the power is cut");
        let (online, deadlocks) = (scenario.online(), scenario.deadlocks());
        scenario.may_end(Source::Console);
        self.console.kill()?;
        self.link.restore();
        println!("==> powered on again, with the same disk");
        self.console = power_on("console-2")?;
        scenario.until(events, "the agent is back", UP_WITHIN, &mut show, |s| s.online() > online)?;
        scenario.until(events, "what was found before the power was cut", PATIENCE, &mut show, |s| {
            s.deadlocks() > deadlocks
        })
    }
}

/// The agent's memory, all included, is within its budget.
fn memory(scenario: &mut Scenario, console: &mut Child, events: &Events) -> Result<()> {
    console.say(MEMORY)?;
    scenario.until(events, "the agent's memory", PATIENCE, &mut show, |s| s.memory().len() == 3)?;
    println!("==> the agent's memory: {}", scenario.memory().join(", "));
    let rss = scenario.memory().iter().find_map(|figure| figure.strip_prefix("rss "));
    let rss = rss.and_then(|kib| kib.split_whitespace().next()?.parse::<u64>().ok());
    if rss.is_none_or(|kib| kib > MEMORY_BUDGET_KIB) {
        bail!("the agent's memory is over its budget of {MEMORY_BUDGET_KIB} KiB");
    }
    Ok(())
}

fn kill_the_agent(scenario: &mut Scenario, console: &mut Child, events: &Events) -> Result<()> {
    println!("==> killing the agent; its service starts it again");
    let (offline, online, deadlocks) = (scenario.offline(), scenario.online(), scenario.deadlocks());
    console.say("kill -9 $(pidof goleakguard)")?;
    scenario.until(events, "the broker told of the agent's death", PATIENCE, &mut show, |s| {
        s.offline() > offline
    })?;
    scenario.until(events, "the agent is back", PATIENCE, &mut show, |s| s.online() > online)?;
    scenario.until(events, "the deadlock that is older than this agent", PATIENCE, &mut show, |s| {
        s.deadlocks() > deadlocks
    })
}

fn switch_off(scenario: &mut Scenario, console: &mut Child, events: &Events) -> Result<()> {
    println!("==> powering off");
    let offline = scenario.offline();
    scenario.may_end(Source::Console);
    console.say("poweroff")?;
    scenario.until(events, "the agent said goodbye", PATIENCE, &mut show, |s| s.offline() > offline)?;
    let status = console.wait(PATIENCE)?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}

/// An empty ext4, for what has to outlive a power cut.
fn make_disk(dir: &Path) -> Result<PathBuf> {
    let disk = dir.join("spool.img");
    let file = fs::File::create(&disk).with_context(|| format!("creating {}", disk.display()))?;
    file.set_len(DISK_BYTES).with_context(|| format!("creating {}", disk.display()))?;
    cmd::output(Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4", "-F"]).arg(&disk))?;
    Ok(disk)
}

fn write_image(
    image: &Path,
    kernel: &Kernel,
    board_files: &[(String, String)],
    programs: &Programs,
) -> Result<()> {
    let progress = Progress::start("building the guest's file system");
    let base = guest::Base { busybox: &kernel::busybox(), modules: &kernel.modules() };
    let agent = build::vehicle_agent();
    let programs = programs.each_ref().map(PathBuf::as_path);
    let service = guest::Service { agent: &agent, board_files, programs };
    let bytes = guest::service(&base, &service)?;
    fs::write(image, &bytes).with_context(|| format!("writing {}", image.display()))?;
    progress.done_with(&format!("{} KiB", bytes.len() / 1024));
    Ok(())
}

/// The boards of this repository as they are, and one that adds the way to the broker and the operator's key.
fn board_files(port: u16, operator: &Operator) -> Result<Vec<(String, String)>> {
    let boards = paths::repo().join("board-configs");
    let mut files = Vec::new();
    for name in ["base.toml", "bench.toml", "qemu-virt.toml"] {
        let path = boards.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        files.push((name.to_owned(), text));
    }
    let board = format!(
        "inherits = \"qemu-virt.toml\"\n\n[device]\nname = \"{DEVICE}\"\n\n\
         [mqtt]\nhost = \"{}\"\nport = {port}\nbackoff_max_ms = 2000\n\n{}",
        machine::HOST_ADDRESS,
        operator.snippet
    );
    files.push(("board.toml".to_owned(), board));
    Ok(files)
}
