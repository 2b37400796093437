//! What people and scripts get of an answer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Cursor, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use glg_proto::command::{Action, DocumentKind, Made, Outcome, Pong, SignedReceipt};
use glg_proto::wire::ClockQuality;
use serde_json::{Value, json};

use super::parts::{Parts, PartsError};
use super::session::{Answer, Session, is_signed};
use super::{Format, PRINTED_MAX, Transfer, fetch, save, words};
use crate::console::{now_ms, say, size};
use crate::devices::Devices;
use crate::files;
use crate::json::clock;
use crate::show::counted;
use crate::text::{Escaped, hex, utc};

/// Prints the answer to a command that makes no document.
pub(super) fn simple(action: &Action, answer: &Answer, json: bool) -> Result<ExitCode> {
    let receipt = &answer.receipt;
    let device = Escaped(&receipt.device);
    match &receipt.outcome {
        Outcome::Pong(pong) => {
            if json {
                return print_object(answer, pong_fields(pong, answer));
            }
            let at = receipt.at;
            let doubt = match at.clock {
                ClockQuality::Synced => "",
                ClockQuality::Free => ", which nobody keeps in step",
                ClockQuality::Wrong => ", which is WRONG",
            };
            let (targets, waiting) = (pong.targets, pong.waiting);
            print(&format!(
                "{device} is there: it answered after {} ms\n  agent     {}, {targets} processes watched\n  \
                 waiting   {waiting} messages for the broker\n  clock     {}{doubt}; boot {}\n",
                answer.took.as_millis(),
                Escaped(&pong.agent),
                utc(at.wall_ms),
                hex(&receipt.boot, 8),
            ))
        }
        Outcome::Set if json => print_object(answer, json!({"kind": "set"})),
        Outcome::Set => print(&format!("{device} has set it, until its agent begins anew\n")),
        _ => not_done(action, answer, json),
    }
}

