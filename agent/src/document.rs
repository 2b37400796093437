//! `goleakguard document`: what the service starts for a command that asks for a document. A process of its own, so
//! that what it takes is given back, and what happens to it happens to nobody else.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use glg_proto::command::DocumentKind;
use ring::digest;

use crate::config::Config;
use crate::dump::Form;
use crate::{dump, hex, leaks, locks, remote};

/// Bytes written to the file in one go.
const OUT_BYTES: usize = 8 << 10;
/// How the child tells that the document would be too large.
pub const TOO_LARGE: u8 = 3;

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which document.
    pub kind: DocumentKind,
    /// Of which process.
    pub pid: u32,
    /// Its start time, so that it is no other with the same number.
    pub start: u64,
    /// Of so many goroutines at most; 0 for the board's own limit.
    pub limit: u32,
    /// The file.
    pub out: PathBuf,
    /// The board's configuration.
    pub board: PathBuf,
}

/// The words that [`Order`]s are given in on the command line.
pub const KINDS: [(&str, DocumentKind); 4] = [
    ("grouped", DocumentKind::Grouped),
    ("full", DocumentKind::Full),
    ("locks", DocumentKind::Locks),
    ("leaks", DocumentKind::Leaks),
];

/// The order in these words, as [`Order::words`] gives them; `None` for anything else.
#[must_use]
pub fn order(words: &[&str]) -> Option<Order> {
    let [kind, pid, start, limit, out, board] = words else { return None };
    let (_, kind) = KINDS.iter().find(|(word, _)| word == kind)?;
    Some(Order {
        kind: *kind,
        pid: pid.parse().ok()?,
        start: start.parse().ok()?,
        limit: limit.parse().ok()?,
        out: out.into(),
        board: board.into(),
    })
}

impl Order {
    /// On the command line.
    #[must_use]
    pub fn words(&self) -> Option<[OsString; 6]> {
        let (word, _) = KINDS.iter().find(|(_, kind)| *kind == self.kind)?;
        let number = |number: u64| OsString::from(number.to_string());
        let (pid, limit) = (number(self.pid.into()), number(self.limit.into()));
        Some([
            (*word).into(),
            pid,
            number(self.start),
            limit,
            self.out.clone().into(),
            self.board.clone().into(),
        ])
    }
}

/// A new file that only its owner can read, and no link that somebody has laid there.
///
/// # Errors
/// As those of [`OpenOptions::open`].
pub fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes the document, compressed, and prints how long it is and its SHA-256. `false` when it would be larger than
/// the board allows.
///
/// # Errors
/// As the commands that print the same.
pub fn make(order: &Order, config: &Config) -> anyhow::Result<bool> {
    let file = create(&order.out).with_context(|| order.out.display().to_string())?;
    let max = u64::from(config.commands.document_kib) << 10;
    let mut counted = Counted { out: BufWriter::with_capacity(OUT_BYTES, file), bytes: 0, max, sum: sum() };
    let mut deflate = DeflateEncoder::new(&mut counted, Compression::best());
    let written = write(order, config, &mut deflate);
    let finished = deflate.finish().map(|_| ());
    let flushed = counted.out.flush();
    if counted.bytes > counted.max {
        return Ok(false);
    }
    written?;
    finished.and(flushed).with_context(|| order.out.display().to_string())?;
    println!("{} {}", counted.bytes, hex::text(counted.sum.finish().as_ref()));
    Ok(true)
}

fn sum() -> digest::Context {
    digest::Context::new(&digest::SHA256)
}

fn write(order: &Order, config: &Config, out: &mut dyn Write) -> anyhow::Result<()> {
    if remote::stat(order.pid).map(|stat| stat.start) != Some(order.start) {
        bail!("the process has ended");
    }
    let dump = |form| {
        let mut limits = config.dump;
        if order.limit > 0 {
            limits.max_goroutines = limits.max_goroutines.min(order.limit);
        }
        move |out: &mut dyn Write| dump::dump(order.pid, form, &limits, out)
    };
    match order.kind {
        DocumentKind::Grouped => dump(Form::Compact)(out),
        DocumentKind::Full => dump(Form::Plain)(out),
        DocumentKind::Locks => locks::locks(order.pid, true, config.locks.limits(), None, out),
        DocumentKind::Leaks => {
            let limits = leaks::Limits { prove: &config.prove, dump: &config.dump };
            leaks::leaks(order.pid, true, None, limits, out)
        }
        DocumentKind::Audit => bail!("the audit is the service's own"),
    }
}

/// Counts what goes through, sums it up, and lets no more through than it may.
struct Counted {
    out: BufWriter<File>,
    bytes: u64,
    max: u64,
    sum: digest::Context,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > self.max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.write_all(bytes)?;
        self.sum.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
