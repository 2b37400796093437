//! The link between a device and its broker, which can be taken away: a port of the loopback interface that passes
//! everything on, or nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// Bytes passed on at a time.
const PIECE: usize = 4096;

/// The link. It ends with the process: a thread waits for connections.
pub(crate) struct Proxy {
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    up: bool,
    /// Both ends of what is connected.
    streams: Vec<TcpStream>,
}

impl Proxy {
    /// One that passes on to this port.
    pub(crate) fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for the link")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State { up: true, streams: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Whoever is refused here comes again.
                let _ = connect(&shared, near, to);
            }
        });
        Ok(Self { port, state })
    }

    /// Takes the link away, in the middle of whatever passes.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.up = false;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Gives it back.
    pub(crate) fn restore(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).up = true;
    }
}

fn connect(state: &Mutex<State>, near: TcpStream, to: u16) -> std::io::Result<()> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if !state.up {
        return near.shutdown(Shutdown::Both);
    }
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
    state.streams.push(near.try_clone()?);
    state.streams.push(far.try_clone()?);
    let (near_again, far_again) = (near.try_clone()?, far.try_clone()?);
    std::thread::spawn(move || pass(near, far));
    std::thread::spawn(move || pass(far_again, near_again));
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = [0; PIECE];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        if to.write_all(piece.get(..len).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
