//! `glg`: the operator's side. Shows what the fleet sends, as text for people or JSON for programs, and sends commands.

mod age;
mod audit;
mod connect;
mod console;
mod decode;
mod devices;
mod expand;
mod files;
mod json;
mod keys;
mod message;
mod past;
mod pprof;
mod raw;
mod remote;
mod show;
mod since;
mod text;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use glg_proto::command::DocumentKind;

#[derive(Parser)]
#[command(name = "glg", version, about = "Shows what GoLeakGuard's devices send, and asks them for more")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show messages from the broker as they come
    Watch(Box<watch::Options>),
    /// Ask a device whether it is there
    Ping(Box<remote::Ping>),
    /// Fetch the stacks of all goroutines of a process
    Dump(Box<remote::Dump>),
    /// Show what the threads of a process wait for in C, and deadlocks
    Locks(Box<remote::Look>),
    /// Show which goroutines of a process leak
    Leaks(Box<remote::Look>),
    /// Change how closely a device looks, until its agent begins anew
    Set(Box<remote::Set>),
    /// Fetch what a device remembers of commands, or show it
    Audit(Box<audit::Options>),
    /// Make keys that sign commands, and show their public half
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Make the text of Go's debug=2 of a compact dump (`goleakguard dump --compact`)
    Expand {
        /// The compact dump; standard input without one
        file: Option<std::path::PathBuf>,
    },
    /// Show one message, command, answer or part from a file: its payload as it travelled, or as hex digits
    Decode(decode::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Watch(options) => watch::run(&options),
        Command::Ping(options) => remote::ping(&options),
        Command::Dump(options) => remote::dump(&options),
        Command::Locks(options) => remote::look(&options, DocumentKind::Locks),
        Command::Leaks(options) => remote::look(&options, DocumentKind::Leaks),
        Command::Set(options) => remote::set(&options),
        Command::Audit(options) => audit::run(&options),
        Command::Keys(keys) => keys::run(&keys),
        Command::Decode(options) => decode::run(&options),
        Command::Expand { file } => expand::run(file.as_deref()),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough (`glg watch | head`).
        Err(error) if is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("glg: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_output(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
