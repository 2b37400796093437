//! `glg decode`: shows one message from a file.

use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};

use crate::message::Message;
use crate::{json, show};

/// More than any message, as hex with line breaks.
const INPUT_MAX: u64 = 64 * 1024;

/// Arguments of `glg decode`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The file; `-` reads standard input
    file: PathBuf,
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
    let payload = from_hex(&input).unwrap_or(input);
    let message = Message::of_payload(&payload).map_err(|reason| anyhow!(reason))?;
    let out = if options.json { format!("{}\n", json::object(&message)) } else { show::text(&message)? };
    stdout().write_all(out.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The bytes that hex digits stand for; `None` when the input is anything else. No message reads as hex:
/// its first byte, the version, is not printable.
fn from_hex(input: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> =
        input.iter().filter(|c| !c.is_ascii_whitespace()).map(|&c| char::from(c).to_digit(16)).collect();
    let digits = digits.filter(|digits| !digits.is_empty())?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| u8::try_from(high << 4 | low).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_or_not() {
        assert_eq!(from_hex(b"01 aB\n"), Some(vec![1, 0xab]));
        for no in [b"".as_slice(), b"0", b"0x01", b"\x01\x05van-7"] {
            assert_eq!(from_hex(no), None);
        }
    }
}
