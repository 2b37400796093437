//! Connections, watchers, logs, metrics: other libraries. See [`super`] for how rows are read.

use super::super::{Known, created, standing};

const GRPC: &[&str] = &[
    "google.golang.org/grpc",
    "google.golang.org/grpc/internal/grpcsync",
    "google.golang.org/grpc/internal/resolver/dns",
    "google.golang.org/grpc/internal/transport",
];
const QUIC: &[&str] = &["github.com/quic-go/quic-go", "github.com/lucas-clemente/quic-go"];
const SSH: &[&str] = &["golang.org/x/crypto/ssh"];

pub(super) const ROWS: &[Known] = &[
    // grpc-go 1.27.1 to 1.75.0 and newer: stream.go, newClientStreamWithParams (newClientStream until 1.33.3),
    // newNonRetryClientStream.
    created(
        "gRPC stream",
        "cancel of the stream's context",
        GRPC,
        &["newClientStream", "newClientStreamWithParams", "newNonRetryClientStream"],
    ),
    // The same: stream.go; the goroutine is the user's.
    standing(
        "gRPC stream",
        "cancel of the stream's context",
        GRPC,
        &["(*clientStream).RecvMsg", "(*addrConnStream).RecvMsg"],
    ),
    // The same: stream.go; the goroutine runs the user's handler.
    standing(
        "client of a gRPC server that is gone",
        "grpc.KeepaliveParams",
        GRPC,
        &["(*serverStream).RecvMsg"],
    ),
    // The same: internal/transport/http2_server.go, NewServerTransport (newHTTP2Server until 1.33.3); server.go.
    created(
        "client of a gRPC server that is gone",
        "grpc.KeepaliveParams",
        GRPC,
        &["NewServerTransport", "newHTTP2Server", "(*Server).handleRawConn"],
    ),
    // The same: clientconn.go, DialContext (until 1.57.0), connect (until 1.40.0); balancer_conn_wrappers.go,
    // newCCBalancerWrapper (until 1.54.0); internal/transport/http2_client.go, NewHTTP2Client (newHTTP2Client until
    // 1.64.0); internal/grpcsync/callback_serializer.go (1.57.0 and newer); internal/resolver/dns/dns_resolver.go.
    created(
        "gRPC connection",
        "(*grpc.ClientConn).Close",
        GRPC,
        &[
            "DialContext",
            "newCCBalancerWrapper",
            "(*addrConn).connect",
            "(*addrConn).startHealthCheck",
            "(*acBalancerWrapper).Connect",
            "newHTTP2Client",
            "NewHTTP2Client",
            "NewCallbackSerializer",
            "(*dnsBuilder).Build",
        ],
    ),
    // gorilla/websocket 1.0.0 to 1.5.3: conn.go; the goroutine is the user's.
    standing(
        "WebSocket connection",
        "(*websocket.Conn).Close",
        &["github.com/gorilla/websocket"],
        &["(*Conn).NextReader"],
    ),
    // coder/websocket 1.7.4 (init), 1.8.7 to 1.8.13 (newConn): conn.go; 1.7.4 to 1.8.15: read.go. nhooyr.io/websocket
    // until 1.8.11.
    created(
        "WebSocket connection",
        "(*websocket.Conn).Close",
        &["github.com/coder/websocket", "nhooyr.io/websocket"],
        &["newConn", "(*Conn).init", "(*Conn).CloseRead"],
    ),
    // quic-go 0.29.2, 0.35.0, 0.40.0, 0.50.0, 0.61.0: http3/client.go, dial (until 0.40.0), newClientConn (0.50.0 and
    // newer); http3/transport.go (0.61.0).
    created(
        "HTTP/3 client",
        "(*http3.Transport).Close",
        &["github.com/quic-go/quic-go/http3", "github.com/lucas-clemente/quic-go/http3"],
        &[
            "(*client).dial",
            "newClientConn",
            "(*Transport).dial",
            "(*Transport).getClient",
            "(*Transport).NewClientConn",
        ],
    ),
    // The same: client.go, dial (until 0.40.0); transport.go, doDial (0.50.0 and newer); connection.go, run.
    created(
        "QUIC connection",
        "quic.Conn.CloseWithError",
        QUIC,
        &["(*client).dial", "(*Transport).doDial", "(*connection).run", "(*Conn).run"],
    ),
    // The same: transport.go, init (0.35.0 and newer); packet_handler_map.go (until 0.50.0).
    created("QUIC transport", "(*quic.Transport).Close", QUIC, &["(*Transport).init", "newPacketHandlerMap"]),
    // The same: server.go, listen (0.29.2), newServer (0.35.0 and newer).
    created("QUIC listener", "(*quic.Listener).Close", QUIC, &["listen", "newServer"]),
    // yamux 0.1.0, 0.1.2: session.go.
    created("yamux session", "(*yamux.Session).Close", &["github.com/hashicorp/yamux"], &["newSession"]),
    // x/crypto 0.31.0, 0.55.0: ssh/session.go.
    created(
        "SSH session",
        "(*ssh.Session).Close",
        SSH,
        &["newSession", "(*Session).start", "(*Session).stdin"],
    ),
    // The same: ssh/mux.go, ssh/handshake.go, ssh/client.go.
    created(
        "SSH connection",
        "ssh.Conn.Close",
        SSH,
        &["newMux", "newClientTransport", "newServerTransport", "NewClient"],
    ),
    // fsnotify 1.4.9 to 1.6.0 (NewWatcher), 1.7.0 (NewBufferedWatcher), 1.9.0 and newer (newBackend):
    // backend_inotify.go, inotify.go; gopkg.in/fsnotify.v1 (Debian 1.6.0).
    created(
        "watcher of files",
        "(*fsnotify.Watcher).Close",
        &["github.com/fsnotify/fsnotify", "gopkg.in/fsnotify.v1"],
        &["NewWatcher", "NewBufferedWatcher", "newBackend"],
    ),
    // client-go 0.20.0, 0.26.0, 0.36.3: tools/cache/shared_informer.go, controller.go, reflector.go.
    standing(
        "Kubernetes informer",
        "close of the informer's stop channel",
        &["k8s.io/client-go/tools/cache"],
        &[
            "(*processorListener).run",
            "(*processorListener).pop",
            "(*sharedProcessor).run",
            "(*Reflector).Run",
            "(*Reflector).RunWithContext",
            "(*controller).Run",
            "(*controller).RunWithContext",
            "(*sharedIndexInformer).Run",
            "(*sharedIndexInformer).RunWithContext",
        ],
    ),
    // client-go 0.20.0 to 0.36.3: util/workqueue/delaying_queue.go; queue.go until 0.33.12.
    created(
        "Kubernetes work queue",
        "workqueue.Interface.ShutDown",
        &["k8s.io/client-go/util/workqueue"],
        &["newQueue", "newDelayingQueue"],
    ),
    // apimachinery 0.20.0, 0.26.0 (NewStreamWatcher), 0.36.3 (NewStreamWatcherWithLogger): pkg/watch/streamwatcher.go.
    created(
        "Kubernetes watch",
        "watch.Interface.Stop",
        &["k8s.io/apimachinery/pkg/watch"],
        &["NewStreamWatcher", "NewStreamWatcherWithLogger"],
    ),
    // The same: pkg/watch/mux.go.
    created(
        "Kubernetes event broadcaster",
        "(*watch.Broadcaster).Shutdown",
        &["k8s.io/apimachinery/pkg/watch"],
        &["NewBroadcaster", "NewLongQueueBroadcaster"],
    ),
    // opencensus 0.22.4, 0.24.0: stats/view/worker.go; that of the package itself is started in init.
    created("OpenCensus meter", "view.Meter.Stop", &["go.opencensus.io/stats/view"], &["(*worker).Start"]),
    // The same: metric/metricexport/reader.go.
    created(
        "OpenCensus reader",
        "(*metricexport.IntervalReader).Stop",
        &["go.opencensus.io/metric/metricexport"],
        &["(*IntervalReader).Start"],
    ),
    // opentelemetry-go 1.1.0, 1.10.0, 1.28.0, and 1.45.0 by WaitGroup.Go: sdk/trace/batch_span_processor.go.
    created(
        "OpenTelemetry span processor",
        "(*trace.TracerProvider).Shutdown",
        &["go.opentelemetry.io/otel/sdk/trace"],
        &["NewBatchSpanProcessor"],
    ),
    // opentelemetry-go 1.28.0, 1.45.0: sdk/metric/periodic_reader.go.
    created(
        "OpenTelemetry metric reader",
        "(*metric.MeterProvider).Shutdown",
        &["go.opentelemetry.io/otel/sdk/metric"],
        &["NewPeriodicReader"],
    ),
    // opentelemetry-go 1.28.0 (poll), 1.45.0 (process): sdk/log/batch.go.
    created(
        "OpenTelemetry log processor",
        "(*log.LoggerProvider).Shutdown",
        &["go.opentelemetry.io/otel/sdk/log"],
        &["(*BatchProcessor).poll", "(*BatchProcessor).process"],
    ),
    // sentry-go 0.13.0, 0.33.0, 0.47.0: transport.go.
    created(
        "Sentry client",
        "(*sentry.Client).Close",
        &["github.com/getsentry/sentry-go"],
        &["(*HTTPTransport).Configure"],
    ),
    // zap 1.20.0, 1.28.0: zapcore/buffered_write_syncer.go.
    created(
        "buffered log of zap",
        "(*zapcore.BufferedWriteSyncer).Stop",
        &["go.uber.org/zap/zapcore"],
        &["(*BufferedWriteSyncer).initialize"],
    ),
    // lumberjack 2.0.0, 2.2.1: lumberjack.go; its Close does not end them.
    created(
        "lumberjack log, which has no end",
        "reuse of one lumberjack.Logger",
        &["gopkg.in/natefinch/lumberjack.v2"],
        &["(*Logger).mill"],
    ),
    // robfig/cron 1.2.0, 3.0.1: cron.go.
    created("cron", "(*cron.Cron).Stop", &["github.com/robfig/cron"], &["(*Cron).Start"]),
    // miekg/dns 1.1.72: xfr.go; the channel is not read to its end.
    created(
        "DNS zone transfer",
        "reading (*dns.Transfer).In to its end",
        &["github.com/miekg/dns"],
        &["(*Transfer).In"],
    ),
    // x/sync: semaphore/semaphore.go; the goroutine is the user's.
    standing(
        "wait for a semaphore",
        "(*semaphore.Weighted).Release",
        &["golang.org/x/sync/semaphore"],
        &["(*Weighted).Acquire"],
    ),
];
