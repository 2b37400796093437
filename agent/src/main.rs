//! `goleakguard`: the agent's command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use goleakguard::config::Config;
use goleakguard::dump::Form;
use goleakguard::{doctor, document, dump, leaks, locks, logger, prove, ps, service};
use lexopt::prelude::*;

const USAGE: &str = "\
GoLeakGuard watches Go programs from outside and reports leaking goroutines over MQTT.

usage:
  goleakguard run --config FILE      the service, until SIGTERM
  goleakguard check-config FILE      checks a board config and prints what it costs in memory
  goleakguard doctor                 what this system allows, and what is missing
  goleakguard ps                     Go processes: version, goroutines, what the service does with them
  goleakguard ps --json              the same for scripts
  goleakguard dump --pid N           the goroutines of a process with their stacks, as Go prints them
  goleakguard dump --pid N --grouped the same, equal stacks once, with their number
  goleakguard dump --pid N --compact the same, equal stacks once, all goroutines: read it with `glg expand`
  goleakguard locks --pid N          threads that wait for locks in C, who has these, and deadlocks
  goleakguard locks --pid N --observe 10s
                                     before that, how long its threads wait for which locks in that time
  goleakguard locks --pid N --json   either of them for scripts
  goleakguard leaks --pid N          goroutines that can never go on, proven over 10 s, and those that are stuck
  goleakguard leaks --pid N --observe 60s --json
                                     the same over another time, for scripts
  goleakguard --version

ps, dump, locks and leaks take their settings from a board config, too: --config FILE
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Run(PathBuf),
    CheckConfig(PathBuf),
    Doctor,
    Ps {
        json: bool,
        config: Option<PathBuf>,
    },
    Dump {
        pid: u32,
        form: Form,
        config: Option<PathBuf>,
    },
    Locks {
        pid: u32,
        json: bool,
        observe: Option<Duration>,
        config: Option<PathBuf>,
    },
    Leaks {
        pid: u32,
        json: bool,
        observe: Option<Duration>,
        config: Option<PathBuf>,
    },
    /// The service's own child, for a command.
    Document(document::Order),
    /// The service's own child, for a proof.
    Prove(prove::Order),
    /// The doctor's own child, to be looked at.
    DoctorSleep,
    Help,
    Version,
}

