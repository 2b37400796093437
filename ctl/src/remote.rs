//! Commands to a device: what they are, and what is made of the answers.

mod fetch;
mod link;
mod output;
mod parts;
mod save;
mod session;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use glg_proto::command::{Action, DocumentKind, Request, Setting, Which, Window};
use glg_proto::topics::is_device_name;
use glg_proto::wire::head;

use crate::connect;
use crate::devices::Devices;
use crate::keys::Key;
use crate::since::parse_span;
use session::{Session, Terms};

pub(crate) use output::print;
pub(crate) use save::Format;
pub(crate) use session::is_signed;

/// Bytes of a document, as it is written, unless told otherwise.
const MAX_SIZE: u64 = 1 << 30;
/// Of documents that are printed: JSON of one process.
const PRINTED_MAX: u64 = 16 << 20;

/// What every command needs.
#[derive(clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    broker: connect::Options,
    /// Your key, from `glg keys new`
    #[arg(long = "key", value_name = "FILE", env = "GLG_KEY")]
    signer: Option<PathBuf>,
    /// Keys of the devices, remembered when first seen; ~/.config/glg/devices by default
    #[arg(long, value_name = "FILE")]
    devices: Option<PathBuf>,
    /// How long to wait for the device, at the beginning and whenever nothing comes
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = parse_span)]
    timeout: Duration,
    /// How long the command may wait for the device, at the broker
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = parse_span)]
    valid: Duration,
    /// Publish the command again when there is no answer for so long; the device does not do it twice
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = parse_span, hide_short_help = true)]
    again: Duration,
    /// Ask for the missing parts of a document when none has come for so long
    #[arg(long, value_name = "SPAN", default_value = "15s", value_parser = parse_span, hide_short_help = true)]
    silence: Duration,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `glg ping`.
#[derive(clap::Args)]
pub(crate) struct Ping {
    /// Which device
    #[arg(value_parser = parse_device)]
    device: String,
    #[command(flatten)]
    common: Common,
}

/// `glg locks`, `glg leaks`.
#[derive(clap::Args)]
pub(crate) struct Look {
    /// Which device
    #[arg(value_parser = parse_device)]
    device: String,
    /// Name of the executable, or number of the process
    #[arg(value_parser = parse_process)]
    process: Which,
    #[command(flatten)]
    common: Common,
}

/// `glg dump`.
#[derive(clap::Args)]
pub(crate) struct Dump {
    /// Which device
    #[arg(value_parser = parse_device)]
    device: String,
    /// Name of the executable, or number of the process
    #[arg(value_parser = parse_process)]
    process: Which,
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// With the arguments of every goroutine: many times the bytes on the link
    #[arg(long)]
    full: bool,
    /// Of so many goroutines at most; the board's own limit by default
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u32,
    #[command(flatten)]
    transfer: Transfer,
    #[command(flatten)]
    common: Common,
}

/// About documents that become files.
#[derive(clap::Args)]
pub(crate) struct Transfer {
    /// Go on with a transfer that was interrupted: its parts are in FILE.parts
    #[arg(long)]
    resume: bool,
    /// Bytes of the written file at most
    #[arg(long, value_name = "BYTES", default_value_t = MAX_SIZE)]
    max_size: u64,
}

/// `glg set`.
#[derive(clap::Args)]
#[command(after_help = SETTINGS)]
pub(crate) struct Set {
    /// Which device
    #[arg(value_parser = parse_device)]
    device: String,
    /// What: see below
    #[arg(required = true, num_args = 1..=4, value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// What can be set, for the help and for who says something else.
pub(crate) const SETTINGS: &str = "\
What can be set, within the bounds of the board's configuration:
  investigate PROCESS                    look at a process as if it had grown
  growth fast|medium|slow RISE PERCENT   what counts as growth: so many goroutines, and so many per cent
  remind SECONDS                         after which an alert is said again
  deadlock SECONDS                       of waiting for a lock after which it is asked whether that can ever end
  lock-wait SECONDS                      of waiting for a lock after which it is told
  board                                  everything as the board's configuration has it";

fn parse_setting(words: &[String]) -> Option<Setting> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(match words[..] {
        ["investigate", process] => Setting::Investigate(parse_process(process).ok()?),
        ["growth", window, rise, percent] => {
            let window = match window {
                "fast" => Window::Fast,
                "medium" => Window::Medium,
                "slow" => Window::Slow,
                _ => return None,
            };
            Setting::Growth(window, rise.parse().ok()?, percent.parse().ok()?)
        }
        ["remind", seconds] => Setting::RemindS(seconds.parse().ok()?),
        ["deadlock", seconds] => Setting::DeadlockS(seconds.parse().ok()?),
        ["lock-wait", seconds] => Setting::LockWaitS(seconds.parse().ok()?),
        ["board"] => Setting::Board,
        _ => return None,
    })
}

