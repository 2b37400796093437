//! `cargo xtask demo`: the whole way on this machine, from Go programs that leak and lock themselves up to their decoded
//! alerts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::broker::Broker;
use crate::child::{Child, Event, Events, Source, What};
use crate::go::{self, Arch, Variant};
use crate::proxy::Proxy;
use crate::remote::Operator;
use crate::scenario::{PROGRAMS, Scenario};
use crate::setup::{self, Component};
use crate::{build, cmd, paths};

const DEVICE: &str = "demo";
/// The release that the watched programs are built with.
pub(crate) const GO: &str = "1.24";
/// How long starting and stopping may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo and watches for at least `seconds` after the begin of the leak.
pub(crate) fn run(seconds: u64) -> Result<()> {
    if !cmd::is_root() {
        bail!(
            "the demo loads eBPF programs and reads other processes' memory: run it as root \
             (sudo -E env \"PATH=$PATH\" cargo xtask demo)"
        );
    }
    setup::ensure(&[Component::Bpf, Component::Broker])?;
    build::host()?;
    let dir = paths::target().join("demo");
    let programs = lay_out(&build_programs(Arch::host(), Variant::Cgo)?, &dir.join("programs"))?;

    let events = Events::new()?;
    let mut stage = Stage::start(&dir, &programs, &events)?;
    let mut scenario = Scenario::new(DEVICE, &go::programs_dir())?;
    let played = stage.play(&mut scenario, &events, Duration::from_secs(seconds));
    let result = played.and_then(|done| Ok((scenario.verdict()?, done)));
    match result {
        Ok((seen, done)) => {
            println!("\n==> as expected:\n{seen}\n{}\nthe agent took {}", done.dump, done.cost);
            println!("logs: {}", dir.display());
            Ok(())
        }
        Err(error) => {
            // Who pressed Ctrl-C has seen enough.
            if events.check_interrupt().is_ok() {
                stage.show_logs();
            }
            Err(error)
        }
    }
}

/// The built [`PROGRAMS`].
pub(crate) type Programs = [PathBuf; PROGRAMS.len()];

/// Builds the programs for an architecture, those with C in them as `with_c`, and says where they are.
pub(crate) fn build_programs(arch: Arch, with_c: Variant) -> Result<Programs> {
    let version = go::version(GO)?;
    let builds = PROGRAMS.map(|program| go::Build {
        version: version.clone(),
        program: program.to_owned(),
        arch,
        variant: if go::WITH_C.contains(&program) { with_c } else { Variant::Plain },
    });
    go::build_programs(&builds)?;
    Ok(builds.map(|build| build.path()))
}

/// Copies them into a folder of their own, under their plain names, by which the alerts call them.
fn lay_out(programs: &Programs, into: &Path) -> Result<Programs> {
    fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    let copies = PROGRAMS.map(|name| into.join(name));
    for (program, copy) in programs.iter().zip(&copies) {
        // A program that runs cannot be written to, and is not that of this demo any more.
        let _ = fs::remove_file(copy);
        fs::copy(program, copy).with_context(|| format!("copying {}", program.display()))?;
    }
    Ok(copies)
}

/// Starts `glg watch` on the broker, once for people and once for the verdict.
pub(crate) fn start_watchers(port: u16, dir: &Path, events: &Events) -> Result<[Child; 2]> {
    let watch = |name, source, args: &[&str]| {
        let mut command = Command::new(build::glg());
        command.args(["watch", "--host", "127.0.0.1", "--port"]).arg(port.to_string()).args(args);
        Child::start(name, source, &command, dir, Some(events))
    };
    Ok([watch("glg", Source::Text, &[])?, watch("glg-json", Source::Json, &["--json"])?])
}

/// Prints what `glg watch` decodes.
pub(crate) fn show(event: &Event) {
    if let Event { from: Source::Text, what: What::Line(line), .. } = event
        && line != "SUBSCRIBED"
    {
        println!("  glg | {line}");
    }
}

/// Everything that runs. Fields are dropped in order: the agent ends first, the broker last.
struct Stage {
    agent: Child,
    agent_started: Instant,
    leaky: Child,
    healthy: Child,
    stuck: Child,
    watchers: [Child; 2],
    link: Proxy,
    operator: Operator,
    broker: Broker,
}

/// What was done beside the scenario.
struct Done {
    dump: String,
    cost: String,
}

