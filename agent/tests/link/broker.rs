//! mosquitto with a config of the test's own, which may be killed, stopped and started again.
#![allow(dead_code, reason = "each test program uses its part")]

use std::fmt::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::service::free_port;
use super::common::{Folder, eventually};

/// A broker that may be there or not; ended with the test.
pub(crate) struct Mosquitto {
    config: PathBuf,
    child: Option<Child>,
    pub(crate) port: u16,
}

impl Mosquitto {
    /// One that runs, with these lines in its config.
    pub(crate) fn start(folder: &Folder, lines: &str) -> Mosquitto {
        let mut broker = Mosquitto::prepare(folder, lines);
        broker.begin();
        broker
    }

    /// One that does not run yet.
    pub(crate) fn prepare(folder: &Folder, lines: &str) -> Mosquitto {
        let port = free_port();
        let config = folder.path().join(format!("mosquitto-{port}.conf"));
        let mut text = format!("user root\nallow_anonymous true\nlog_dest none\nlistener {port} 127.0.0.1\n");
        text.write_str(lines).unwrap();
        std::fs::write(&config, text).unwrap();
        Mosquitto { config, child: None, port }
    }

    /// Returns once it takes connections.
    pub(crate) fn begin(&mut self) {
        let programs = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
        let program = programs.into_iter().find(|path| Path::new(path).exists()).unwrap_or("mosquitto");
        let child = Command::new(program).arg("-c").arg(&self.config).stderr(Stdio::null()).spawn();
        let mut child =
            child.unwrap_or_else(|e| panic!("mosquitto is missing (run `cargo xtask setup`): {e}"));
        eventually("mosquitto takes connections", || {
            assert!(child.try_wait().unwrap().is_none(), "mosquitto does not like its config");
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()
        });
        self.child = Some(child);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running broker");
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    }

    /// Sends a signal that ends it.
    pub(crate) fn end(&mut self, signal: Signal) {
        if self.child.is_some() {
            self.signal(signal);
        }
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
    }
}