/// A device's name.
pub(crate) fn parse_device(name: &str) -> Result<String, String> {
    let valid = is_device_name(name);
    valid.then(|| name.to_owned()).ok_or_else(|| "no device can have this name".to_owned())
}

/// A number is one; everything else is a name, of which as much counts as in alerts.
fn parse_process(text: &str) -> Result<Which, String> {
    match text.parse() {
        Ok(pid) => Ok(Which::Pid(pid)),
        Err(_) if text.is_empty() || text.contains('/') => {
            Err("wanted: the name of the executable without its folder, or the number".to_owned())
        }
        Err(_) => Ok(Which::Name(head(text))),
    }
}

/// `glg ping`.
pub(crate) fn ping(options: &Ping) -> Result<ExitCode> {
    converse(&options.common, &options.device, async |mut session| {
        let answer = session.ask(&Action::Ping, |_| Ok(())).await?;
        let code = output::simple(&Action::Ping, &answer, options.common.json)?;
        session.close().await;
        Ok(code)
    })
}

/// `glg set`.
pub(crate) fn set(options: &Set) -> Result<ExitCode> {
    let setting = parse_setting(&options.what);
    let action = Action::Set(setting.with_context(|| format!("`{}`?\n{SETTINGS}", options.what.join(" ")))?);
    converse(&options.common, &options.device, async |mut session| {
        let answer = session.ask(&action, |_| Ok(())).await?;
        let code = output::simple(&action, &answer, options.common.json)?;
        session.close().await;
        Ok(code)
    })
}

/// `glg locks`, `glg leaks`.
pub(crate) fn look(options: &Look, kind: DocumentKind) -> Result<ExitCode> {
    let action = Action::Make(Request { kind, process: options.process.clone(), limit: 0 });
    converse(&options.common, &options.device, async |mut session| {
        let code = output::printed(&mut session, &action, options.common.json).await?;
        session.close().await;
        Ok(code)
    })
}

/// `glg dump`.
pub(crate) fn dump(options: &Dump) -> Result<ExitCode> {
    let kind = if options.full { DocumentKind::Full } else { DocumentKind::Grouped };
    let action = Action::Make(Request { kind, process: options.process.clone(), limit: options.limit });
    file(&options.common, &options.device, &action, &options.out, options.format, &options.transfer)
}

/// `glg audit DEVICE --out FILE`.
pub(crate) fn audit(common: &Common, device: &str, out: &Path, transfer: &Transfer) -> Result<ExitCode> {
    let request = Request { kind: DocumentKind::Audit, process: Which::Pid(0), limit: 0 };
    file(common, device, &Action::Make(request), out, Format::Text, transfer)
}

fn file(
    common: &Common,
    device: &str,
    action: &Action,
    out: &Path,
    format: Format,
    transfer: &Transfer,
) -> Result<ExitCode> {
    // Before a device works for it.
    let log = output::Log::open(out, transfer)?;
    let devices = known_devices(common)?;
    converse(common, device, async |mut session| {
        let code = output::file(&mut session, action, log, &devices, common.json, format).await?;
        session.close().await;
        Ok(code)
    })
}

fn known_devices(common: &Common) -> Result<Devices> {
    Devices::at(common.devices.as_deref()).context("there is no HOME: say --devices FILE")
}

/// Opens the conversation and lets `talk` lead it.
fn converse(
    common: &Common,
    device: &str,
    talk: impl AsyncFnOnce(Session<'_>) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let signer = common.signer.as_deref();
    let key = Key::read(signer.context("a command has to be signed: say --key FILE, or set GLG_KEY")?)?;
    let devices = known_devices(common)?;
    let connect = common.broker.prepare("command")?;
    let terms = Terms {
        device: device.to_owned(),
        valid: common.valid,
        patience: common.timeout,
        again: common.again,
        silence: common.silence,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(async { talk(Session::open(connect, terms, &key, &devices).await?).await })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_by_number_and_by_name() {
        assert_eq!(parse_process("1412"), Ok(Which::Pid(1412)));
        assert_eq!(parse_process("ota-gateway"), Ok(Which::Name(head("ota-gateway"))));
        let long = "a-name-of-more-than-24-bytes";
        assert_eq!(parse_process(long), Ok(Which::Name(head(long))));
        assert!(parse_process("/opt/ota").is_err() && parse_process("").is_err());
    }
}