fn main() -> ExitCode {
    let command = match parse(lexopt::Parser::from_env()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("goleakguard: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match execute(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("goleakguard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: lexopt::Parser) -> anyhow::Result<Command> {
    let mut words: Vec<String> = Vec::new();
    let mut config = None;
    let (mut pid, mut form, mut json, mut observe) = (None, Form::Plain, false, None);
    while let Some(arg) = args.next()? {
        match arg {
            Long("config") | Short('c') => config = Some(PathBuf::from(args.value()?)),
            Long("pid") | Short('p') => pid = Some(args.value()?.parse::<u32>()?),
            Long("grouped") => form = Form::Grouped,
            Long("compact") => form = Form::Compact,
            Long("observe") => {
                let text = args.value()?.string()?;
                let time = locks::time(&text);
                observe =
                    Some(time.with_context(|| format!("{text:?} is no time from 100ms to 60m, like 10s"))?);
            }
            Long("json") => json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("version") | Short('V') => return Ok(Command::Version),
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if json && !matches!(words[..], ["ps" | "locks" | "leaks"]) {
        bail!("--json belongs to ps, locks and leaks");
    }
    if form != Form::Plain && words != ["dump"] {
        bail!("--grouped and --compact belong to dump");
    }
    if observe.is_some() && !matches!(words[..], ["locks" | "leaks"]) {
        bail!("--observe belongs to locks and leaks");
    }
    if let ([what @ ("dump" | "locks" | "leaks")], None) = (words.as_slice(), pid) {
        bail!("{what} needs a process: goleakguard {what} --pid N");
    }
    match (words.as_slice(), pid) {
        (["dump"], Some(pid)) => return Ok(Command::Dump { pid, form, config }),
        (["locks"], Some(pid)) => return Ok(Command::Locks { pid, json, observe, config }),
        (["leaks"], Some(pid)) => return Ok(Command::Leaks { pid, json, observe, config }),
        (_, Some(_)) => bail!("--pid belongs to dump, locks and leaks"),
        (_, None) => {}
    }
    match (words.as_slice(), config) {
        (["run"], Some(file)) => Ok(Command::Run(file)),
        (["run"], None) => bail!("run needs a board config: goleakguard run --config FILE"),
        (["check-config", file], None) => Ok(Command::CheckConfig(PathBuf::from(file))),
        (["check-config"], Some(file)) => Ok(Command::CheckConfig(file)),
        (["ps"], config) => Ok(Command::Ps { json, config }),
        (["doctor"], None) => Ok(Command::Doctor),
        (["doctor-sleep"], None) => Ok(Command::DoctorSleep),
        (["prove", words @ ..], None) => prove::order(words).map(Command::Prove).context("prove"),
        (["document", words @ ..], None) => document::order(words).map(Command::Document).context("document"),
        ([], None) => bail!("what shall it do?"),
        (words, _) => bail!("not understood: {}", words.join(" ")),
    }
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(file) => {
            let config = Config::load(&file)?;
            logger::start(config.log.level);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("the event loop cannot be set up")?;
            runtime.block_on(service::run(config, &file))?;
        }
        Command::CheckConfig(file) => check_config(&file)?,
        Command::Doctor => {
            logger::start(log::LevelFilter::Off);
            return Ok(if doctor::examine() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Ps { json, config } => {
            ps::ps(&board(config)?.service.state, json, std::io::stdout().lock())?;
        }
        Command::Dump { pid, form, config } => {
            dump::dump(pid, form, &board(config)?.dump, std::io::stdout().lock())?;
        }
        Command::Locks { pid, json, observe, config } => {
            let board = board(config)?;
            let budget_percent = board.attribute.budget_percent;
            let wanted = observe.map(|time| locks::Wanted { time, budget_percent });
            locks::locks(pid, json, board.locks.limits(), wanted, std::io::stdout().lock())?;
        }
        Command::Leaks { pid, json, observe, config } => {
            let board = board(config)?;
            let limits = leaks::Limits { prove: &board.prove, dump: &board.dump };
            leaks::leaks(pid, json, observe, limits, std::io::stdout().lock())?;
        }
        Command::DoctorSleep => doctor::sleep_until_eof(),
        Command::Prove(order) => {
            prove::go_first();
            prove::prove(&order, &Config::load(&order.board)?, std::io::stdout().lock())?;
        }
        Command::Document(order) => {
            prove::go_first();
            let config = Config::load(&order.board)?;
            return Ok(if document::make(&order, &config)? {
                ExitCode::SUCCESS
            } else {
                document::TOO_LARGE.into()
            });
        }
        Command::Help => print!("{USAGE}"),
        Command::Version => println!("goleakguard {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what a board's configuration means, and what of it does not fit this machine.
fn check_config(file: &Path) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let (mqtt, rules) = (&config.mqtt, config.watch.rules.len());
    println!("{} is valid.", file.display());
    let tls = if mqtt.tls.is_some() { " with TLS" } else { "" };
    println!("device {}, broker {}:{}{tls}, {rules} watch rules", config.device.name, mqtt.host, mqtt.port);
    let keys: Vec<&str> = config.commands.keys.iter().map(|key| key.name.as_str()).collect();
    match (&keys[..], config.spool.dir.as_str()) {
        ([], _) => println!("commands are off: no [[command.key]]"),
        (_, "") => println!("commands are off: spool.dir is empty"),
        (keys, dir) => println!("commands of {}; alerts wait in {dir}", keys.join(", ")),
    }
    if let Some(password) = &mqtt.password_file
        && let Err(error) = std::fs::File::open(password)
    {
        println!("note: the password file {password} cannot be opened here: {error}");
    }
    if let Some(tls) = &mqtt.tls
        && let Err(error) = glg_tls::Tls::new(tls.clone()).and_then(|tls| tls.check())
    {
        println!("note: {error}");
    }
    println!("Memory:\n{}", config.memory_sum());
    Ok(())
}

/// The settings of a board, or the built-in ones.
fn board(file: Option<PathBuf>) -> anyhow::Result<Config> {
    Ok(file.map_or_else(Config::builtin, |file| Config::load(&file))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &str) -> Result<Command, String> {
        parse(lexopt::Parser::from_args(args.split_whitespace())).map_err(|e| e.to_string())
    }

    #[test]
    fn commands() {
        assert_eq!(parsed("run --config a.toml"), Ok(Command::Run("a.toml".into())));
        assert_eq!(parsed("run -c a.toml"), Ok(Command::Run("a.toml".into())));
        assert_eq!(parsed("check-config a.toml"), Ok(Command::CheckConfig("a.toml".into())));
        assert_eq!(parsed("doctor"), Ok(Command::Doctor));
        let dump = |form, config| Ok(Command::Dump { pid: 7, form, config });
        assert_eq!(parsed("dump --pid 7"), dump(Form::Plain, None));
        assert_eq!(parsed("dump -p 7 --grouped -c a.toml"), dump(Form::Grouped, Some("a.toml".into())));
        assert_eq!(parsed("dump -p 7 --compact"), dump(Form::Compact, None));
        let locks = |json, observe| Ok(Command::Locks { pid: 7, json, observe, config: None });
        assert_eq!(parsed("locks --pid 7"), locks(false, None));
        assert_eq!(parsed("locks -p 7 --json"), locks(true, None));
        assert_eq!(parsed("locks --pid 7 --observe 2s"), locks(false, Some(Duration::from_secs(2))));
        let leaks = |json, observe| Ok(Command::Leaks { pid: 7, json, observe, config: None });
        assert_eq!(parsed("leaks --pid 7"), leaks(false, None));
        assert_eq!(parsed("leaks --pid 7 --json --observe 15s"), leaks(true, Some(Duration::from_secs(15))));
        assert_eq!(parsed("ps"), Ok(Command::Ps { json: false, config: None }));
        assert_eq!(parsed("ps --json -c a"), Ok(Command::Ps { json: true, config: Some("a".into()) }));
        for wrong in [
            "dump",
            "dump --pid",
            "locks",
            "locks --pid 7 --grouped",
            "leaks",
            "leaks --pid 7 --grouped",
            "dump --pid 7 --json",
            "dump --pid 7 --observe 2s",
            "locks --pid 7 --observe",
            "locks --pid 7 --observe 2x",
            "locks --observe 2s",
            "ps --pid 7",
            "dump --pid x",
            "dump x --pid 7",
            "doctor --pid 7",
            "run --grouped",
            "dump --pid 7 --json",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "",
            "run",
            "run x --config a",
            "fly",
            "run --confg a",
            "check-config",
            "doctor --config a",
            "ps --pid 7",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
