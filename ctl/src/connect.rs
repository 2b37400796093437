//! How `glg` comes to the broker: its options, TLS included, the same for every command that needs one.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use glg_tls::{Settings, Tls, TlsError};
use rumqttc::mqttbytes::Error as MqttError;
use rumqttc::{ConnectionError, MqttOptions, StateError};
use tokio::net::TcpStream;

/// Largest packet the broker may send: more than any broker's own limit for what devices send.
const PACKET_MAX: u32 = 256 * 1024;
/// Seconds of silence after which the broker is asked whether it is still there.
const KEEP_ALIVE_S: u16 = 30;
/// Ports that are registered for MQTT, without and with TLS.
const PORTS: [u16; 2] = [1883, 8883];

/// Where the broker is and how to log in.
#[derive(clap::Args)]
#[group(skip)] // its name would be that of the other options it stands in
pub(crate) struct Options {
    /// Host name or address of the broker
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// TCP port of the broker
    #[arg(long, default_value_t = PORTS[0], default_value_if("tls", "true", "8883"))]
    pub(crate) port: u16,
    /// User name at the broker
    #[arg(long, requires = "password_file")]
    username: Option<String>,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// Speak TLS 1.3
    #[arg(long, requires = "ca")]
    tls: bool,
    /// PEM file of the certificates that may have issued the broker's
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca: Option<PathBuf>,
    /// PEM file of your own certificate
    #[arg(long, value_name = "FILE", requires = "tls", requires = "cert_key")]
    cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    cert_key: Option<PathBuf>,
    /// Name to look for in the broker's certificate, when that is not the host
    #[arg(long, value_name = "NAME", requires = "tls")]
    server_name: Option<String>,
    /// Protocol name to offer (ALPN), may be given several times
    #[arg(long, value_name = "NAME", requires = "tls")]
    alpn: Vec<String>,
}

/// Options from which any number of connections can be made.
pub(crate) struct Connect(MqttOptions);

impl Options {
    /// Reads what has to be read, and tells at once what is wrong with it; `purpose` becomes part of the client id.
    pub(crate) fn prepare(&self, purpose: &str) -> Result<Connect> {
        let id = format!("glg-{purpose}-{:016x}", random());
        let mut connect = MqttOptions::new(id, (self.host.as_str(), self.port));
        connect.set_keep_alive(KEEP_ALIVE_S);
        connect.set_clean_start(true);
        // Little is published here; the default would set aside room for 65,535 publishes.
        connect.set_outgoing_inflight_upper_limit(4);
        connect.set_max_packet_size(Some(PACKET_MAX));
        if let (Some(user), Some(file)) = (&self.username, &self.password_file) {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            connect.set_credentials(user.clone(), text.lines().next().unwrap_or_default().to_owned());
        }
        if let (true, Some(ca)) = (self.tls, &self.ca) {
            let tls = Arc::new(Tls::new(self.settings(ca.clone()))?);
            tls.check()?;
            let address = (self.host.clone(), self.port);
            connect.set_socket_connector(move |_, _| dial(Arc::clone(&tls), address.clone()));
        }
        Ok(Connect(connect))
    }

    fn settings(&self, ca: PathBuf) -> Settings {
        Settings {
            ca,
            own: self.cert.clone().zip(self.cert_key.clone()),
            alpn: self.alpn.clone(),
            server_name: self.server_name.clone().unwrap_or_else(|| self.host.clone()),
        }
    }
}

impl Connect {
    /// For one more connection.
    pub(crate) fn options(&self) -> MqttOptions {
        self.0.clone()
    }
}

async fn dial(
    tls: Arc<Tls>,
    (host, port): (String, u16),
) -> io::Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Sync + Unpin + 'static> {
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    tls.connect(tcp).await.map_err(io::Error::other)
}

/// Why there is no connection, in words that say what to do where we know.
pub(crate) fn reason(error: &ConnectionError) -> String {
    let inner = match error {
        ConnectionError::Io(inner)
        | ConnectionError::MqttState(
            StateError::Io(inner) | StateError::Deserialization(MqttError::Io(inner)),
        ) => inner,
        other => return other.to_string(),
    };
    let ours = inner.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    match (ours, TlsError::of(inner)) {
        (Some(known), _) => known.to_string(),
        (None, Some(known)) => known.to_string(),
        (None, None) => error.to_string(),
    }
}

/// A random number; the standard library seeds each of its hashers from the system.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Between half of `wait` and all of it: many of us must not come back in step.
pub(crate) fn jittered(wait: Duration) -> Duration {
    let half = wait / 2;
    let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    half + Duration::from_millis(random() % spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_half_and_whole() {
        let most = Duration::from_secs(30);
        for _ in 0..1000 {
            let wait = jittered(most);
            assert!(wait >= most / 2 && wait <= most);
        }
    }
}
