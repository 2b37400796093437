//! From the network's socket to what MQTT is spoken over: counted, and inside of TLS where that is wanted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use glg_tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::airtime::Airtime;

/// Makes connections to the broker.
pub(super) struct Dialer {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
    pub(super) airtime: Airtime,
}

impl Dialer {
    /// An error that TLS has to tell comes wrapped into the [`io::Error`] that the MQTT client takes.
    pub(super) async fn dial(self: Arc<Dialer>) -> io::Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        self.airtime.connected();
        // Packets are written whole: waiting for more would only delay them.
        tcp.set_nodelay(true)?;
        let counted = Counted { tcp, airtime: self.airtime.clone() };
        match &self.tls {
            None => Ok(Box::new(counted)),
            Some(tls) => Ok(Box::new(tls.connect(counted).await.map_err(io::Error::other)?)),
        }
    }
}

/// What the MQTT client wants of a connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// Counts what passes.
struct Counted {
    tcp: TcpStream,
    airtime: Airtime,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.airtime.read(buf.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, bytes))?;
        self.airtime.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
