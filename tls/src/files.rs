//! Certificates and keys in PEM files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{Settings, TlsError};

/// Bytes of a file at most: room for a few dozen certificates.
const FILE_MAX: u64 = 256 * 1024;
/// What a private key's file may not let others do: its group may read it, nobody else may do anything.
const TOO_OPEN: u32 = 0o037;

/// What the files hold.
#[derive(Hash)]
pub(crate) struct Files {
    authorities: Vec<u8>,
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    pub(crate) fn read(settings: &Settings) -> Result<Files, TlsError> {
        let authorities = read(&settings.ca, 0)?;
        let own = match &settings.own {
            Some((certificate, key)) => Some((read(certificate, 0)?, read(key, TOO_OPEN)?)),
            None => None,
        };
        Ok(Files { authorities, own })
    }

    pub(crate) fn authorities(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.authorities, path)
    }

    pub(crate) fn own(
        &self,
        certificate: &Path,
        key: &Path,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let (chain, private) = self.own.as_ref().map_or((&[][..], &[][..]), |(c, k)| (c, k));
        let chain = certificates(chain, certificate)?;
        let private = PrivateKeyDer::from_pem_slice(private);
        Ok((chain, private.map_err(|_| TlsError::malformed(key, "it holds no private key in PEM form"))?))
    }
}

/// Also what is not a regular file is read: a pipe of a secret store, for one.
fn read(path: &Path, too_open: u32) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::Unreadable(path.to_owned(), error);
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & too_open != 0 {
        return Err(TlsError::KeyTooOpen(path.to_owned(), mode));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(TlsError::malformed(path, "it is too long"));
    }
    Ok(bytes)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::malformed(path, "it holds no certificate in PEM form")),
    }
}
