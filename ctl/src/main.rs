//! `glg`: the operator's side. Shows what the fleet sends, as text for people or JSON for programs.

mod decode;
mod expand;
mod json;
mod message;
mod show;
mod text;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "glg", version, about = "Shows what GoLeakGuard's devices send")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show messages from the broker as they come
    Watch(watch::Options),
    /// Make the text of Go's debug=2 of a compact dump (`goleakguard dump --compact`)
    Expand {
        /// The compact dump; standard input without one
        file: Option<std::path::PathBuf>,
    },
    /// Show one message from a file: its payload as it travelled, or as hex digits
    Decode(decode::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Watch(options) => watch::run(&options),
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
