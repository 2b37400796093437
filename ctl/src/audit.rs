//! `glg audit`: fetches what a device remembers of commands, and shows it, with every link checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use glg_proto::audit::{Ending, Event, Head, Link, Linked, Record};
use glg_proto::wire::ClockQuality;
use ring::digest::{Context as Digest, SHA256};
use serde_json::{Value, json};

use crate::age::{Identity, decrypt};
use crate::json::clock;
use crate::remote::{self, Common, Transfer};
use crate::text::{hex, utc};

/// No device has more.
const FILE_MAX: u64 = 16 << 20;

/// Arguments of `glg audit`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The device, with --out; or a file from there, with --identity
    #[arg(value_name = "DEVICE|FILE")]
    target: String,
    /// Fetch it from the device, and write it here, encrypted as it is
    #[arg(long, value_name = "FILE", conflicts_with = "identity", required_unless_present = "identity")]
    out: Option<PathBuf>,
    /// Show a file, with this identity of `age-keygen`: the secret half of the board's command.audit_recipient
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    transfer: Transfer,
    #[command(flatten)]
    common: Common,
}

/// A line of the report.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// A record whose link is good.
    Good(Record),
    /// A record, and that it does not follow from the one before.
    Broken(Record),
    /// Something that is no record, in words.
    Damaged(String),
}

/// What all the links together say.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    lines: Vec<Line>,
    /// The last one: whoever has it can tell later that nothing before it was changed.
    link: Link,
}

