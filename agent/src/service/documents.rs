//! Documents that commands asked for: a child of ours makes one, and it is sent in parts, of which the link has one at
//! a time. The last one is kept, so that parts can be sent again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use glg_engine::command::Crypto;
use glg_engine::step::TargetId;
use glg_proto::command::{CommandId, DocumentKind, Failure, Made, Part};
use glg_proto::wire::head;
use log::{info, warn};
use tokio::process::Child;
use tokio::time::{Instant, timeout_at};

use super::child;
use crate::config::Commands;
use crate::document::{Order, TOO_LARGE, create};
use crate::hex;
use crate::keys::Ring;

/// Bytes of what a child says that are read.
const SAID_MAX: u64 = 1024;

/// The documents of one service.
pub(super) struct Documents {
    config: Commands,
    /// The board's file, for the child.
    board: PathBuf,
    making: Option<Making>,
    made: Option<Sending>,
}

struct Making {
    command: CommandId,
    kind: DocumentKind,
    pid: u32,
    child: Child,
    until: Instant,
}

struct Sending {
    command: CommandId,
    made: Made,
    file: File,
    /// The next part to be sent.
    next: u32,
    /// The part that the link has.
    under_way: Option<u32>,
}

impl Documents {
    pub(super) fn new(config: &Commands, board: &Path) -> Documents {
        let documents =
            Documents { config: config.clone(), board: board.to_owned(), making: None, made: None };
        documents.clear();
        documents
    }

    /// Begins to make one. There is no other at the time: the engine carries out one command after the other.
    pub(super) fn make(
        &mut self,
        command: CommandId,
        kind: DocumentKind,
        target: TargetId,
        limit: u32,
    ) -> Result<(), Failure> {
        let TargetId { pid, start } = target;
        let order = Order { kind, pid, start, limit, out: self.unfinished(), board: self.board.clone() };
        let words = order.words().ok_or(Failure::NoDocument)?;
        self.create_folder().map_err(failure)?;
        let child = child::begin("document", words).map_err(failure)?;
        info!("making the document \"{}\" of process {pid}, for command {command}", kind.as_str());
        let until = Instant::now() + Duration::from_secs(self.config.document_s.into());
        self.making = Some(Making { command, kind, pid, child, until });
        Ok(())
    }

    /// Waits for the child; for ever where there is none. Nothing is lost when nobody waits any more.
    pub(super) async fn made(&mut self) -> (CommandId, Result<Made, Failure>) {
        let Some(making) = &mut self.making else { return std::future::pending().await };
        let (command, kind, pid) = (making.command, making.kind, making.pid);
        // What it says fits into the pipes: it ends whether that is read or not.
        let ended = timeout_at(making.until, making.child.wait()).await;
        let Some(Making { child, .. }) = self.making.take() else { return std::future::pending().await };
        let result = match ended {
            Err(_) => Err(Failure::TookTooLong(self.config.document_s)),
            Ok(Err(error)) => Err(failure(error)),
            Ok(Ok(status)) => {
                let said = child::said(child, status, SAID_MAX);
                self.announce(&said).and_then(|(bytes, sha256)| self.take(command, kind, pid, bytes, sha256))
            }
        };
        if let Err(failure) = &result {
            warn!("command {command}: no document \"{}\" of process {pid}: {failure}", kind.as_str());
            let _ = fs::remove_file(self.unfinished());
        }
        (command, result)
    }

    /// What the child has announced.
    fn announce(&self, said: &Output) -> Result<(u32, [u8; 32]), Failure> {
        if said.status.code() == Some(TOO_LARGE.into()) {
            return Err(Failure::TooLarge(self.config.document_kib));
        }
        let parse = |text: &str| {
            let (bytes, sum) = text.trim_end().split_once(' ')?;
            Some((bytes.parse().ok()?, hex::bytes(sum)?))
        };
        let announced = std::str::from_utf8(&said.stdout).ok().and_then(parse);
        announced
            .filter(|_| said.status.success())
            .ok_or_else(|| Failure::Other(head(&child::last_words(said))))
    }

