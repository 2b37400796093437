//! TLS 1.3 with client certificates, and everything that can be wrong with certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use goleakguard::link::LinkEvent;

use super::broker::Mosquitto;
use super::certificates::{Authority, BROKER, FUTURE, GOOD, Identity, OVER};
use super::common::Folder;
use super::driven::{Driven, all_logged, config, logged, message};
use super::net::Net;

/// A broker that lets in whom `devices` has issued a certificate for.
fn broker(folder: &Folder, own: &Identity, devices: &Authority) -> Mosquitto {
    let lines = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\ntls_version tlsv1.3\n",
        devices.file.display(),
        own.cert.display(),
        own.key.display()
    );
    Mosquitto::start(folder, &lines)
}

/// Lines for `[mqtt]`.
fn lines(ca: &Path, own: Option<&Identity>, name: &str) -> String {
    let mut text = format!("tls = true\nca_file = \"{}\"\nserver_name = \"{name}\"\n", ca.display());
    if let Some(Identity { cert, key }) = own {
        text += &format!("cert_file = \"{}\"\nkey_file = \"{}\"\n", cert.display(), key.display());
    }
    text
}

#[test]
fn both_sides_show_their_certificates_and_messages_pass() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let device = authority.device(&folder, "device", GOOD);
    let mosquitto = broker(&folder, &authority.broker(&folder, "broker", GOOD), &authority);
    let net = Net::start(mosquitto.port);
    net.listen();
    let alpn = "alpn = [\"x-amzn-mqtt-ca\"]\n";
    let more = lines(&authority.file, Some(&device), BROKER) + alpn;
    let link = Driven::start(&config(&folder, net.port, &more), false);
    link.says(&LinkEvent::Up);
    let handshake = link.airtime.bytes();
    link.send(message(7, &[0x5a; 48]));
    link.says(&LinkEvent::Acknowledged(7));
    let alert = link.airtime.bytes() - handshake;

    let heard = net.heard();
    assert!(contains(&heard, b"x-amzn-mqtt-ca"), "the protocol's name is not offered");
    assert!(!contains(&heard, &[0x5a; 48]), "the message passed unencrypted");
    net.cut();
    link.says(&LinkEvent::Up);
    let again = link.airtime.bytes() - handshake - alert;
    println!(
        "with headers: handshake {handshake} B, an alert of 48 B {alert} B, the second handshake {again} B"
    );
    assert!((1500..5000).contains(&handshake) && (200..400).contains(&alert));
    assert!(again < handshake * 3 / 4, "the session was not taken up again");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn certificates_are_replaced_under_the_running_link() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let mosquitto = broker(&folder, &authority.broker(&folder, "broker", GOOD), &authority);
    let old = authority.device(&folder, "device", OVER);
    let port = mosquitto.port;
    let link = Driven::start(&config(&folder, port, &lines(&authority.file, Some(&old), BROKER)), false);
    logged(port, "the broker refuses our certificate as expired: renew it");
    // Into the same files.
    authority.device(&folder, "device", GOOD);
    link.says(&LinkEvent::Up);
    link.send(message(1, b"x"));
    link.says(&LinkEvent::Acknowledged(1));
}

/// Each mistake is told apart, in one line.
#[test]
fn what_is_wrong_with_certificates_is_said() {
    let folder = Folder::new();
    let (ours, theirs) = (Authority::new(&folder, "ours"), Authority::new(&folder, "theirs"));
    let device = ours.device(&folder, "device", GOOD);
    let stranger = theirs.device(&folder, "stranger", GOOD);
    let mixed = Identity { cert: device.cert.clone(), key: stranger.key.clone() };
    let brokers = [("good", GOOD), ("over", OVER), ("future", FUTURE)]
        .map(|(name, years)| broker(&folder, &ours.broker(&folder, name, years), &ours));
    let [good, over, future] = &brokers;
    let file = |name: &str, text: &[u8], mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let damaged = file("damaged.pem", b"-----BEGIN CERTIFICATE-----\nMIIB!\n", 0o644);
    let no_der = file("no-der.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
    let open_key = file("open.key", &fs::read(&device.key).unwrap(), 0o644);
    let open = Identity { cert: device.cert.clone(), key: open_key };
    let swapped = Identity { cert: device.cert.clone(), key: device.cert.clone() };
    fs::set_permissions(&device.cert, fs::Permissions::from_mode(0o640)).unwrap();
    let missing = folder.path().join("missing.pem");
    let own = Some(&device);

    let cases = [
        (over, lines(&ours.file, own, BROKER), "the broker's certificate has expired, "),
        (future, lines(&ours.file, own, BROKER), "the broker's certificate is not valid yet, for "),
        (
            good,
            lines(&theirs.file, own, BROKER),
            "issued by nobody we trust: put its issuer's certificate into the CA",
        ),
        (good, lines(&ours.file, own, "other.test"), "is for another name (broker.test): use that as host"),
        (
            good,
            lines(&ours.file, Some(&stranger), BROKER),
            "does not know its issuer: register that with the broker",
        ),
        (
            good,
            lines(&ours.file, None, BROKER),
            "the broker wants a client certificate: name one, with its key",
        ),
        (good, lines(&ours.file, Some(&mixed), BROKER), "stranger.key does not belong to the certificate "),
        (good, lines(&missing, own, BROKER), "missing.pem cannot be read: No such file"),
        (
            good,
            lines(&damaged, own, BROKER),
            "damaged.pem is not usable: it holds no certificate in PEM form",
        ),
        (good, lines(&no_der, own, BROKER), "no-der.pem is not usable: "),
        (good, lines(&ours.file, Some(&open), BROKER), "open.key is open to others (mode 0644): chmod 0600 "),
        (good, lines(&ours.file, Some(&swapped), BROKER), "it holds no private key in PEM form"),
    ];
    for (broker, more, complaint) in cases {
        // Each through a port of its own, so that its lines can be told from those of the others.
        let net = Net::start(broker.port);
        let link = Driven::start(&config(&folder, net.port, &more), false);
        let line = logged(net.port, complaint);
        println!("{line}");
        assert!(line.starts_with("WARN no link to ") && line.contains("; next attempt in "), "{line}");
        assert!(!line.contains('\n'));
        assert_eq!(link.next(), LinkEvent::Down);
        drop(link);
        let about_time = complaint.contains("expired") || complaint.contains("valid yet");
        assert_eq!(line.contains("clock"), about_time, "{line}");
        assert_eq!(line.contains("this device's clock "), about_time, "{line}");
        let all = all_logged(net.port);
        assert!(all.iter().all(|line| line.contains(complaint)), "{all:?}");
    }
}

#[test]
fn tls_with_a_broker_that_does_not_speak_it_is_said() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let plain = Mosquitto::start(&folder, "");
    let link = Driven::start(&config(&folder, plain.port, &lines(&authority.file, None, BROKER)), false);
    println!("{}", logged(plain.port, "speak TLS on this port"));
    drop(link);
}