impl Chain {
    fn is_whole(&self) -> bool {
        self.lines.iter().all(|line| matches!(line, Line::Good(_)))
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match (&options.out, &options.identity) {
        (Some(out), _) => {
            let device = remote::parse_device(&options.target).map_err(anyhow::Error::msg)?;
            remote::audit(&options.common, &device, out, &options.transfer)
        }
        (None, Some(identity)) => show(Path::new(&options.target), identity, options.common.json),
        (None, None) => bail!("say --out FILE to fetch, or --identity FILE to show"),
    }
}

fn show(file: &Path, identity: &Path, as_json: bool) -> Result<ExitCode> {
    let (name, identity_name) = (|| file.display().to_string(), || identity.display().to_string());
    ensure!(fs::metadata(file).with_context(name)?.len() <= FILE_MAX, "{}: too long to be that", name());
    let sealed = fs::read(file).with_context(name)?;
    let identities = fs::read_to_string(identity).with_context(identity_name)?;
    let identities = Identity::parse_all(&identities);
    let identities =
        identities.with_context(|| format!("{}: not what age-keygen writes", identity_name()))?;
    let chain = chain(&decrypt(&sealed, &identities).with_context(name)?);
    let mut out = String::new();
    for line in &chain.lines {
        out.push_str(&if as_json { format!("{}\n", object(line)) } else { text(line) });
    }
    remote::print(&out)?;
    let good = chain.lines.iter().filter(|line| matches!(line, Line::Good(_))).count();
    if !as_json {
        remote::print(&format!(
            "{good} records whose links are good; the last link is {}\n",
            hex(&chain.link, 32)
        ))?;
    }
    if chain.is_whole() {
        return Ok(ExitCode::SUCCESS);
    }
    crate::console::say("glg: NOT WHOLE: records are damaged, or missing, or were changed. See above");
    Ok(ExitCode::FAILURE)
}

/// Follows the links through all files of a document.
fn chain(mut document: &[u8]) -> Chain {
    let mut chain = Chain { lines: Vec::new(), link: [0; 32] };
    let mut next: Option<u64> = None;
    while !document.is_empty() {
        let split = || {
            let (len, rest) = document.split_first_chunk()?;
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
        };
        let Some((file, rest)) = split() else {
            chain.lines.push(Line::Damaged("the document is cut short".to_owned()));
            break;
        };
        document = rest;
        next = follow(file, next, &mut chain).or(next);
    }
    chain
}

/// Follows the links of one file; the index after its last record.
fn follow(file: &[u8], next: Option<u64>, chain: &mut Chain) -> Option<u64> {
    let Some((head, mut rest)) = Head::parse(file) else {
        chain.lines.push(Line::Damaged(format!("a file of {} bytes without a head", file.len())));
        return None;
    };
    match next {
        // Before the first file that is there, others may have been given up.
        None => chain.link = head.link,
        Some(next) if head.index > next => {
            let missing = format!("records {next} to {} are missing", head.index - 1);
            chain.lines.push(Line::Damaged(missing));
            chain.link = head.link;
        }
        Some(_) if head.link != chain.link => {
            chain.lines.push(Line::Damaged(format!("before record {}: the link is another", head.index)));
        }
        Some(_) => {}
    }
    let mut index = head.index;
    while let Some((linked, after)) = Linked::parse(rest) {
        let Some(record) = linked.record() else { break };
        let mut digest = Digest::new(&SHA256);
        digest.update(&chain.link);
        digest.update(linked.bytes);
        let good = digest.finish().as_ref() == linked.link && record.index == index;
        chain.link = *linked.link;
        index = record.index.saturating_add(1);
        chain.lines.push(if good { Line::Good(record) } else { Line::Broken(record) });
        rest = after;
    }
    if !rest.is_empty() {
        let damaged = format!("{} bytes after record {} cannot be read", rest.len(), index.wrapping_sub(1));
        chain.lines.push(Line::Damaged(damaged));
    }
    Some(index)
}

fn text(line: &Line) -> String {
    let (record, mark) = match line {
        Line::Good(record) => (record, ""),
        Line::Broken(record) => (record, "  LINK BROKEN"),
        Line::Damaged(what) => return format!("DAMAGED: {what}\n"),
    };
    let at = record.at;
    let doubt = match at.clock {
        ClockQuality::Synced => "",
        ClockQuality::Free => " (clock not synchronised)",
        ClockQuality::Wrong => " (clock WRONG)",
    };
    let command = match record.event {
        Event::Started | Event::Damaged => String::new(),
        _ => format!("  command {}", record.command),
    };
    let skipped = match record.skipped {
        0 => String::new(),
        skipped => format!(", after {skipped} refusals that were not written down"),
    };
    let (index, boot) = (record.index, hex(&record.boot, 8));
    let (when, what) = (utc(at.wall_ms), event(record.event));
    format!("{index:>6}  {when}{doubt}, boot {boot}{command}  {what}{skipped}{mark}\n")
}

fn event(event: Event) -> String {
    match event {
        Event::Started => "the agent began".to_owned(),
        Event::Begun(action) => format!("begun: {}", action_name(action)),
        Event::Ended(Ending::Done) => "done".to_owned(),
        Event::Ended(Ending::Failed) => "failed".to_owned(),
        Event::Ended(Ending::Interrupted) => "interrupted: the agent ended first".to_owned(),
        Event::Refused(refusal) => format!("REFUSED: {refusal}"),
        Event::Damaged => "records before this are lost: storage was damaged".to_owned(),
    }
}

/// By the number of [`glg_proto::command::Action`].
fn action_name(action: u8) -> &'static str {
    match action {
        0 => "ping",
        1 => "make a document",
        2 => "send a document again",
        3 => "set",
        _ => "something that this glg does not know",
    }
}

fn object(line: &Line) -> Value {
    let (record, good) = match line {
        Line::Good(record) => (record, true),
        Line::Broken(record) => (record, false),
        Line::Damaged(what) => return json!({"kind": "damaged", "what": what}),
    };
    let kind = match record.event {
        Event::Started => "started",
        Event::Begun(_) => "begun",
        Event::Ended(_) => "ended",
        Event::Refused(_) => "refused",
        Event::Damaged => "lost",
    };
    json!({
        "kind": kind,
        "what": event(record.event),
        "index": record.index,
        "link_good": good,
        "boot": hex(&record.boot, 8),
        "mono_ms": record.at.mono_ms,
        "wall_ms": record.at.wall_ms,
        "clock": clock(record.at.clock),
        "command": record.command.to_string(),
        "skipped": record.skipped,
    })
}
