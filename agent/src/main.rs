//! `goleakguard`: the agent's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use goleakguard::config::Config;
use goleakguard::{doctor, dump, logger, service};
use lexopt::prelude::*;

const USAGE: &str = "\
GoLeakGuard watches Go programs from outside and reports leaking goroutines over MQTT.

usage:
  goleakguard run --config FILE      the service, until SIGTERM
  goleakguard check-config FILE      checks a board config and prints what it costs in memory
  goleakguard doctor                 what this system allows, and what is missing
  goleakguard dump --pid N           the goroutines of a process with their stacks, as Go prints them
  goleakguard dump --pid N --grouped the same, equal stacks once, with their number
  goleakguard --version
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Run(PathBuf),
    CheckConfig(PathBuf),
    Doctor,
    Dump {
        pid: u32,
        grouped: bool,
    },
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
    let (mut pid, mut grouped) = (None, false);
    while let Some(arg) = args.next()? {
        match arg {
            Long("config") | Short('c') => config = Some(PathBuf::from(args.value()?)),
            Long("pid") | Short('p') => pid = Some(args.value()?.parse::<u32>()?),
            Long("grouped") => grouped = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("version") | Short('V') => return Ok(Command::Version),
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words == ["dump"] && config.is_none() {
        let Some(pid) = pid else { bail!("dump needs a process: goleakguard dump --pid N") };
        return Ok(Command::Dump { pid, grouped });
    }
    if pid.is_some() || grouped {
        bail!("--pid and --grouped belong to dump");
    }
    match (words.as_slice(), config) {
        (["run"], Some(file)) => Ok(Command::Run(file)),
        (["run"], None) => bail!("run needs a board config: goleakguard run --config FILE"),
        (["check-config", file], None) => Ok(Command::CheckConfig(PathBuf::from(file))),
        (["check-config"], Some(file)) => Ok(Command::CheckConfig(file)),
        (["doctor"], None) => Ok(Command::Doctor),
        (["doctor-sleep"], None) => Ok(Command::DoctorSleep),
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
            runtime.block_on(service::run(config))?;
        }
        Command::CheckConfig(file) => {
            let config = Config::load(&file)?;
            let (mqtt, rules) = (&config.mqtt, config.watch.rules.len());
            println!("{} is valid.", file.display());
            println!(
                "device {}, broker {}:{}, {rules} watch rules",
                config.device.name, mqtt.host, mqtt.port
            );
            if let Some(password) = &mqtt.password_file
                && let Err(error) = std::fs::File::open(password)
            {
                println!("note: the password file {password} cannot be opened here: {error}");
            }
            println!("Memory:\n{}", config.memory_sum());
        }
        Command::Doctor => {
            logger::start(log::LevelFilter::Off);
            return Ok(if doctor::examine() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Dump { pid, grouped } => dump::dump(pid, grouped, std::io::stdout().lock())?,
        Command::DoctorSleep => doctor::sleep_until_eof(),
        Command::Help => print!("{USAGE}"),
        Command::Version => println!("goleakguard {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
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
        assert_eq!(parsed("dump --pid 7"), Ok(Command::Dump { pid: 7, grouped: false }));
        assert_eq!(parsed("dump -p 7 --grouped"), Ok(Command::Dump { pid: 7, grouped: true }));
        for wrong in
            ["dump", "dump --pid", "dump --pid x", "dump x --pid 7", "doctor --pid 7", "run --grouped"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        for wrong in
            ["", "run", "run x --config a", "fly", "run --confg a", "check-config", "doctor --config a"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
