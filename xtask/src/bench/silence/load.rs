//! Clients of the daemons, at rates that a small machine bears: each some connections, of which some stay and some come
//! and go, and requests that are answered at once beside such that wait.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::daemons::{SYNCTHING_KEY, port};
use super::http::{connect, get, request};

/// Between two requests of one client: 20 a second.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection that goes and comes again does so that often.
const STAYS: Duration = Duration::from_secs(10);
/// A blocked read looks that often whether it is over.
const POLL: Duration = Duration::from_millis(200);

/// What all clients share.
#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// Requests that were answered, or messages.
    answers: AtomicU64,
    failures: AtomicU64,
}

/// All clients; they end when it is dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins.
    pub(super) fn start() -> Load {
        let mut load = Load { shared: Arc::default(), clients: Vec::new() };
        for n in 0..8 {
            load.client(move |over| publish(n, over));
            load.client(move |over| put(n, over));
        }
        (0..40).for_each(|n| load.client(move |over| subscribe(n, over)));
        (0..20).for_each(|_| load.client(watch));
        for _ in 0..2 {
            load.client(|_| get(port::NODE_EXPORTER, "/metrics").map(|_| 1));
            load.client(|_| {
                get(port::PROMETHEUS, "/api/v1/query?query=rate(go_goroutines%5B1m%5D)").map(|_| 1)
            });
            load.client(|_| get(port::CADDY, "/hello.txt").map(|_| 1));
            load.client(|_| get(port::CADDY, "/").map(|_| 1));
            load.client(|_| syncthing("GET", "/rest/system/status"));
            load.client(|_| syncthing("GET", "/rest/db/status?folder=default"));
        }
        load.client(|_| {
            std::thread::sleep(Duration::from_secs(1));
            syncthing("POST", "/rest/db/scan?folder=default")
        });
        // It is answered when something has happened, or after five seconds.
        (0..5).for_each(|_| load.client(|_| syncthing("GET", "/rest/events?since=1000000&timeout=5")));
        load
    }

    /// A client that does `job`, again and again, which says how many answers it has had.
    fn client(&mut self, job: impl Fn(&AtomicBool) -> Result<u64> + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        self.clients.push(std::thread::spawn(move || {
            while !shared.over.load(Ordering::Relaxed) {
                match job(&shared.over) {
                    Ok(answers) => shared.answers.fetch_add(answers, Ordering::Relaxed),
                    Err(_) => shared.failures.fetch_add(1, Ordering::Relaxed),
                };
                std::thread::sleep(PAUSE);
            }
        }));
    }

    /// Ends it and returns how many answers there were, and failures.
    pub(super) fn end(mut self) -> (u64, u64) {
        self.stop();
        (self.shared.answers.load(Ordering::Relaxed), self.shared.failures.load(Ordering::Relaxed))
    }

    fn stop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

fn syncthing(method: &str, path: &str) -> Result<u64> {
    request(port::SYNCTHING, method, path, &[SYNCTHING_KEY], "").map(|_| 1)
}

/// One of the keys from `key0` to `key7`, in base64 as etcd's gateway wants it.
fn put(n: usize, _: &AtomicBool) -> Result<u64> {
    let key = format!("a2V5{}==", ["MA", "MQ", "Mg", "Mw", "NA", "NQ", "Ng", "Nw"][n % 8]);
    let body = format!("{{\"key\":\"{key}\",\"value\":\"{key}\"}}");
    request(port::ETCD, "POST", "/v3/kv/put", &[], &body)?;
    request(port::ETCD, "POST", "/v3/kv/range", &[], &format!("{{\"key\":\"{key}\"}}"))?;
    Ok(2)
}

/// Watches all of these keys for a while.
fn watch(over: &AtomicBool) -> Result<u64> {
    let mut stream = connect(port::ETCD)?;
    // From "key" to before "kez".
    let body = "{\"create_request\":{\"key\":\"a2V5\",\"range_end\":\"a2V6\"}}";
    let length = body.len();
    write!(stream, "POST /v3/watch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut events = 0;
    read_until(stream, over, 3 * STAYS, |line, _| {
        events += u64::from(line.contains("\"events\""));
        Ok(())
    })?;
    Ok(events)
}

/// Subscribes to one of eight subjects, and takes what comes for a while.
fn subscribe(n: usize, over: &AtomicBool) -> Result<u64> {
    let mut stream = connect(port::NATS)?;
    write!(stream, "CONNECT {{\"verbose\":false}}\r\nSUB silence.{} 1\r\n", n % 8)?;
    // Every other one stays.
    let stays = if n.is_multiple_of(2) { STAYS } else { 1000 * STAYS };
    let mut messages = 0;
    read_until(stream, over, stays, |line, stream| {
        messages += u64::from(line.starts_with("MSG "));
        if line.starts_with("PING") {
            stream.write_all(b"PONG\r\n")?;
        }
        Ok(())
    })?;
    Ok(messages)
}

/// Sends messages for a while.
fn publish(n: usize, over: &AtomicBool) -> Result<u64> {
    let mut stream = connect(port::NATS)?;
    stream.write_all(b"CONNECT {\"verbose\":false}\r\n")?;
    let (begin, mut sent) = (Instant::now(), 0);
    while begin.elapsed() < STAYS && !over.load(Ordering::Relaxed) {
        write!(stream, "PUB silence.{n} 5\r\nhello\r\n")?;
        sent += 1;
        std::thread::sleep(PAUSE);
    }
    // The server has read all when it answers.
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 4096];
    ensure!(stream.read(&mut answer)? > 0, "closed");
    Ok(sent)
}

/// Hands on each line that comes within some time.
fn read_until(
    stream: TcpStream,
    over: &AtomicBool,
    time: Duration,
    mut each: impl FnMut(&str, &mut TcpStream) -> Result<()>,
) -> Result<()> {
    stream.set_read_timeout(Some(POLL))?;
    let (begin, mut answers) = (Instant::now(), stream.try_clone()?);
    let (mut lines, mut line) = (BufReader::new(stream), Vec::new());
    while begin.elapsed() < time && !over.load(Ordering::Relaxed) {
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {
                each(&String::from_utf8_lossy(&line), &mut answers)?;
                line.clear();
            }
            // What has come of the line stays.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
