//! The real link to a real broker over TLS 1.3, with what the tests of the link are made of.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "it belongs to the tests"
)]

#[path = "../../../tests/link/broker.rs"]
mod broker;
#[path = "../../../tests/link/certificates.rs"]
mod certificates;
#[path = "../../../tests/common/mod.rs"]
mod common;
#[path = "../../../tests/link/driven.rs"]
mod driven;

use broker::Mosquitto;
use certificates::{Authority, BROKER, GOOD};
use common::Folder;
use driven::Driven;
use goleakguard::link::{LinkEvent, Message};

pub(crate) use driven::DEVICE;

/// Seconds between keep-alives here: the shortest that the tests use.
pub(crate) const KEEP_ALIVE_S: u64 = 5;

/// A link that is up. It ends when this is dropped.
pub(crate) struct Stand {
    link: Driven,
    _broker: Mosquitto,
    _folder: Folder,
}

impl Stand {
    /// Returns once the broker has let the link in; panics when something is missing.
    pub(crate) fn start() -> Stand {
        let folder = Folder::new();
        let authority = Authority::new(&folder, "authority");
        let own = authority.broker(&folder, "broker", GOOD);
        let device = authority.device(&folder, "device", GOOD);
        let ca = authority.file.display();
        let lines = format!(
            "cafile {ca}\ncertfile {}\nkeyfile {}\nrequire_certificate true\ntls_version tlsv1.3\n\
             max_topic_alias 10\n",
            own.cert.display(),
            own.key.display()
        );
        let broker = Mosquitto::start(&folder, &lines);
        let more = format!(
            "tls = true\nca_file = \"{ca}\"\nserver_name = \"{BROKER}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
            device.cert.display(),
            device.key.display()
        );
        let link = Driven::start(&driven::config(&folder, broker.port, &more), false);
        link.says(&LinkEvent::Up);
        Stand { link, _broker: broker, _folder: folder }
    }

    /// Bytes so far, headers of TCP and IP included: the link's own ledger.
    pub(crate) fn bytes(&self) -> u64 {
        self.link.airtime.bytes()
    }

    /// Returns once the broker has acknowledged it.
    pub(crate) fn send(&self, message: Message) {
        let seq = message.seq;
        self.link.send(message);
        self.link.says(&LinkEvent::Acknowledged(seq));
    }
}
