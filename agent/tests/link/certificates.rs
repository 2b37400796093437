//! Certificates made for a test, good and bad ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::common::Folder;

/// The name in the certificates of brokers.
pub(crate) const BROKER: &str = "broker.test";

/// When a certificate is valid, in years.
#[derive(Clone, Copy)]
pub(crate) struct Years(i32, i32);

pub(crate) const GOOD: Years = Years(2020, 2090);
pub(crate) const OVER: Years = Years(2020, 2021);
pub(crate) const FUTURE: Years = Years(2089, 2090);

/// Somebody who issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub(crate) file: PathBuf,
}

/// Files of a certificate and its private key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Folder, name: &str) -> Authority {
        let mut params = params(&[], name, GOOD);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let file = folder.path().join(format!("{name}.pem"));
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), file }
    }

    /// For a broker that calls itself [`BROKER`].
    pub(crate) fn broker(&self, folder: &Folder, file: &str, years: Years) -> Identity {
        self.issue(folder, file, &[BROKER], years, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a device.
    pub(crate) fn device(&self, folder: &Folder, file: &str, years: Years) -> Identity {
        self.issue(folder, file, &[], years, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        folder: &Folder,
        file: &str,
        names: &[&str],
        years: Years,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Identity {
        let mut params = params(names, file, years);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) =
            (folder.path().join(format!("{file}.pem")), folder.path().join(format!("{file}.key")));
        fs::write(&cert_file, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
        Identity { cert: cert_file, key: key_file }
    }
}

fn params(names: &[&str], name: &str, Years(from, to): Years) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}
