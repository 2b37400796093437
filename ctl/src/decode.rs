//! `glg decode`: shows one message from a file.

use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};

use crate::raw::{self, Kind};
use crate::text::unhex;

/// More than any message, as hex with line breaks.
const INPUT_MAX: u64 = 64 * 1024;

/// Arguments of `glg decode`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The file; `-` reads standard input
    file: PathBuf,
    /// What it is; found out by trying if not said
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Decodes and prints.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut input = Vec::new();
    if options.file.as_os_str() == "-" {
        stdin().take(INPUT_MAX + 1).read_to_end(&mut input).context("reading standard input")?;
    } else {
        let name = || options.file.display().to_string();
        let file = File::open(&options.file).with_context(name)?;
        file.take(INPUT_MAX + 1).read_to_end(&mut input).with_context(name)?;
    }
    ensure!(input.len() as u64 <= INPUT_MAX, "more than {INPUT_MAX} bytes: this is no message");
    let payload = unhex(&input).unwrap_or(input);
    let decoded = raw::decode(&payload, options.kind).map_err(|reason| anyhow!(reason))?;
    let out = if options.json { format!("{}\n", raw::object(&decoded)) } else { raw::text(&decoded)? };
    stdout().write_all(out.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
