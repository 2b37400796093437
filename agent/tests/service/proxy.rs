//! A network between agent and broker that can lose or hold up what the broker answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Takes connections for a broker for as long as the test program runs.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    faults: Arc<Faults>,
}

/// What happens to the broker's answers.
#[derive(Default)]
struct Faults {
    lose: AtomicBool,
    hold: AtomicBool,
}

impl Proxy {
    pub(crate) fn start(broker: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                // Without the broker, the connection ends at once.
                let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) else { continue };
                let (from_agent, from_broker) = (agent.try_clone().unwrap(), broker.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                spawn(move || pass(from_agent, broker, &Faults::default()));
                spawn(move || pass(from_broker, agent, &shared));
            }
        });
        Proxy { port, faults }
    }

    /// From now on, what the broker answers is lost, or not any more.
    pub(crate) fn lose_answers(&self, lose: bool) {
        self.faults.lose.store(lose, Ordering::SeqCst);
    }

    /// From now on, of what the broker answers only the first piece of each connection, its CONNACK, gets
    /// through; the rest when it is let go again.
    pub(crate) fn hold_answers(&self, hold: bool) {
        self.faults.hold.store(hold, Ordering::SeqCst);
    }
}

/// Copies until one side has closed, then closes the other.
fn pass(mut from: TcpStream, mut to: TcpStream, faults: &Faults) {
    let (mut bytes, mut first) = ([0; 4096], true);
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        while !first && faults.hold.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(1));
        }
        first = false;
        if !faults.lose.load(Ordering::SeqCst) && to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
