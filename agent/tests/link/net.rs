//! A network between link and broker that can be cut, go deaf, and be looked into.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

/// Takes connections for a broker for as long as the test program runs.
pub(crate) struct Net {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// No connections at all.
    closed: AtomicBool,
    /// What the broker answers is lost, on each connection that this meets for the rest of it.
    no_answers: AtomicBool,
    /// What anybody says is lost, likewise.
    deaf: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
    made: AtomicU64,
    bytes: AtomicU64,
    /// What the link has sent, from all connections, while this is wanted.
    sent: Mutex<Option<Vec<u8>>>,
}

impl Net {
    pub(crate) fn start(broker: u16) -> Net {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        spawn(move || {
            for link in listener.incoming().map_while(Result::ok) {
                if shared.closed.load(Ordering::SeqCst) {
                    continue;
                }
                // Without the broker, the connection ends at once.
                let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) else { continue };
                for stream in [&link, &broker] {
                    stream.set_nodelay(true).unwrap();
                }
                let (from_link, from_broker) = (link.try_clone().unwrap(), broker.try_clone().unwrap());
                let mut connections = shared.connections.lock().unwrap();
                connections.clear(); // there is one at a time
                connections.extend([link.try_clone().unwrap(), broker.try_clone().unwrap()]);
                drop(connections);
                shared.made.fetch_add(1, Ordering::SeqCst);
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                spawn(move || pass(from_link, broker, &up, true));
                spawn(move || pass(from_broker, link, &down, false));
            }
        });
        Net { port, state }
    }

    /// Ends the connection there is, and takes no more until told otherwise.
    pub(crate) fn close(&self) {
        self.state.closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Connections may be made again, and are good.
    pub(crate) fn open(&self) {
        for fault in [&self.state.no_answers, &self.state.deaf, &self.state.closed] {
            fault.store(false, Ordering::SeqCst);
        }
    }

    /// Ends the connection there is.
    pub(crate) fn cut(&self) {
        for stream in self.state.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on what the broker answers is lost.
    pub(crate) fn lose_answers(&self) {
        self.state.no_answers.store(true, Ordering::SeqCst);
    }

    /// From now on everything is lost, as on a connection that a router has forgotten.
    pub(crate) fn go_deaf(&self) {
        self.state.deaf.store(true, Ordering::SeqCst);
    }

    /// Connections made so far.
    pub(crate) fn made(&self) -> u64 {
        self.state.made.load(Ordering::SeqCst)
    }

    /// Bytes that came through, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::SeqCst)
    }

    /// Begins to keep what the link sends.
    pub(crate) fn listen(&self) {
        *self.state.sent.lock().unwrap() = Some(Vec::new());
    }

    /// What the link has sent since.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.state.sent.lock().unwrap().clone().expect("listening")
    }
}

/// Copies until one side has closed, then closes the other.
fn pass(mut from: TcpStream, mut to: TcpStream, state: &State, up: bool) {
    let (mut bytes, mut lost) = ([0; 4096], false);
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        // What was lost leaves a hole that no later byte may follow.
        lost |= state.deaf.load(Ordering::SeqCst) || !up && state.no_answers.load(Ordering::SeqCst);
        if up && let Some(sent) = &mut *state.sent.lock().unwrap() {
            sent.extend_from_slice(&bytes[..len]);
        }
        state.bytes.fetch_add(len as u64, Ordering::SeqCst);
        if !lost && to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