fn pong_fields(pong: &Pong, answer: &Answer) -> Value {
    json!({
        "kind": "pong",
        "agent": pong.agent.as_str(),
        "targets": pong.targets,
        "waiting": pong.waiting,
        "took_ms": u64::try_from(answer.took.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Tells of a refusal or failure.
fn not_done(action: &Action, answer: &Answer, json: bool) -> Result<ExitCode> {
    let receipt = &answer.receipt;
    let (kind, reason, sentence) = match &receipt.outcome {
        Outcome::Refused(refusal) => {
            ("refused", refusal.to_string(), words::refused(*refusal, receipt, action, now_ms()))
        }
        Outcome::Failed(failure) => ("failed", failure.to_string(), words::failed(failure, &receipt.device)),
        _ => bail!("{} answers something else than it was asked", Escaped(&receipt.device)),
    };
    if json {
        print_object(answer, json!({"kind": kind, "reason": reason, "sentence": sentence}))?;
    } else {
        say(&format!("glg: {}: {sentence}", if kind == "refused" { "refused" } else { "not done" }));
    }
    Ok(ExitCode::FAILURE)
}

/// One JSON object: who answered which command and when, and `fields`.
fn print_object(answer: &Answer, fields: Value) -> Result<ExitCode> {
    let receipt = &answer.receipt;
    let mut object = json!({
        "device": receipt.device.as_str(),
        "command": answer.id.to_string(),
        "boot": hex(&receipt.boot, 8),
        "mono_ms": receipt.at.mono_ms,
        "wall_ms": receipt.at.wall_ms,
        "clock": clock(receipt.at.clock),
    });
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    print(&format!("{object}\n"))
}

/// Writes to standard output, at once.
pub(crate) fn print(text: &str) -> Result<ExitCode> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for a document of JSON and prints it.
pub(super) async fn printed(session: &mut Session<'_>, action: &Action, json: bool) -> Result<ExitCode> {
    let answer = session.ask(action, |_| Ok(())).await?;
    let Outcome::Made(made) = answer.receipt.outcome else { return not_done(action, &answer, json) };
    let store = Cursor::new(Vec::new());
    let mut parts = Parts::begin(answer.id, made, &answer.bytes, PRINTED_MAX, store)?;
    fetch::fetch(session, &mut parts, true).await?;
    let bytes = save::to_memory(&mut parts, PRINTED_MAX)?;
    for value in serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>() {
        let value = value.context("the device's answer is no JSON")?;
        let text = if json { value.to_string() } else { serde_json::to_string_pretty(&value)? };
        // JSON leaves some characters as they are that a terminal obeys.
        let lines: String = text.lines().map(|line| format!("{}\n", Escaped(line))).collect();
        print(if json { text + "\n" } else { lines }.as_str())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The parts of a document that becomes a file.
pub(super) struct Log {
    out: PathBuf,
    path: PathBuf,
    file: File,
    resume: bool,
    max: u64,
}

impl Log {
    /// Beside `out`.
    pub(super) fn open(out: &Path, transfer: &Transfer) -> Result<Log> {
        let path = files::beside(out, ".parts");
        let name = || path.display().to_string();
        let file = OpenOptions::new().read(true).write(true).create(!transfer.resume).open(&path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound && transfer.resume => {
                bail!("there is no {}: nothing to go on with", path.display())
            }
            file => file.with_context(name)?,
        };
        // An empty one is from somebody who gave up before the device had made anything.
        if !transfer.resume && file.metadata().with_context(name)?.len() > 0 {
            bail!(
                "{} is there, from a transfer that was interrupted: --resume goes on with it; or remove it",
                path.display()
            );
        }
        let (out, max, resume) = (out.to_owned(), transfer.max_size, transfer.resume);
        Ok(Log { out, path, file, resume, max })
    }

    fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A log without a document in it is of no use.
struct Unused<'l>(Option<&'l Log>);

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.0 {
            log.remove();
        }
    }
}

/// Asks for a document, or goes on with one, and writes it to its file.
pub(super) async fn file(
    session: &mut Session<'_>,
    action: &Action,
    log: Log,
    devices: &Devices,
    json: bool,
    format: Format,
) -> Result<ExitCode> {
    let mut unused = Unused((!log.resume).then_some(&log));
    let store = log.file.try_clone().with_context(|| log.path.display().to_string())?;
    let (mut parts, answer) = if log.resume {
        let device = session.device().to_owned();
        let mut answer = None;
        let parts = Parts::resume(store, log.max, |bytes| {
            let (known, made) = announced(bytes, &device, devices)?;
            let id = known.id;
            answer = Some(known);
            anyhow::Ok((id, made))
        });
        (parts.with_context(|| log.path.display().to_string())?, answer)
    } else {
        let answer = session.ask(action, |_| Ok(())).await?;
        let Outcome::Made(made) = answer.receipt.outcome else { return not_done(action, &answer, json) };
        (Parts::begin(answer.id, made, &answer.bytes, log.max, store)?, Some(answer))
    };
    unused.0 = None;
    tell_made(session.device(), parts.made(), &log);
    let fetched = fetch::fetch(session, &mut parts, !log.resume).await;
    fetched.with_context(|| {
        let (have, path) = (size(parts.have()), log.path.display());
        format!("interrupted ({have} are in {path}, --resume goes on from there)")
    })?;
    let answer = answer.context("a transfer without an announcement")?;
    let at = answer.receipt.at;
    let wall_ms = (at.clock != ClockQuality::Wrong).then_some(at.wall_ms);
    let written = save::to_file(&mut parts, &log.out, format, log.max, wall_ms)?;
    log.remove();
    tell_written(&answer, parts.made(), &log.out, written, json)
}

/// What the receipt in a log says, if it is one of this device.
fn announced(bytes: &[u8], device: &str, devices: &Devices) -> Result<(Answer, Made)> {
    let signed = SignedReceipt::parse(bytes).ok().filter(is_signed).ok_or(PartsError::NoLog)?;
    if signed.receipt.device != device {
        bail!("these are parts from {}", Escaped(&signed.receipt.device));
    }
    devices.check(device, signed.device_key)?;
    let Outcome::Made(made) = signed.receipt.outcome else { return Err(PartsError::NoLog.into()) };
    let (id, bytes) = (signed.receipt.command, bytes.to_vec());
    Ok((Answer { id, receipt: signed.receipt, bytes, took: std::time::Duration::ZERO }, made))
}

fn tell_made(device: &str, made: &Made, log: &Log) {
    let kind = made.kind.as_str();
    let what = match made.kind {
        DocumentKind::Audit => kind.to_owned(),
        _ => format!("{kind} of process {}", made.pid),
    };
    let parts = counted(made.parts(), "part");
    let (bytes, path) = (size(made.bytes.into()), log.path.display());
    say(&format!("{device} has made it: {what}, {bytes} in {parts}, kept in {path} until all are here"));
}

fn tell_written(answer: &Answer, made: &Made, out: &Path, written: u64, json: bool) -> Result<ExitCode> {
    if json {
        return print_object(
            answer,
            json!({
                "kind": "document",
                "document": made.kind.as_str(),
                "pid": made.pid,
                "travelled_bytes": made.bytes,
                "bytes": written,
                "sha256": hex(&made.sha256, 32),
                "out": out.display().to_string(),
            }),
        );
    }
    say(&format!("{}: {}, verified", out.display(), size(written)));
    Ok(ExitCode::SUCCESS)
}
