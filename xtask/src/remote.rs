//! What the operator does in the scenario: makes a key, and fetches a signed dump of a process from far away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build;

/// Lines of the dump that are shown.
const SHOWN: usize = 6;

/// An operator with a key.
pub(crate) struct Operator {
    key: PathBuf,
    dir: PathBuf,
    /// What belongs into the board's configuration.
    pub(crate) snippet: String,
}

impl Operator {
    /// Makes a key in `dir`, which may do everything.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let key = dir.join("operator.key");
        for old in [key.clone(), dir.join("operator.key.counter"), dir.join("devices")] {
            // Of an earlier run.
            let _ = fs::remove_file(old);
        }
        let text = glg(Command::new(build::glg()).args(["keys", "new", "operator", "--out"]).arg(&key))?;
        let from = text.find("[[command.key]]").context("`glg keys new` printed no [[command.key]]")?;
        let snippet = text.get(from..).unwrap_or_default();
        let looks = "roles = [\"look\"]";
        if !snippet.contains(looks) {
            bail!("`glg keys new` printed no {looks}: {snippet}");
        }
        let snippet = snippet.replace(looks, "roles = [\"look\", \"dump\", \"set\"]");
        Ok(Self { key, dir: dir.to_owned(), snippet })
    }

    /// Fetches the stacks of a process, and shows the first of them; says how many goroutines came in how many bytes.
    pub(crate) fn dump(&self, port: u16, device: &str, process: &str) -> Result<String> {
        let out = self.dir.join("remote-dump.txt");
        let mut command = Command::new(build::glg());
        command.args(["dump", device, process, "--host", "127.0.0.1", "--port"]).arg(port.to_string());
        command.arg("--key").arg(&self.key).arg("--devices").arg(self.dir.join("devices"));
        command.arg("--out").arg(&out);
        println!("==> glg dump {device} {process}");
        glg(&mut command)?;
        let text = fs::read_to_string(&out).with_context(|| format!("reading {}", out.display()))?;
        for line in text.lines().take(SHOWN) {
            println!("  dump | {line}");
        }
        let goroutines = text.lines().filter(|line| line.starts_with("goroutine ")).count();
        if goroutines == 0 {
            bail!("the dump of {process} shows no goroutine: {}", out.display());
        }
        Ok(format!("a signed dump of {process}: {goroutines} goroutines, {} bytes of text", text.len()))
    }
}

/// What `glg` prints.
fn glg(command: &mut Command) -> Result<String> {
    let output = command.output().context("starting glg")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{command:?} ended with {}: {said}", output.status);
    }
    for line in said.lines() {
        println!("  glg | {line}");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
