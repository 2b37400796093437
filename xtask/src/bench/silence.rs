//! `cargo xtask bench silence`: real daemons, as Debian ships them, at rest and under load for minutes, watched by the
//! real service with its defaults and observed by one `goleakguard leaks` after the other. Nobody may be proven to be
//! leaked, and no alert may come; who is called stuck is shown with the stack, to be judged.

mod daemons;
mod http;
mod load;
mod proofs;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::broker::Broker;
use crate::child::{Child, Event, Events, Source, What};
use crate::setup::{self, Component};
use crate::{build, cmd, paths};
use daemons::Daemon;
use load::Load;
use proofs::Tally;

/// Set where the network is our own.
const ISOLATED: &str = "GLG_ISOLATED";
/// Gives the loopback of a new network life, and runs what follows.
const IN_A_NETWORK: &str =
    r#"mount -t sysfs none "$1" && echo 0x1 > "$1/class/net/lo/flags" && shift && exec "$@""#;
/// How long starting and stopping may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a sign of life is printed.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Watches all daemons for so many minutes at rest, and for as many under load.
pub(crate) fn run(minutes: u64) -> Result<()> {
    ensure!(
        cmd::is_root(),
        "the bench reads other processes' memory and makes a network of its own: run it as root"
    );
    let dir = paths::target().join("silence");
    if env::var_os(ISOLATED).is_some() {
        return watch(&dir, Duration::from_secs(60 * minutes));
    }
    setup::ensure(&[Component::Bpf, Component::Broker, Component::Daemons])?;
    if env::var_os("GLG_BIN").is_none() {
        build::host()?;
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    fs::create_dir_all(dir.join("sys")).with_context(|| format!("creating {}", dir.display()))?;
    isolate(&dir, minutes)
}

/// Runs this again where daemons can call nobody, and every port is free.
fn isolate(dir: &Path, minutes: u64) -> Result<()> {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "TERM",
        "--",
        "unshare",
        "--net",
        "--mount",
        "sh",
        "-c",
        IN_A_NETWORK,
        "sh",
    ]);
    command.arg(dir.join("sys")).arg(env::current_exe()?);
    command.args(["bench", "silence", "--minutes", &minutes.to_string()]).env(ISOLATED, "1");
    let status = command.status().context("setpriv and unshare are part of util-linux")?;
    if let Some(signal) = status.signal() {
        bail!("ended by signal {signal}");
    }
    ensure!(status.success(), "not silent, see above; logs: {}", dir.display());
    Ok(())
}

/// This machine's agent, or the one that `GLG_BIN` names, and the operator's tool beside it.
fn tools() -> (PathBuf, PathBuf) {
    match env::var_os("GLG_BIN").map(PathBuf::from) {
        Some(agent) => (agent.clone(), agent.with_file_name("glg")),
        None => (build::host_agent(), build::glg()),
    }
}

/// Everything that runs. Fields are dropped in order: the agent ends first, the broker last.
struct Stage {
    agent: Child,
    watcher: Child,
    daemons: Vec<Daemon>,
    _broker: Broker,
}

fn watch(dir: &Path, time: Duration) -> Result<()> {
    let events = Events::new()?;
    let mut stage = Stage::start(dir, &events)?;
    let (mut alerts, mut seen) = (BTreeMap::new(), Vec::new());
    for loaded in [false, true] {
        let words = stage.words();
        let load = loaded.then(Load::start);
        if loaded {
            daemons::scrape(dir)?;
        }
        println!("==> {} for {} s", if loaded { "under load" } else { "at rest" }, time.as_secs());
        let tallies = stage.observe(dir, &events, time, &mut alerts)?;
        let after = stage.words();
        if let Some((answers, failures)) = load.map(Load::end) {
            println!("==> the clients had {answers} answers, {failures} failures");
            ensure!(answers > failures, "the daemons do not answer");
        }
        seen.push(Phase { loaded, tallies, before: words, after });
    }
    let status = stage.agent.terminate(PATIENCE)?;
    ensure!(status.success(), "the agent ended with {status}");
    collect(&events, Instant::now() + Duration::from_secs(1), &mut alerts)?;
    report(&stage.daemons, &seen, &alerts)
}

/// What one phase has brought, daemon by daemon.
struct Phase {
    loaded: bool,
    tallies: Vec<Tally>,
    before: Vec<String>,
    after: Vec<String>,
}

impl Stage {
    fn start(dir: &Path, events: &Events) -> Result<Stage> {
        let (agent, glg) = tools();
        let broker = Broker::start(dir, None)?;
        let mut command = Command::new(glg);
        command.args(["watch", "--json", "--host", "127.0.0.1", "--port"]).arg(broker.port.to_string());
        let watcher = Child::start("glg-json", Source::Json, &command, dir, Some(events))?;
        let daemons = daemons::start_all(dir)?;
        let mut command = Command::new(agent);
        command.arg("run").arg("--config").arg(write_board_file(dir, broker.port)?);
        let agent = Child::start("agent", Source::Agent, &command, dir, Some(events))?;
        let mut stage = Stage { agent, watcher, daemons, _broker: broker };
        stage.until_watched(events)?;
        Ok(stage)
    }

