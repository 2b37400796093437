//! A link of 32 kbit/s between agent and broker, which is cut where it is told to.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// Bytes a second, each way: 32 kbit/s.
pub(crate) const BYTES_A_SECOND: u64 = 4096;
/// Bytes that pass at once: an eighth of a second.
const PIECE: usize = 512;

/// Where the link is cut, in bytes that the agent has sent since the link began.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Exactly there: what is being sent does not arrive.
    Sent(u64),
    /// At the first answer after that: what was sent has arrived, and the agent does not know.
    Answered(u64),
}

/// Takes connections for a broker for as long as the test program runs.
pub(crate) struct Thin {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    up: AtomicU64,
    down: AtomicU64,
    made: AtomicU64,
    cut: AtomicU64,
    /// In the order in which they are to come.
    cuts: Mutex<VecDeque<Cut>>,
    lose_answer: AtomicBool,
}

impl Thin {
    pub(crate) fn start(broker: u16) -> Thin {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) else { continue };
                let (from_agent, from_broker) = (agent.try_clone().unwrap(), broker.try_clone().unwrap());
                shared.made.fetch_add(1, Ordering::SeqCst);
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                spawn(move || pass(from_agent, broker, |bytes| up.sent(bytes)));
                spawn(move || pass(from_broker, agent, |bytes| down.answered(bytes)));
            }
        });
        Thin { port, state }
    }

    /// Where it is to be cut, the first one first.
    pub(crate) fn cut_at(&self, cuts: impl IntoIterator<Item = Cut>) {
        self.state.cuts.lock().unwrap().extend(cuts);
    }

    /// How often it was cut, and how many connections were made.
    pub(crate) fn cuts_and_connections(&self) -> (u64, u64) {
        (self.state.cut.load(Ordering::SeqCst), self.state.made.load(Ordering::SeqCst))
    }

    /// Bytes that the agent has sent.
    pub(crate) fn up(&self) -> u64 {
        self.state.up.load(Ordering::SeqCst)
    }

    /// Bytes that passed, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.up() + self.state.down.load(Ordering::SeqCst)
    }
}

impl State {
    /// How many of these bytes of the agent pass; the link is cut behind them if they are fewer.
    fn sent(&self, bytes: usize) -> usize {
        let (before, mut cuts) = (self.up.load(Ordering::SeqCst), self.cuts.lock().unwrap());
        let until = before + bytes as u64;
        let passed = match cuts.front() {
            Some(Cut::Sent(at)) if *at < until => {
                self.cut.fetch_add(1, Ordering::SeqCst);
                at.saturating_sub(before)
            }
            Some(Cut::Answered(at)) if *at < until => {
                self.lose_answer.store(true, Ordering::SeqCst);
                bytes as u64
            }
            _ => {
                self.up.store(until, Ordering::SeqCst);
                return bytes;
            }
        };
        cuts.pop_front();
        self.up.store(before + passed, Ordering::SeqCst);
        passed.try_into().unwrap()
    }

    /// Likewise, of the broker's bytes.
    fn answered(&self, bytes: usize) -> usize {
        if self.lose_answer.swap(false, Ordering::SeqCst) {
            self.cut.fetch_add(1, Ordering::SeqCst);
            return 0;
        }
        self.down.fetch_add(bytes as u64, Ordering::SeqCst);
        bytes
    }
}

/// Copies as fast as the link is until one side has closed or the link is cut.
fn pass(mut from: TcpStream, mut to: TcpStream, passing: impl Fn(usize) -> usize) {
    let (mut bytes, mut free) = ([0; PIECE], Instant::now());
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        free = free.max(Instant::now())
            + Duration::from_secs(len as u64) / u32::try_from(BYTES_A_SECOND).unwrap();
        sleep(free.saturating_duration_since(Instant::now()));
        let passed = passing(len);
        if to.write_all(&bytes[..passed]).is_err() || passed < len {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
