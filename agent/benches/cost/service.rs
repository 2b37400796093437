//! The agent as a service that watches one program, for as long as a turn takes.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::dump::agent;
use crate::program::Program;

/// A running service. It ends when this is dropped.
pub(crate) struct Service {
    child: Child,
    config: PathBuf,
}

impl Service {
    /// Starts it with the defaults of `board-configs/base.toml`, no broker and no program but this one to watch;
    /// returns once that is watched.
    pub(crate) fn watching(program: &Program) -> Result<Service> {
        let config = env::temp_dir().join(format!("glg-bench-{}.toml", std::process::id()));
        // Nobody listens at that port.
        let text = format!(
            "[device]\nname = \"bench\"\n[mqtt]\nport = 1\n[service]\nstate = \"\"\n[spool]\ndir = \"\"\n\
             [[watch.match]]\npath = {:?}\naction = \"watch\"\n[[watch.match]]\naction = \"ignore\"\n",
            program.remote.path
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = Command::new(agent());
        command.arg("run").arg("--config").arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().context("starting the service")?;
        let mut service = Service { child, config };
        service.until(&format!("({}): watching", program.remote.id.pid))?;
        Ok(service)
    }

    /// Waits for a line of its log; what it says then is read away.
    fn until(&mut self, wanted: &str) -> Result<()> {
        let mut log = BufReader::new(self.child.stderr.take().context("the service has no log")?);
        let mut said = String::new();
        loop {
            let before = said.len();
            if log.read_line(&mut said)? == 0 {
                bail!("the service ended before it said {wanted:?}:\n{said}");
            }
            if said.get(before..).is_some_and(|line| line.contains(wanted)) {
                std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
                return Ok(());
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}
