//! Where a daemon lives for a test: a root file system of its own in memory, around the programs that `cargo
//! xtask setup daemons` unpacks, and a network of its own in which there is nobody else. It cannot call
//! anybody, and any port is free; what it writes disappears with it.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, pipe};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chroot};

use super::common::{Folder, PATIENCE};

/// A program and how to start it. Paths are those of its own root file system; `/tmp` is writable.
pub(crate) struct Spec {
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// Files it wants to find, and what is in them.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// What its log says once it is up.
    pub(crate) ready: &'static str,
}

/// The root file system of Debian's daemons for this architecture.
pub(crate) fn tree() -> PathBuf {
    let cache = || {
        let tools = env::var_os("GOLEAKGUARD_TOOLS").map(PathBuf::from);
        let home = || Path::new(&env::var_os("HOME").unwrap_or("/root".into())).join(".cache/goleakguard");
        tools.unwrap_or_else(home).join("debian-daemons")
    };
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let tree = env::var_os("GLG_DAEMONS").map_or_else(cache, PathBuf::from).join(arch);
    assert!(
        tree.join("versions").is_file(),
        "{} holds no daemons: run `cargo xtask setup daemons`, or set GLG_DAEMONS",
        tree.display()
    );
    tree
}

/// Runs `job` in a network of its own, with nothing in it.
pub(crate) fn isolated(job: impl FnOnce() + Send) {
    assert!(nix::unistd::geteuid().is_root(), "this takes root: run this test as root");
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
            job();
        });
        if let Err(panic) = worker.join() {
            resume_unwind(panic);
        }
    });
}

/// A running daemon; ended with the test.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<String>,
    log: Vec<String>,
    next: usize,
    _folder: Folder,
}

impl Daemon {
    /// Returns once it is up. Call it inside of [`isolated`].
    pub(crate) fn start(spec: &Spec) -> Daemon {
        let (folder, tree) = (Folder::new(), tree());
        let (reader, writer) = pipe().unwrap();
        // A child has the root and the network of the thread that starts it.
        let starter = || {
            enter(folder.path(), &tree, spec.files);
            let mut command = Command::new(spec.program);
            command.args(spec.arguments).env_clear().envs(spec.environment.iter().copied());
            command.env("HOME", "/tmp").env("PATH", "/usr/sbin:/usr/bin").current_dir("/");
            command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
            command.spawn().unwrap_or_else(|e| panic!("{}: {e}", spec.program))
        };
        let child = std::thread::scope(|scope| scope.spawn(starter).join());
        let child = child.unwrap_or_else(|panic| resume_unwind(panic));
        let (said, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
            lines.map(|line| String::from_utf8_lossy(&line).into_owned()).try_for_each(|line| said.send(line))
        });
        let mut daemon = Daemon { child, lines, log: Vec::new(), next: 0, _folder: folder };
        daemon.says(spec.ready);
        daemon
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line of its log that contains `what`.
    pub(crate) fn says(&mut self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(line) = self.log.get(self.next) {
                self.next += 1;
                if line.contains(what) {
                    return line.clone();
                }
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.log.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("not said: {what:?}; but:\n{}", self.log.join("\n")),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended before {what:?}:\n{}", self.log.join("\n"))
                }
            }
        }
    }

    /// The first line of its log that contains `what`; it has been said already.
    pub(crate) fn said(&self, what: &str) -> &str {
        let line = self.log.iter().find(|line| line.contains(what));
        line.unwrap_or_else(|| panic!("not said: {what:?}; but:\n{}", self.log.join("\n")))
    }

    /// Ends it by SIGQUIT, on which Go's runtime prints all stacks, and returns what it said from then on.
    pub(crate) fn last_words(mut self) -> String {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGQUIT).unwrap();
        self.says("SIGQUIT: quit");
        let deadline = Instant::now() + PATIENCE;
        let mut words = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => words = words + &line + "\n",
                Err(RecvTimeoutError::Disconnected) => return words,
                Err(RecvTimeoutError::Timeout) => panic!("no end of:\n{words}"),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes `root` the root of this thread: the tree's programs and libraries, this system's processes, and
/// the rest in memory. Nobody else sees these mounts, and they end with the last process in them.
fn enter(root: &Path, tree: &Path, files: &[(&str, &str)]) {
    unshare(CloneFlags::CLONE_NEWNS).expect("mounts of its own");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .expect("mounts that nobody else sees");
    mount(Some("none"), root, Some("tmpfs"), MsFlags::empty(), none).expect("a file system in memory");
    for folder in ["dev", "etc", "proc", "run", "sys", "tmp", "var/lib"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for folder in ["lib", "lib64", "usr"].iter().filter(|folder| tree.join(folder).is_dir()) {
        let (from, to) = (tree.join(folder), root.join(folder));
        fs::create_dir(&to).unwrap();
        mount(Some(&from), &to, none, MsFlags::MS_BIND, none).expect("the tree");
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &to, none, read_only, none).expect("the tree, not to be written");
    }
    for device in ["null", "urandom", "zero"] {
        let (from, to) = (Path::new("/dev").join(device), root.join("dev").join(device));
        fs::write(&to, "").unwrap();
        mount(Some(&from), &to, none, MsFlags::MS_BIND, none).expect(device);
    }
    mount(Some("/proc"), &root.join("proc"), none, MsFlags::MS_BIND, none).expect("/proc");
    // A sysfs shows the network that it was mounted in.
    mount(Some("none"), &root.join("sys"), Some("sysfs"), MsFlags::empty(), none).expect("/sys");
    fs::write(root.join("sys/class/net/lo/flags"), "0x1").expect("the loopback, up");
    let standard = [("etc/passwd", "root:x:0:0:root:/tmp:/bin/sh\n"), ("etc/hosts", "127.0.0.1 localhost\n")];
    for (name, content) in standard.iter().chain(files) {
        let path = root.join(name.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    chroot(root).expect("a root of its own");
}
