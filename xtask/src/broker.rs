//! A real mosquitto on a free port of the loopback interface, for the demo and the tests.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{Child, Events, Source};
use crate::cmd;

const ACCEPTS_WITHIN: Duration = Duration::from_secs(10);
/// Another process may take the port between our finding it free and mosquitto's binding it.
const ATTEMPTS: u32 = 3;

/// A running broker, killed on drop.
pub(crate) struct Broker {
    /// The process and its log.
    pub(crate) child: Child,
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
}

impl Broker {
    /// Starts it with its configuration and log in `dir`, and returns once it accepts connections.
    pub(crate) fn start(dir: &Path, events: Option<&Events>) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let mut broker = Self::spawn(dir, events)?;
            match broker.until_it_accepts() {
                Ok(()) => return Ok(broker),
                Err(error) => last = Some(error.context(broker.child.log_tail())),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("never started"))).context("starting mosquitto")
    }

    fn spawn(dir: &Path, events: Option<&Events>) -> Result<Self> {
        let program =
            cmd::which("mosquitto").context("mosquitto is not installed: run `cargo xtask setup broker`")?;
        let port = free_port()?;
        let file = dir.join("mosquitto.conf");
        std::fs::write(&file, config(port)).with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&file);
        let child = Child::start("mosquitto", Source::Broker, &command, dir, events)?;
        Ok(Self { child, port })
    }

    fn until_it_accepts(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.child.ended()? {
                bail!("it ended at once: {status}");
            }
            if start.elapsed() > ACCEPTS_WITHIN {
                bail!("no connection to port {} after {} s", self.port, ACCEPTS_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Open to this machine only, keeps nothing on disk. Started by root it would change to a user who may be
/// unable to read `target`.
fn config(port: u16) -> String {
    let user = if cmd::is_root() { "user root\n" } else { "" };
    format!(
        "listener {port} 127.0.0.1\n\
         allow_anonymous true\n\
         persistence false\n\
         max_queued_messages 1000\n\
         log_dest stderr\n\
         log_type all\n\
         {user}"
    )
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