impl Stage {
    fn start(dir: &Path, [leaky, healthy, stuck]: &Programs, events: &Events) -> Result<Self> {
        let broker = Broker::start(dir, Some(events))?;
        println!("==> mosquitto listens on 127.0.0.1:{}", broker.port);
        let watchers = start_watchers(broker.port, dir, events)?;
        let start = |name, source, program| {
            Child::start(name, source, Command::new(program).arg("-stdin"), dir, Some(events))
        };
        let leaky = start("leaky", Source::Leaky, leaky)?;
        let healthy = start("healthy", Source::Healthy, healthy)?;
        let stuck = start("stuck", Source::Stuck, stuck)?;
        let [leaks, heals, sticks] = [&leaky, &healthy, &stuck].map(Child::pid);
        println!("==> started leaky (pid {leaks}), healthy (pid {heals}) and stuck (pid {sticks})");
        let (link, operator) = (Proxy::start(broker.port)?, Operator::new(dir)?);
        let config = write_board_file(dir, link.port, &operator)?;
        let mut command = Command::new(build::host_agent());
        command.arg("run").arg("--config").arg(&config);
        let agent = Child::start("agent", Source::Agent, &command, dir, Some(events))?;
        println!("==> started the agent (pid {})", agent.pid());
        Ok(Self {
            agent,
            agent_started: Instant::now(),
            leaky,
            healthy,
            stuck,
            watchers,
            link,
            operator,
            broker,
        })
    }

    /// Plays the scenario to its end, the agent's goodbye included. While the programs misbehave there is no link, until
    /// the agent has found the leak.
    fn play(&mut self, scenario: &mut Scenario, events: &Events, time: Duration) -> Result<Done> {
        scenario.start(events, PATIENCE, &mut show)?;
        let Self { leaky, stuck, link, .. } = self;
        let mut found = false;
        let mut watch = |event: &Event| {
            show(event);
            if !found && is_leak_found(event) {
                found = true;
                println!("==> the agent has found the leak while there is no link; the link comes back");
                link.restore();
            }
        };
        scenario.misbehave(events, time, &mut watch, || {
            println!("==> the link is taken away");
            link.cut();
            leaky.say("leak")?;
            stuck.say("deadlock")
        })?;
        if !found {
            bail!("the agent has found the leak only with a link");
        }
        let dump = self.operator.dump(self.broker.port, DEVICE, "leaky")?;
        let cost = self.agent_cost()?;
        scenario.may_end(Source::Agent);
        let status = self.agent.terminate(PATIENCE)?;
        if !status.success() {
            bail!("the agent ended with {status} after SIGTERM");
        }
        scenario.until(events, "the agent said goodbye", PATIENCE, &mut show, |s| s.offline() > 0)?;
        Ok(Done { dump, cost })
    }

    fn agent_cost(&self) -> Result<String> {
        let pid = self.agent.pid();
        let cpu = cpu_seconds(pid)?;
        let percent = 100.0 * cpu / self.agent_started.elapsed().as_secs_f64();
        let [rss, peak] = ["VmRSS:", "VmHWM:"].map(|key| status_kib(pid, key));
        Ok(format!("{percent:.2} % of a core ({cpu:.2} s), RSS {} KiB, at most {} KiB", rss?, peak?))
    }

    fn show_logs(&self) {
        let [text, json] = &self.watchers;
        for child in [&self.broker.child, text, json, &self.leaky, &self.healthy, &self.stuck, &self.agent] {
            eprint!("{}", child.log_tail());
        }
    }
}

/// Whether the agent says in its log that it has found the leak.
fn is_leak_found(event: &Event) -> bool {
    matches!(event, Event { from: Source::Agent, what: What::Line(line), .. } if line.contains("LEAK "))
}

/// The demo's board: the bench's, with this way to the broker and this operator, and only its own programs watched.
fn write_board_file(dir: &Path, port: u16, operator: &Operator) -> Result<PathBuf> {
    let (spool, run) = (dir.join("spool"), dir.join("run"));
    // What an earlier demo could not send is not this one's.
    let _ = fs::remove_dir_all(&spool);
    let path = dir.join("board.toml");
    let bench = paths::repo().join("board-configs/bench.toml");
    let text = format!(
        "inherits = {bench:?}\n\n\
         [device]\nname = \"{DEVICE}\"\n\n\
         [mqtt]\nhost = \"127.0.0.1\"\nport = {port}\nbackoff_max_ms = 2000\n\n\
         [spool]\ndir = {spool:?}\n\n\
         [service]\nstate = \"{run}/state\"\n\n\
         [command]\ndocument = \"{run}/document\"\n\n{}\n\
         [[watch.match]]\npath = \"{}/programs/*\"\naction = \"watch\"\n\n\
         [[watch.match]]\naction = \"ignore\"\n",
        operator.snippet,
        dir.display(),
        run = run.display(),
    );
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// User and system time of a process, proc(5).
fn cpu_seconds(pid: u32) -> Result<f64> {
    /// USER_HZ is 100 on every architecture Linux still has in use here.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent is gone")?;
    // The name in parentheses may hold anything; the fields are counted from behind it: utime is the 14th.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat without a name")?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn status_kib(pid: u32, key: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    let number = line.and_then(|l| l.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).with_context(|| format!("/proc/{pid}/status without {key}"))
}