    /// Makes one of bytes that are at hand.
    pub(super) fn make_of(
        &mut self,
        command: CommandId,
        kind: DocumentKind,
        bytes: &[u8],
    ) -> Result<Made, Failure> {
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
        let deflated = deflate.write_all(bytes).and_then(|()| deflate.finish()).map_err(failure)?;
        self.create_folder()
            .and_then(|()| create(&self.unfinished())?.write_all(&deflated))
            .map_err(failure)?;
        let length =
            u32::try_from(deflated.len()).map_err(|_| Failure::TooLarge(self.config.document_kib))?;
        self.take(command, kind, 0, length, Ring.sha256(&[&deflated]))
    }

    /// The unfinished one is finished: from now on it is the one that is sent.
    fn take(
        &mut self,
        command: CommandId,
        kind: DocumentKind,
        pid: u32,
        bytes: u32,
        sha256: [u8; 32],
    ) -> Result<Made, Failure> {
        let open = || {
            fs::rename(self.unfinished(), &self.config.document)?;
            File::open(&self.config.document)
        };
        let file = open().map_err(failure)?;
        let made = Made { kind, pid, bytes, part_bytes: self.config.part_bytes, sha256 };
        info!("command {command}: \"{}\" of {bytes} bytes, parts: {}", kind.as_str(), made.parts());
        self.made = Some(Sending { command, made, file, next: 0, under_way: None });
        Ok(made)
    }

    /// Sends parts again from one on, if the document is still there.
    pub(super) fn send_again(&mut self, document: CommandId, from: u32) -> Result<(), Failure> {
        match &mut self.made {
            Some(sending) if sending.command == document => {
                sending.next = from.min(sending.made.parts());
                sending.under_way = None;
                Ok(())
            }
            _ => Err(Failure::NoDocument),
        }
    }

    /// The next part as it travels; it is sent when [`Documents::part_sent`] was said.
    pub(super) fn next_part(&mut self) -> Option<Vec<u8>> {
        let sending = self.made.as_mut()?;
        let (index, of) = (sending.next, sending.made.parts());
        if index >= of {
            return None;
        }
        match sending.part(index, of) {
            Ok(part) => {
                sending.under_way = Some(index);
                Some(part)
            }
            Err(error) => {
                warn!("part {index} of {of} cannot be read: {error}; the document is given up");
                self.made = None;
                None
            }
        }
    }

    /// The broker has the part that the link had; that may be one which is not asked for any more.
    pub(super) fn part_sent(&mut self) {
        if let Some(sending) = &mut self.made
            && sending.under_way.take() == Some(sending.next)
        {
            sending.next = sending.next.saturating_add(1);
            if sending.next == sending.made.parts() {
                info!("command {}: sent, parts: {}", sending.command, sending.next);
            }
        }
    }

    fn create_folder(&self) -> io::Result<()> {
        Path::new(&self.config.document).parent().map_or(Ok(()), fs::create_dir_all)
    }

    fn unfinished(&self) -> PathBuf {
        format!("{}.new", self.config.document).into()
    }

    /// Takes away what an earlier agent has left, or this one leaves.
    fn clear(&self) {
        let _ = fs::remove_file(self.unfinished());
        let _ = fs::remove_file(&self.config.document);
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Sending {
    fn part(&self, index: u32, of: u32) -> io::Result<Vec<u8>> {
        let size = u32::from(self.made.part_bytes);
        let at = u64::from(index) * u64::from(size);
        let len = u64::from(self.made.bytes).saturating_sub(at).min(size.into());
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, at)?;
        let part = Part { command: self.command, index, of, bytes: &bytes };
        let head = part.head().map_err(|_| io::ErrorKind::InvalidData)?;
        Ok([&head[..], &bytes].concat())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failure(error: io::Error) -> Failure {
    Failure::Other(head(&error.to_string()))
}
