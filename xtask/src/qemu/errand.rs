//! Errands on a real arm64 kernel: a script that is run once in a guest, on files of this machine, and what it
//! leaves behind in the guest's `/out`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu_tests::{guest, machine::Machine};

use crate::child::{Child, Events, Source, What};
use crate::cmd::{self, Progress};
use crate::paths;
use crate::setup::kernel::{self, Kernel};

/// The guest's memory: its files twice, packed and unpacked, and what runs.
const MEMORY_MIB: u32 = 2048;
/// What `/out` may hold. The file takes as much as is written.
const DISK_BYTES: u64 = 2 << 30;
/// From the guest's last word to the end of QEMU.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done in the guest.
pub(crate) struct Errand<'a> {
    /// Its folder below `target/qemu/<kernel>`.
    pub(crate) name: &'a str,
    /// Files that it needs: where they go in the guest, without a leading slash, and where they are here. All of
    /// them are executable there.
    pub(crate) files: &'a [(String, PathBuf)],
    /// For busybox's shell, as root. Its last command says whether it was done.
    pub(crate) script: &'a str,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// Boots `kernel`, runs the errand and hands each line that the guest says to `seen`. Returns the folder
/// `target/qemu/<kernel>/<name>/out`, which then holds what the script has left in the guest's `/out`, and nothing
/// else. An error if the script has failed.
pub(crate) fn run(kernel: &Kernel, errand: &Errand<'_>, seen: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let dir = paths::target().join("qemu").join(kernel.name).join(errand.name);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let (image, disk) = (dir.join("initramfs.cpio"), dir.join("disk"));
    write_image(&image, kernel, errand)?;
    let file = File::create(&disk).with_context(|| format!("creating {}", disk.display()))?;
    file.set_len(DISK_BYTES).with_context(|| format!("creating {}", disk.display()))?;

    let events = Events::new()?;
    let log = dir.join("console.log");
    println!("==> booting arm64 Linux {} in QEMU; console: {}", kernel.name, log.display());
    let machine = Machine { kernel: &kernel.image(), initramfs: &image, mib: MEMORY_MIB, disk: Some(&disk) };
    let mut console = Child::start("console", Source::Console, &machine.command(), &dir, Some(&events))?;
    listen(&events, errand.limit, seen).and_then(|()| {
        let status = console.wait(PATIENCE)?;
        if !status.success() {
            bail!("QEMU ended with {status}");
        }
        Ok(())
    })?;
    let said = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
    judge(&String::from_utf8_lossy(&said)).inspect_err(|_| eprint!("{}", console.log_tail()))?;
    unpack(&disk, &dir.join("out"))
}

fn write_image(image: &Path, kernel: &Kernel, errand: &Errand<'_>) -> Result<()> {
    let progress = Progress::start("building the guest's file system");
    let base = guest::Base { busybox: &kernel::busybox(), modules: &kernel.modules() };
    let bytes = guest::errand(&base, &guest::Errand { files: errand.files, script: errand.script })?;
    fs::write(image, &bytes).with_context(|| format!("writing {}", image.display()))?;
    progress.done_with(&format!("{} MiB", bytes.len() >> 20));
    Ok(())
}

/// Until the guest has powered off.
fn listen(events: &Events, limit: Duration, seen: &mut dyn FnMut(&str)) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        let event = events.next(until)?;
        let event = event.with_context(|| format!("the guest is not done after {} s", limit.as_secs()))?;
        match event.what {
            What::Line(line) => seen(&line),
            What::Ended => return Ok(()),
        }
    }
}

/// What `guest/errand` says at its end.
fn judge(said: &str) -> Result<()> {
    let line = |prefix: &str| said.lines().find_map(|line| line.trim_end().strip_prefix(prefix));
    match line("errand: ended with ") {
        Some("0") => {}
        Some(code) => bail!("the script in the guest ended with {code}"),
        None => bail!("the guest ended before its script did"),
    }
    line("errand: handed over").map(|_| ()).context("the guest did not hand over what is in its /out")
}

/// The disk is a tar archive with zeros behind it. Another run's files are removed.
fn unpack(disk: &Path, out: &Path) -> Result<PathBuf> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("removing {}", out.display()))?;
    }
    fs::create_dir(out).with_context(|| format!("creating {}", out.display()))?;
    cmd::output(Command::new("tar").arg("-x").arg("-f").arg(disk).arg("-C").arg(out))
        .context("unpacking what the guest has handed over")?;
    fs::remove_file(disk).with_context(|| format!("removing {}", disk.display()))?;
    Ok(out.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn only_a_script_that_succeeded_and_was_handed_over_is_done() {
        let done = "rc: up\r\nerrand: ended with 0\r\nerrand: handed over\r\n";
        assert!(judge(done).is_ok());
        for (from, to) in [("with 0", "with 1"), ("errand: ended", "errand: e"), ("handed over", "")] {
            let error = judge(&done.replace(from, to));
            assert!(error.is_err(), "{from}");
        }
    }
}
