//! TLS 1.3 with client certificates, for the agent and for `glg`: rustls with ring.
//!
//! Certificates get rotated under a running agent, so their files are read again for each connection; and what
//! is wrong with them is told apart ([`TlsError`]), because each mistake is mended by somebody else.
#![forbid(unsafe_code)]

mod error;
mod files;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

pub use error::TlsError;
pub use tokio_rustls::rustls;

use files::Files;

/// Brokers whose sessions are remembered: one, with the few tickets it sends.
const REMEMBERED: usize = 4;

/// Where the certificates are, and what is said in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// PEM file of the certificates of those who may have issued the broker's.
    pub ca: PathBuf,
    /// PEM files of our own certificate, with its chain, and of its private key; `None` logs in without.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Protocol names to offer (ALPN); none when empty.
    pub alpn: Vec<String>,
    /// Name to look for in the broker's certificate.
    pub server_name: String,
}

/// Makes TLS connections.
#[derive(Debug)]
pub struct Tls {
    settings: Settings,
    name: ServerName<'static>,
    /// Made from files with this hash: with the same files the last session is taken up again, which halves the
    /// handshake.
    last: Mutex<Option<(u64, Arc<ClientConfig>)>>,
}

impl Tls {
    /// Looks at no file yet.
    ///
    /// # Errors
    /// [`TlsError::BadName`].
    pub fn new(settings: Settings) -> Result<Tls, TlsError> {
        let name = ServerName::try_from(settings.server_name.clone());
        let name = name.map_err(|_| TlsError::BadName(settings.server_name.clone()))?;
        Ok(Tls { settings, name, last: Mutex::new(None) })
    }

    /// Reads the files and checks that they belong together.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn check(&self) -> Result<(), TlsError> {
        self.config().map(drop)
    }

    /// Reads the files, then shakes hands over `stream`. Whether the broker takes our certificate shows only when it
    /// answers for the first time; [`TlsError::of`] recognises that in the error of a read or write.
    ///
    /// # Errors
    /// What is wrong with a file, with the broker's certificate, or with the connection.
    pub async fn connect<S>(&self, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.config()?);
        connector.connect(self.name.clone(), stream).await.map_err(TlsError::handshake)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let files = Files::read(&self.settings)?;
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        let hash = hasher.finish();
        // Nothing can panic while it is held.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = &*last
            && *of == hash
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.build(&files)?);
        *last = Some((hash, Arc::clone(&config)));
        Ok(config)
    }

    fn build(&self, files: &Files) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in files.authorities(&self.settings.ca)? {
            roots.add(certificate).map_err(|error| TlsError::malformed(&self.settings.ca, &error))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Other)?
            .with_root_certificates(roots);
        let mut config = match &self.settings.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let (chain, private) = files.own(certificate, key)?;
                let made = builder.with_client_auth_cert(chain, private);
                made.map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => {
                        TlsError::KeyMismatch(certificate.clone(), key.clone())
                    }
                    error @ rustls::Error::InvalidCertificate(_) => TlsError::malformed(certificate, &error),
                    error => TlsError::malformed(key, &error),
                })?
            }
        };
        config.alpn_protocols = self.settings.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        config.resumption = Resumption::in_memory_sessions(REMEMBERED);
        Ok(config)
    }
}
