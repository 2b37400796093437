//! Children of the service: this program again, with another command. What they take is given back with them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Output, Stdio};

use tokio::process::{Child, Command};

/// Bytes of what a child complains of that are read.
const ERRORS_MAX: u64 = 1024;

/// Begins one; it is killed when nobody holds it any more.
pub(super) fn begin(command: &str, words: impl IntoIterator<Item: AsRef<OsStr>>) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg(command)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// What a child has said, which has ended: so many bytes of its answer at most.
pub(super) fn said(mut child: Child, status: ExitStatus, most: u64) -> Output {
    let read = |pipe: Option<io::Result<OwnedFd>>, most: u64| {
        let mut bytes = Vec::new();
        if let Some(Ok(pipe)) = pipe {
            // Without anybody who could write there is an end; and a pipe does not block.
            let _ = File::from(pipe).take(most).read_to_end(&mut bytes);
        }
        bytes
    };
    let stdout = read(child.stdout.take().map(|pipe| pipe.into_owned_fd()), most);
    let stderr = read(child.stderr.take().map(|pipe| pipe.into_owned_fd()), ERRORS_MAX);
    Output { status, stdout, stderr }
}

/// Its last complaint.
pub(super) fn last_words(said: &Output) -> String {
    let errors = String::from_utf8_lossy(&said.stderr);
    let last = errors.lines().last().unwrap_or("the child ended without a word");
    last.strip_prefix("goleakguard: ").unwrap_or(last).to_owned()
}
