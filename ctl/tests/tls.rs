//! `glg watch` at a real broker that wants certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{Broker, Glg, free_port, online, payload, topic};
use glg_proto::topics::Topic;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Certificates of an authority, of a broker `broker.test` and of a workshop, as files of a folder.
struct Certificates(PathBuf);

impl Certificates {
    fn new() -> Certificates {
        let folder = std::env::temp_dir().join(format!("glg-tls-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let made = Certificates(folder);
        let (mut authority, key) = (params("authority"), KeyPair::generate().unwrap());
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(made.file("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        for name in ["broker", "workshop"] {
            let key = KeyPair::generate().unwrap();
            let certificate = params(&format!("{name}.test")).signed_by(&key, &issuer).unwrap();
            fs::write(made.file(&format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(made.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(made.file(&format!("{name}.key")), private).unwrap();
        }
        made
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    // An issuer and whom it has issued for must not be of one name.
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

#[test]
fn messages_come_through_tls_and_what_is_wrong_is_said() {
    let certificates = Certificates::new();
    let file = |name: &str| certificates.file(name);
    let secure = free_port();
    // Started by root it would change to a user who cannot read the key.
    let user = if fs::read_dir("/root").is_ok() { "user root\n" } else { "" };
    let broker = Broker::start_with(
        free_port(),
        &format!(
            "{user}listener {secure} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n\
             require_certificate true\n",
            file("ca.pem"),
            file("broker.pem"),
            file("broker.key")
        ),
    );
    broker.publish(&[(&topic(Topic::State), &payload(&online()), true)]);
    let (ca, cert, key) = (file("ca.pem"), file("workshop.pem"), file("workshop.key"));
    let tls = ["--tls", "--ca", &ca];
    let own = ["--cert", &cert, "--cert-key", &key];
    let named = ["--server-name", "broker.test", "--json", "--count", "1"];

    let mut glg = Glg::watch(secure, &[&tls[..], &own, &named].concat());
    glg.until_subscribed();
    assert!(glg.line().contains("\"van-7\""));
    assert!(glg.wait().success());

    let mut glg = Glg::watch(secure, &[&tls[..], &named].concat());
    let line = glg.complaint();
    assert!(
        line.contains(": the broker wants a client certificate: name one, with its key; again in "),
        "{line}"
    );
    let mut glg = Glg::watch(secure, &[&tls[..], &own, &["--server-name", "other.test"]].concat());
    let line = glg.complaint();
    assert!(line.contains(": the broker's certificate is for another name (broker.test): "), "{line}");
    // Without a readable file it does not even begin.
    let mut glg = Glg::watch(secure, &["--tls", "--ca", "/nowhere"]);
    assert_eq!(glg.complaint(), "glg: /nowhere cannot be read: No such file or directory (os error 2)");
    assert!(!glg.wait().success());
}
