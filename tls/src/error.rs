//! What can be wrong with certificates, each with what to do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

/// Why there is no TLS connection. Prints one line that says what to do.
#[derive(Debug)]
pub enum TlsError {
    /// The name to look for in the broker's certificate is none.
    BadName(String),
    /// A file is missing or may not be read.
    Unreadable(PathBuf, io::Error),
    /// A file does not hold what it should.
    Malformed(PathBuf, String),
    /// Others may read or change the private key; with the file's mode.
    KeyTooOpen(PathBuf, u32),
    /// Certificate and key are not of one pair.
    KeyMismatch(PathBuf, PathBuf),
    /// By this machine's clock the broker's certificate has ended, this long ago where that is known.
    Expired(Option<Duration>),
    /// By this machine's clock the broker's certificate has not begun yet; it will in this time.
    NotYetValid(Option<Duration>),
    /// Nobody we trust has issued the broker's certificate.
    UnknownIssuer,
    /// The broker's certificate is for these other names.
    WrongName(Vec<String>),
    /// Something else is wrong with the broker's certificate.
    BadCertificate(CertificateError),
    /// The broker does not take our certificate, or misses one.
    ClientRefused(AlertDescription),
    /// The broker ended the handshake for another reason.
    Alert(AlertDescription),
    /// The other end does not speak TLS 1.3.
    NoTls13,
    /// The other end closed the connection in the middle of the handshake.
    Closed,
    /// Everything else that TLS can complain of.
    Other(Error),
    /// The network.
    Io(io::Error),
}

impl TlsError {
    pub(crate) fn malformed(path: &Path, what: &(impl fmt::Display + ?Sized)) -> TlsError {
        TlsError::Malformed(path.to_owned(), what.to_string())
    }

    /// What TLS complains of in an error of a read or write; `None` when it is not about TLS.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<TlsError> {
        error.get_ref()?.downcast_ref().map(|error: &Error| TlsError::from(error.clone()))
    }

    /// Why a handshake failed.
    pub(crate) fn handshake(error: io::Error) -> TlsError {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match TlsError::of(&error) {
            Some(known) => known,
            None if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) => TlsError::Closed,
            None => TlsError::Io(error),
        }
    }

    /// Whether a wrong clock of this machine could be the reason.
    #[must_use]
    pub fn is_about_time(&self) -> bool {
        matches!(self, TlsError::Expired(_) | TlsError::NotYetValid(_))
    }

    /// Whether the broker has refused us, and will until somebody has changed something.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, TlsError::ClientRefused(_))
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> TlsError {
        match error {
            Error::InvalidCertificate(error) => of_certificate(error),
            Error::AlertReceived(alert) => of_alert(alert),
            Error::PeerIncompatible(_) | Error::InvalidMessage(_) => TlsError::NoTls13,
            other => TlsError::Other(other),
        }
    }
}

fn of_certificate(error: CertificateError) -> TlsError {
    let between =
        |from: UnixTime, to: UnixTime| Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()));
    match error {
        CertificateError::Expired => TlsError::Expired(None),
        CertificateError::ExpiredContext { time, not_after } => {
            TlsError::Expired(Some(between(not_after, time)))
        }
        CertificateError::NotValidYet => TlsError::NotYetValid(None),
        CertificateError::NotValidYetContext { time, not_before } => {
            TlsError::NotYetValid(Some(between(time, not_before)))
        }
        CertificateError::UnknownIssuer => TlsError::UnknownIssuer,
        CertificateError::NotValidForName => TlsError::WrongName(Vec::new()),
        CertificateError::NotValidForNameContext { presented, .. } => TlsError::WrongName(presented),
        other => TlsError::BadCertificate(other),
    }
}

