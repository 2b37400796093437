//! HTTP as far as a daemon is loaded with it: one request a connection, and the daemon closes it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens a connection to a port of this machine.
pub(super) fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("connecting to port {port}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What is at `path`.
pub(super) fn get(port: u16, path: &str) -> Result<String> {
    request(port, "GET", path, &[], "")
}

/// The body of the answer, which has to be a good one. In HTTP/1.0 it ends with the connection.
pub(super) fn request(port: u16, method: &str, path: &str, headers: &[&str], body: &str) -> Result<String> {
    let mut stream = connect(port)?;
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let good = head.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    ensure!(good, "{method} {path} on port {port}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// The sum of a value of `/metrics` over all its labels.
pub(super) fn metric(metrics: &str, name: &str) -> u64 {
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "these are counts")]
    let sum = metrics.lines().filter(of).filter_map(value).sum::<f64>() as u64;
    sum
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_are_added_up_over_their_labels() {
        let text = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3e+01\nab 5\nb 7\n";
        assert_eq!(["a", "ab", "b", "c"].map(|name| super::metric(text, name)), [32, 5, 7, 0]);
    }
}
