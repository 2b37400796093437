//! What a running service lets others know: a small file in memory, which `goleakguard ps` reads.
//!
//! Its first line names the service, each further one a target, its rung, how many of its threads wait in C, and the
//! second after boot since when the longest of them does; `0 0` stands for none. Processes are a number and their
//! start (`/proc/PID/stat`), so that what a dead service has left is recognised:
//!
//! ```text
//! goleakguard 2 PID START
//! PID START watch 2 86412
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use glg_engine::engine::{Waiting, Watched};
use glg_engine::step::{Rung, TargetId};
use log::warn;
use nix::fcntl::OFlag;

use crate::remote;

/// First words of the file; the number is that of its format.
const TITLE: &str = "goleakguard 2";
/// Bytes of a line at most: two numbers, a word, and two numbers more.
const LINE_MAX: usize = 10 + 1 + 20 + 1 + 9 + 1 + 5 + 1 + 10 + 1;
/// Bytes read at most: more than 64 targets take.
const READ_MAX: u64 = 8192;

/// The service's side: writes the file whenever a target has changed, or what is known of it.
pub struct State {
    path: Option<PathBuf>,
    said: Vec<Watched>,
    /// Whether the file says that.
    written: bool,
    /// Whether the log has said that it does not.
    warned: bool,
}

impl State {
    /// Bytes that it takes for each target, written text included.
    pub const TARGET_BYTES: usize = size_of::<Watched>() + LINE_MAX;

    /// Nothing is written yet. An empty path stands for no file.
    #[must_use]
    pub fn new(path: &str, max_targets: usize) -> State {
        let path = Some(path).filter(|path| !path.is_empty()).map(PathBuf::from);
        State { path, said: Vec::with_capacity(max_targets), written: false, warned: false }
    }

    /// Takes note of where the targets stand now.
    pub fn publish(&mut self, targets: impl Iterator<Item = Watched> + Clone) {
        if self.written && targets.clone().eq(self.said.iter().copied()) {
            return;
        }
        self.said.clear();
        self.said.extend(targets);
        self.write();
    }

    fn write(&mut self) {
        let Some(path) = &self.path else { return };
        let result = replace(path, &text(&self.said));
        self.written = result.is_ok();
        if let Err(error) = &result
            && !self.warned
        {
            warn!("{} cannot be written ({error}): `goleakguard ps` shows no rungs", path.display());
        }
        self.warned = result.is_err();
    }

    /// Takes the file away, unless it is that of another service.
    pub fn remove(&self) {
        let Some(path) = &self.path else { return };
        if read(path).is_ok_and(|found| found.is_some_and(|(service, _)| service.pid == std::process::id())) {
            let _ = fs::remove_file(path);
        }
    }
}

fn text(targets: &[Watched]) -> String {
    let pid = std::process::id();
    let start = remote::stat(pid).map_or(0, |stat| stat.start);
    let mut text = format!("{TITLE} {pid} {start}\n");
    for Watched { id: TargetId { pid, start }, rung, waiting } in targets {
        let (threads, since_s) = waiting.map_or((0, 0), |waiting| (waiting.threads, waiting.since_s));
        text += &format!("{pid} {start} {} {threads} {since_s}\n", rung.as_str());
    }
    text
}

/// Readers see the old file or the new one, whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent()
        && let Err(error) = fs::create_dir(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // Never through a link that somebody has laid there.
    let _ = fs::remove_file(&new);
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?.write_all(text.as_bytes())?;
    fs::rename(new, path)
}

/// The targets of the service that runs now; none without a service.
///
/// # Errors
/// What is wrong with the file.
pub fn targets(path: &Path) -> Result<Vec<Watched>, String> {
    let found = read(path).map_err(|what| format!("{}: {what}", path.display()))?;
    let alive = |service: TargetId| remote::stat(service.pid).is_some_and(|stat| stat.start == service.start);
    Ok(found.filter(|(service, _)| alive(*service)).map(|(_, targets)| targets).unwrap_or_default())
}

type Found = (TargetId, Vec<Watched>);

/// The service and its targets; `None` when there is no file.
fn read(path: &Path) -> Result<Option<Found>, String> {
    // Nobody is waited for on the other side of a pipe.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| error.to_string())?,
    };
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err("not a regular file".to_owned());
    }
    let mut text = String::new();
    file.take(READ_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    parse(&text).map(Some).ok_or_else(|| "not written by a service of this version".to_owned())
}