fn of_alert(alert: AlertDescription) -> TlsError {
    use AlertDescription as Alert;
    match alert {
        Alert::ProtocolVersion => TlsError::NoTls13,
        // RFC 8446, 6.2: these are about the certificate of who receives them.
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::CertificateRequired
        | Alert::NoCertificate => TlsError::ClientRefused(alert),
        alert => TlsError::Alert(alert),
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::BadName(name) => write!(f, "{name:?} cannot be the name in a certificate"),
            TlsError::Unreadable(path, error) => write!(f, "{} cannot be read: {error}", path.display()),
            TlsError::Malformed(path, what) => write!(f, "{} is not usable: {what}", path.display()),
            TlsError::KeyTooOpen(path, mode) => {
                let path = path.display();
                write!(f, "the private key {path} is open to others (mode {mode:04o}): chmod 0600 {path}")
            }
            TlsError::KeyMismatch(certificate, key) => {
                let (certificate, key) = (certificate.display(), key.display());
                write!(f, "the private key {key} does not belong to the certificate {certificate}")
            }
            TlsError::Expired(ago) => {
                f.write_str("the broker's certificate has expired")?;
                ago.map_or(Ok(()), |ago| write!(f, ", {} ago by this machine's clock", Span(ago)))?;
                f.write_str(": renew it, or set the clock")
            }
            TlsError::NotYetValid(time) => {
                f.write_str("the broker's certificate is not valid yet")?;
                time.map_or(Ok(()), |time| write!(f, ", for {} more by this machine's clock", Span(time)))?;
                f.write_str(": set the clock")
            }
            TlsError::UnknownIssuer => f.write_str(
                "the broker's certificate is issued by nobody we trust: put its issuer's certificate into the CA file",
            ),
            TlsError::WrongName(presented) => {
                write!(f, "the broker's certificate is for another name{}", Names(presented))?;
                f.write_str(": use that as host or as server name, or renew the certificate")
            }
            TlsError::BadCertificate(error) => {
                write!(f, "the broker's certificate is not usable ({error}): renew it")
            }
            TlsError::ClientRefused(alert) => write!(f, "{}", refusal(*alert)),
            TlsError::Alert(AlertDescription::NoApplicationProtocol) => {
                f.write_str("the broker speaks none of the protocols offered: see alpn")
            }
            TlsError::Alert(alert) => write!(f, "the broker ended the TLS handshake: {alert:?}"),
            TlsError::NoTls13 => {
                f.write_str("the broker does not speak TLS 1.3 on this port: see host and port, or the broker's TLS version")
            }
            TlsError::Other(error) => write!(f, "TLS: {error}"),
            TlsError::Closed => f.write_str(
                "the other end closed the connection during the TLS handshake: does the broker speak TLS on this port?",
            ),
            TlsError::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// What the broker said of our certificate, and what to do.
fn refusal(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => {
            "the broker wants a client certificate: name one, with its key"
        }
        Alert::CertificateExpired => "the broker refuses our certificate as expired: renew it",
        Alert::CertificateRevoked => "the broker refuses our certificate as revoked: get a new one",
        Alert::UnknownCA => {
            "the broker refuses our certificate because it does not know its issuer: register that with the broker"
        }
        Alert::AccessDenied => "the broker takes our certificate but denies access: see its access rules",
        _ => "the broker refuses our certificate: see the broker's log",
    }
}

/// `1234 d 5 h`, `5 h 12 min` or `12 min`.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0.as_secs() / 60;
        let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
        match (days, hours) {
            (0, 0) => write!(f, "{minutes} min"),
            (0, _) => write!(f, "{hours} h {minutes} min"),
            _ => write!(f, "{days} d {hours} h"),
        }
    }
}

/// The first few names of a certificate, in brackets. They come from outside.
struct Names<'n>(&'n [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().take(3).enumerate() {
            // As rustls writes them: DnsName("broker.example").
            let bare = name.strip_prefix("DnsName(\"").and_then(|name| name.strip_suffix("\")"));
            let short: String = bare.unwrap_or(name).chars().take(64).collect();
            write!(f, "{}{}", if index == 0 { " (" } else { ", " }, short.escape_debug())?;
        }
        f.write_str(if self.0.is_empty() { "" } else { ")" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [(59, "0 min"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")] {
            assert_eq!(Span(Duration::from_secs(seconds)).to_string(), text);
        }
    }

    #[test]
    fn names_from_outside_are_cut_and_escaped() {
        assert_eq!(Names(&["DnsName(\"a.b\")".to_owned()]).to_string(), " (a.b)");
        let names = ["a\n\u{1b}[2J".to_owned(), "b".repeat(300), "c".to_owned(), "d".to_owned()];
        let shown = Names(&names).to_string();
        assert!(shown.len() < 120 && !shown.contains(['\n', '\u{1b}']) && shown.ends_with(", c)"), "{shown}");
        assert_eq!(Names(&[]).to_string(), "");
    }

    #[test]
    fn an_error_that_is_not_about_tls_is_left_alone() {
        assert!(TlsError::of(&io::Error::other("else")).is_none());
        let alert = io::Error::other(Error::AlertReceived(AlertDescription::UnknownCA));
        let found = TlsError::of(&alert).unwrap();
        assert!(found.is_refusal() && !found.is_about_time());
    }
}