    /// Returns once the service watches all of them.
    fn until_watched(&mut self, events: &Events) -> Result<()> {
        let mut missing: Vec<u32> = self.daemons.iter().map(|daemon| daemon.child.pid()).collect();
        let deadline = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            let Some(event) = events.next(deadline)? else {
                bail!("not all of them are watched\n{}", self.agent.log_tail())
            };
            if let Event { from: Source::Agent, what: What::Line(line), .. } = event {
                missing.retain(|pid| !line.contains(&format!("({pid}): watching, Go ")));
            }
        }
        println!("==> {} daemons are up and watched", self.daemons.len());
        Ok(())
    }

    /// What each says of its own work so far.
    fn words(&self) -> Vec<String> {
        self.daemons
            .iter()
            .map(|daemon| (daemon.word)().unwrap_or_else(|error| format!("{error:#}")))
            .collect()
    }

    /// Takes proofs of all of them, and alerts.
    fn observe(
        &mut self,
        dir: &Path,
        events: &Events,
        time: Duration,
        alerts: &mut BTreeMap<String, Vec<String>>,
    ) -> Result<Vec<Tally>> {
        let (agent, config, over) = (tools().0, board_file(dir), &AtomicBool::new(false));
        let tallies = std::thread::scope(|scope| {
            let pids = self.daemons.iter().map(|daemon| daemon.child.pid());
            let observe = |pid| {
                let (agent, config) = (&agent, &config);
                scope.spawn(move || Tally::take(agent, config, pid, over))
            };
            let observers: Vec<_> = pids.map(observe).collect();
            let begin = Instant::now();
            let mut watched = Ok(());
            while watched.is_ok() && begin.elapsed() < time {
                watched = collect(events, (begin + time).min(Instant::now() + HEARTBEAT), alerts);
                println!("    {} s", begin.elapsed().as_secs());
            }
            over.store(true, Ordering::Relaxed);
            let joined = observers.into_iter().map(|observer| observer.join());
            let tallies =
                joined.map(|tally| tally.unwrap_or_else(|_| bail!("an observer has failed"))).collect();
            watched.and(tallies)
        });
        let children = self.daemons.iter_mut().map(|daemon| &mut daemon.child);
        for child in children.chain([&mut self.agent, &mut self.watcher]) {
            ensure!(child.ended()?.is_none(), "it has ended\n{}", child.log_tail());
        }
        tallies
    }
}

/// Notes the alerts that come until then, by the name of the program.
fn collect(events: &Events, until: Instant, alerts: &mut BTreeMap<String, Vec<String>>) -> Result<()> {
    while let Some(event) = events.next(until)? {
        let Event { from: Source::Json, what: What::Line(line), .. } = event else { continue };
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(name) = message["target"]["name"].as_str() {
            println!("    ALERT: {line}");
            alerts.entry(name.to_owned()).or_default().push(line);
        }
    }
    Ok(())
}

fn board_file(dir: &Path) -> PathBuf {
    dir.join("board.toml")
}

/// The defaults, with this broker, and only the daemons watched.
fn write_board_file(dir: &Path, port: u16) -> Result<PathBuf> {
    let path = board_file(dir);
    let programs = daemons::programs();
    let text = format!(
        "[device]\nname = \"silence\"\n[mqtt]\nhost = \"127.0.0.1\"\nport = {port}\n\
         [spool]\ndir = {:?}\n[service]\nstate = {:?}\n\
         [[watch.match]]\npath = \"{}/*\"\naction = \"watch\"\n[[watch.match]]\naction = \"ignore\"\n",
        dir.join("spool"),
        dir.join("state"),
        programs.display()
    );
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Prints the table and everyone who was told; fails when somebody was proven, or an alert came.
fn report(daemons: &[Daemon], seen: &[Phase], alerts: &BTreeMap<String, Vec<String>>) -> Result<()> {
    println!("\n| daemon | Go | | goroutines | its own word | proofs | proven | stuck | alerts |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let (mut proven, mut told) = (0, String::new());
    for (number, daemon) in daemons.iter().enumerate() {
        for phase in seen {
            let Some(tally) = phase.tallies.get(number) else { continue };
            let words =
                [&phase.before, &phase.after].map(|words| words.get(number).map_or("", String::as_str));
            println!("{}", row(daemon, phase.loaded, tally, words, alerts));
            proven += tally.proven;
            for (story, times) in &tally.stories {
                told += &format!("\n{}, in {times} of {} proofs: {story}", daemon.name, tally.proofs);
            }
        }
    }
    println!("{told}");
    ensure!(proven == 0, "{proven} goroutines are proven to be leaked");
    ensure!(alerts.is_empty(), "alerts: {alerts:#?}");
    Ok(())
}

fn row(
    daemon: &Daemon,
    loaded: bool,
    tally: &Tally,
    [before, after]: [&str; 2],
    alerts: &BTreeMap<String, Vec<String>>,
) -> String {
    let Tally { go, proofs, proven, stuck, abstained, .. } = tally;
    let (least, most) = tally.goroutines.unwrap_or_default();
    let phase = if loaded { "load" } else { "rest" };
    // It calls a program by its file.
    let of = |(name, _): &(&String, &Vec<String>)| name.ends_with(daemon.name);
    let alerts: usize = alerts.iter().filter(of).map(|(_, alerts)| alerts.len()).sum();
    let given_up = if abstained.is_empty() { String::new() } else { format!(" (none in {abstained:?})") };
    format!(
        "| {} | {go} | {phase} | {least} to {most} | {before} → {after} | {proofs}{given_up} | {proven} | {stuck} | \
         {alerts} |",
        daemon.name
    )
}