fn parse(text: &str) -> Option<Found> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let service = lines.next()?.strip_prefix(TITLE)?.strip_prefix(' ')?;
    let id = |words: &str| {
        let (pid, start) = words.split_once(' ')?;
        Some(TargetId { pid: pid.parse().ok()?, start: start.parse().ok()? })
    };
    let target = |line: &str| {
        let mut words = line.rsplitn(4, ' ');
        let (since_s, threads) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let word = words.next()?;
        let rung = Rung::ALL.into_iter().find(|rung| rung.as_str() == word)?;
        let waiting = (threads > 0).then_some(Waiting { threads, since_s });
        Some(Watched { id: id(words.next()?)?, rung, waiting })
    };
    Some((id(service)?, lines.map(target).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    fn on(pid: u32, rung: Rung) -> Watched {
        Watched { id: TargetId { pid, start: 7 }, rung, waiting: None }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = Folder::new("state");
        let path = folder.0.join("state");
        let mut state = State::new(path.to_str().unwrap(), 2);
        assert_eq!(targets(&path), Ok(vec![]), "no service");
        state.publish(std::iter::empty());
        assert_eq!(targets(&path), Ok(vec![]));
        let waiting = Some(Waiting { threads: 2, since_s: 86_412 });
        let watched = vec![on(1, Rung::Watch), Watched { waiting, ..on(2, Rung::Attribute) }];
        state.publish(watched.iter().copied());
        assert_eq!(targets(&path), Ok(watched.clone()));
        // Not written anew for nothing.
        fs::remove_file(&path).unwrap();
        state.publish(watched.iter().copied());
        assert_eq!(targets(&path), Ok(vec![]));
        state.publish(std::iter::once(on(1, Rung::Census)));
        assert_eq!(targets(&path), Ok(vec![on(1, Rung::Census)]));
        // Of a service that is no more, or of another: not ours to take away.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen(&format!(" {} ", std::process::id()), " 1 ", 1)).unwrap();
        assert_eq!(targets(&path), Ok(vec![]));
        state.remove();
        assert!(path.exists());
        state.publish(std::iter::empty());
        state.remove();
        assert!(!path.exists());
        fs::remove_dir(&folder.0).unwrap();
        State::new("", 2).publish(std::iter::empty());
    }

    /// As many letters as a line may have.
    const LONGEST: Watched = Watched {
        id: TargetId { pid: u32::MAX, start: u64::MAX },
        rung: Rung::Attribute,
        waiting: Some(Waiting { threads: u16::MAX, since_s: u32::MAX }),
    };

    /// What could not be written is written as soon as it can be, although nothing has changed since.
    #[test]
    fn what_could_not_be_written_is_written_later() {
        let folder = Folder::new("unwritten");
        let path = folder.0.join("state");
        fs::create_dir_all(&path).unwrap();
        let mut state = State::new(path.to_str().unwrap(), 1);
        let watched = || std::iter::once(on(1, Rung::Census));
        state.publish(watched());
        assert!(path.is_dir() && state.warned);
        fs::remove_dir(&path).unwrap();
        state.publish(watched());
        assert_eq!(targets(&path), Ok(watched().collect()));
        assert!(!state.warned, "another failure is told again");
    }

    #[test]
    fn rubbish_is_told() {
        let whole = text(&[on(1, Rung::Watch), LONGEST]);
        assert!(parse(&whole).is_some());
        assert!(whole.lines().all(|line| line.len() < LINE_MAX));
        assert_eq!(whole.lines().last().map(str::len), Some(LINE_MAX - 1));
        for end in 0..whole.len() {
            let found = parse(&whole[..end]);
            assert!(found.is_none_or(|(_, watched)| watched.len() < 2 && whole[..end].ends_with('\n')));
        }
        let lines =
            ["1 1 fly 0 0", "1 1 watch", "1 1 watch 0", "1 1 watch -1 0", "1 1 watch 0 0 0", "1  watch 0 0"];
        for odd in lines {
            assert!(parse(&format!("{TITLE} 1 1\n{odd}\n")).is_none(), "{odd:?}");
        }
        for odd in ["", "\n", "goleakguard 1 1 1\n", "goleakguard 2 -1 1\n", "\0"] {
            assert!(parse(odd).is_none(), "{odd:?}");
        }
        assert!(targets(Path::new("/dev/zero")).unwrap_err().contains("not a regular file"));
        assert!(targets(Path::new("/proc/self/comm")).is_err());
    }
}
