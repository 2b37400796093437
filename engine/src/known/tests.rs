//! Names as programs have them. Those of libraries are from their sources, see the table; those with `%2e` are how
//! Go's linker writes dots in the last element of an import path.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use alloc::collections::BTreeSet;
use alloc::format;

use glg_proto::wire::{FUNCTION_MAX, MISSING_MAX, tail};

use super::*;

fn call_of(created_by: &str, frames: &[&str]) -> Option<&'static str> {
    recognise(created_by, frames.iter().copied()).map(|known| known.call)
}

/// What a creator tells, whole or cut as in an alert: the cut must not change it.
fn told(created_by: &str) -> Option<&'static str> {
    let whole = recognise_creator(created_by).map(|known| known.call);
    let cut: heapless::String<FUNCTION_MAX> = tail(created_by);
    assert_eq!(recognise_creator(&cut).map(|known| known.call), whole, "{created_by}, cut to {cut}");
    whole
}

#[test]
fn creators_tell_the_call() {
    for (created_by, call) in [
        ("google.golang.org/grpc.DialContext", "(*grpc.ClientConn).Close"),
        ("google.golang.org/grpc.newCCBalancerWrapper", "(*grpc.ClientConn).Close"),
        ("google.golang.org/grpc/internal/grpcsync.NewCallbackSerializer", "(*grpc.ClientConn).Close"),
        ("google.golang.org/grpc/internal/transport.newHTTP2Client", "(*grpc.ClientConn).Close"),
        ("google.golang.org/grpc/internal/transport.NewHTTP2Client", "(*grpc.ClientConn).Close"),
        ("google.golang.org/grpc/internal/resolver/dns.(*dnsBuilder).Build", "(*grpc.ClientConn).Close"),
        ("google.golang.org/grpc/internal/transport.NewServerTransport", "grpc.KeepaliveParams"),
        ("google.golang.org/grpc.newClientStreamWithParams", "cancel of the stream's context"),
        ("go.mongodb.org/mongo-driver/x/mongo/driver/topology.newPool", "(*mongo.Client).Disconnect"),
        (
            "go.mongodb.org/mongo-driver/x/mongo/driver/topology.(*Server).Connect",
            "(*mongo.Client).Disconnect",
        ),
        ("go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology.newPool", "(*mongo.Client).Disconnect"),
        (
            "go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology.(*rttMonitor).connect",
            "(*mongo.Client).Disconnect",
        ),
        ("gopkg.in/mgo%2ev2.newCluster", "(*mgo.Session).Close"),
        ("github.com/eclipse/paho%2emqtt%2egolang.(*client).startCommsWorkers", "mqtt.Client.Disconnect"),
        ("github.com/eclipse/paho%2emqtt%2egolang.startComms", "mqtt.Client.Disconnect"),
        ("github.com/eclipse/paho.golang/paho.(*Client).Connect", "(*paho.Client).Disconnect"),
        ("github.com/eclipse/paho.golang/autopaho.NewConnection", "(*autopaho.ConnectionManager).Disconnect"),
        ("github.com/nats-io/nats%2ego.(*Conn).processConnectInit", "(*nats.Conn).Close"),
        ("github.com/nats-io/nats%2ego.Options.Connect", "(*nats.Conn).Close"),
        ("github.com/nats-io/nats%2ego.(*Conn).subscribeLocked", "(*nats.Subscription).Unsubscribe"),
        ("github.com/nats-io/nats.go/jetstream.(*pullConsumer).Consume", "jetstream.ConsumeContext.Stop"),
        ("github.com/redis/go-redis/v9.(*channel).initHealthCheck", "(*redis.PubSub).Close"),
        ("github.com/go-redis/redis/v8.(*channel).initMsgChan", "(*redis.PubSub).Close"),
        ("github.com/go-redis/redis/v8/internal/pool.NewConnPool", "(*redis.Client).Close"),
        ("github.com/segmentio/kafka-go.NewReader", "(*kafka.Reader).Close"),
        ("github.com/segmentio/kafka-go.(*connGroup).connect", "(*kafka.Transport).CloseIdleConnections"),
        ("github.com/IBM/sarama.newAsyncProducer", "sarama.AsyncProducer.Close"),
        ("github.com/Shopify/sarama.NewClient", "sarama.Client.Close"),
        ("github.com/twmb/franz-go/pkg/kgo.NewClient", "(*kgo.Client).Close"),
        ("github.com/rabbitmq/amqp091-go.Open", "(*amqp.Connection).Close"),
        ("github.com/streadway/amqp.(*consumers).add", "(*amqp.Channel).Cancel"),
        ("github.com/nsqio/go-nsq.(*Producer).connect", "(*nsq.Producer).Stop"),
        ("github.com/apache/pulsar-client-go/pulsar.newPartitionProducer", "pulsar.Producer.Close"),
        ("github.com/godbus/dbus/v5.newConn", "(*dbus.Conn).Close"),
        ("go.etcd.io/etcd/client/v3.newClient", "(*clientv3.Client).Close"),
        ("go.etcd.io/etcd/clientv3.(*watcher).newWatcherGrpcStream", "cancel of Watch's context"),
        ("go.etcd.io/etcd/client/v3.(*watchGRPCStream).newWatchClient", "cancel of Watch's context"),
        ("go.etcd.io/etcd/client/v3/concurrency.NewSession", "(*concurrency.Session).Close"),
        ("github.com/go-zookeeper/zk.Connect", "(*zk.Conn).Close"),
        ("github.com/influxdata/influxdb-client-go/v2/api.NewWriteAPI", "influxdb2.Client.Close"),
        ("github.com/jackc/pgx/v5/pgxpool.NewWithConfig", "(*pgxpool.Pool).Close"),
        ("github.com/lib/pq.NewDialListener", "(*pq.Listener).Close"),
        ("github.com/go-sql-driver/mysql.(*mysqlConn).startWatcher", "(*sql.DB).Close"),
        ("github.com/syndtr/goleveldb/leveldb.openDB", "(*leveldb.DB).Close"),
        ("github.com/dgraph-io/badger/v4.Open", "(*badger.DB).Close"),
        ("github.com/dgraph-io/ristretto/v2.NewCache[...]", "(*ristretto.Cache).Close"),
        ("nhooyr.io/websocket.newConn", "(*websocket.Conn).Close"),
        ("github.com/quic-go/quic-go.(*Transport).init.func1", "(*quic.Transport).Close"),
        ("github.com/quic-go/quic-go/http3.newClientConn", "(*http3.Transport).Close"),
        ("github.com/hashicorp/yamux.newSession", "(*yamux.Session).Close"),
        ("golang.org/x/crypto/ssh.newMux", "ssh.Conn.Close"),
        ("github.com/fsnotify/fsnotify.NewWatcher", "(*fsnotify.Watcher).Close"),
        ("gopkg.in/fsnotify%2ev1.NewWatcher", "(*fsnotify.Watcher).Close"),
        ("k8s.io/client-go/util/workqueue.newQueue[...]", "workqueue.Interface.ShutDown"),
        ("k8s.io/apimachinery/pkg/watch.NewStreamWatcher", "watch.Interface.Stop"),
        ("go.opencensus.io/stats/view.(*worker).Start", "view.Meter.Stop"),
        ("go.opentelemetry.io/otel/sdk/trace.NewBatchSpanProcessor", "(*trace.TracerProvider).Shutdown"),
        ("go.opentelemetry.io/otel/sdk/metric.NewPeriodicReader", "(*metric.MeterProvider).Shutdown"),
        ("github.com/getsentry/sentry-go.(*HTTPTransport).Configure.func1", "(*sentry.Client).Close"),
        ("go.uber.org/zap/zapcore.(*BufferedWriteSyncer).initialize", "(*zapcore.BufferedWriteSyncer).Stop"),
        ("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).mill.func1", "reuse of one lumberjack.Logger"),
        ("github.com/robfig/cron/v3.(*Cron).Start", "(*cron.Cron).Stop"),
        ("github.com/miekg/dns.(*Transfer).In", "reading (*dns.Transfer).In to its end"),
        ("net/http.(*Transport).dialConn", "Body.Close or CloseIdleConnections"),
        ("net/http.(*http2ClientConn).roundTrip", "Response.Body.Close"),
        ("net/http/internal/http2.(*ClientConn).roundTrip", "Response.Body.Close"),
        ("golang.org/x/net/http2.(*Transport).newClientConn", "(*http.Transport).CloseIdleConnections"),
        ("database/sql.OpenDB", "(*sql.DB).Close"),
        ("database/sql.(*DB).beginDC", "(*sql.Tx).Commit or Rollback"),
        ("database/sql.(*Rows).initContextClose", "(*sql.Rows).Close"),
        ("context.propagateCancel", "cancel"),
        ("context.(*cancelCtx).propagateCancel", "cancel"),
        ("os/signal.NotifyContext", "stop"),
        ("os/exec.(*Cmd).Start", "(*exec.Cmd).Wait"),
        ("net/rpc.NewClientWithCodec", "(*rpc.Client).Close"),
    ] {
        assert_eq!(told(created_by), Some(call), "{created_by}");
        assert_eq!(call_of(created_by, &[]), Some(call), "{created_by}");
        // As a program has it that keeps a copy of the library.
        let vendored = format!("example.com/fleet/gateway/vendor/{created_by}");
        if created_by.split('/').next().is_some_and(|host| host.contains('.')) {
            assert_eq!(told(&vendored), Some(call), "{vendored}");
            assert_eq!(call_of(&vendored, &[]), Some(call), "{vendored}");
        }
        for closure in [".func1", ".func2.1", ".gowrap1", ".func1-range1", ".deferwrap2"] {
            assert_eq!(told(&(String::from(created_by) + closure)), Some(call), "{created_by}{closure}");
        }
    }
}

#[test]
fn stacks_tell_more_than_creators() {
    let dial = "net/http.(*Transport).dialConn";
    let idle = [
        "internal/poll.runtime_pollWait",
        "internal/poll.(*FD).Read",
        "net.(*conn).Read",
        "net/http.(*persistConn).Read",
        "bufio.(*Reader).Peek",
        "net/http.(*persistConn).readLoop",
    ];
    let informer = ["k8s.io/client-go/tools/cache.(*processorListener).run", "k8s.io/x.(*Group).Start.func1"];
    let trace = [
        "go.opentelemetry.io/otel/sdk/trace.(*batchSpanProcessor).processQueue",
        "go.opentelemetry.io/otel/sdk/trace.NewBatchSpanProcessor.func1",
        "sync.(*WaitGroup).Go.func1",
    ];
    let watch = [
        "google.golang.org/grpc.(*clientStream).RecvMsg",
        "go.etcd.io/etcd/api/v3/etcdserverpb.(*watchWatchClient).Recv",
        "go.etcd.io/etcd/client/v3.(*watchGrpcStream).serveWatchClient",
    ];
    for (created_by, frames, call) in [
        (dial, &["net/http.(*persistConn).readLoop"][..], "Response.Body.Close"),
        (dial, &idle, "(*http.Transport).CloseIdleConnections"),
        (dial, &["net/http.(*persistConn).writeLoop"], "Body.Close or CloseIdleConnections"),
        (
            "main.poll",
            &["net/http.(*persistConn).roundTrip", "net/http.send", "main.poll"],
            "http.Client.Timeout",
        ),
        ("main.ask", &["database/sql.(*DB).conn", "main.ask"], "(*sql.Rows).Close or (*sql.Tx).Rollback"),
        (
            "main.serve",
            &["io.(*pipe).write", "io.(*PipeWriter).Write", "main.copy"],
            "(*io.PipeReader).Close",
        ),
        ("main.serve", &["io.(*pipe).read", "io.(*PipeReader).Read", "main.copy"], "(*io.PipeWriter).Close"),
        (
            "k8s.io/apimachinery/pkg/util/wait.(*Group).Start",
            &informer,
            "close of the informer's stop channel",
        ),
        ("sync.(*WaitGroup).Go", &trace, "(*trace.TracerProvider).Shutdown"),
        ("go.etcd.io/etcd/client/v3.(*watchGrpcStream).newWatchClient", &watch, "cancel of Watch's context"),
        ("main.follow", &watch[..1], "cancel of the stream's context"),
        (
            "go.etcd.io/etcd/client/v3.(*lessor).KeepAlive",
            &["go.etcd.io/etcd/client/v3.(*lessor).keepAliveCtxCloser"],
            "cancel of KeepAlive's context",
        ),
        (
            "main.acquire",
            &[
                "golang.org/x/sync/semaphore.(*Weighted).Acquire",
                "github.com/jackc/puddle/v2.(*Pool[...]).Acquire",
                "github.com/jackc/pgx/v5/pgxpool.(*Pool).Acquire",
            ],
            "(*pgxpool.Conn).Release",
        ),
        (
            "github.com/eclipse/paho%2emqtt%2egolang.(*router).matchAndDispatch",
            &["github.com/eclipse/paho%2emqtt%2egolang.(*router).matchAndDispatch.func2"],
            "mqtt.Client.Disconnect",
        ),
    ] {
        assert_eq!(call_of(created_by, frames), Some(call), "{created_by} {frames:?}");
    }
}

/// The user's own code is what such goroutines wait for, though a library began them.
#[test]
fn handlers_that_a_library_runs_are_not_the_library_s() {
    let paho = "github.com/eclipse/paho%2emqtt%2egolang.(*router).matchAndDispatch";
    let dispatch = "github.com/eclipse/paho%2emqtt%2egolang.(*router).matchAndDispatch.func2";
    let nats = "github.com/nats-io/nats%2ego.(*Conn).subscribeLocked";
    for (created_by, frames) in [
        (paho, &["main.onMessage", dispatch][..]),
        (paho, &["example.com/fleet/gateway/bus.(*Bus).take", dispatch]),
        (nats, &["main.handle", "github.com/nats-io/nats%2ego.(*Conn).waitForMsgs"]),
        (
            "google.golang.org/grpc.(*Server).serveStreams",
            &["main.(*server).Follow", "google.golang.org/grpc.x"],
        ),
        ("sync.(*WaitGroup).Go", &["main.work", "sync.(*WaitGroup).Go.func1"]),
        (
            "k8s.io/apimachinery/pkg/util/wait.(*Group).Start",
            &["main.onAdd", "k8s.io/client-go/tools/cache.(*processorListener).run"],
        ),
    ] {
        assert_eq!(call_of(created_by, frames), None, "{created_by} {frames:?}");
    }
    assert_eq!(told(paho), None);
}

#[test]
fn what_only_looks_like_it_is_not_recognised() {
    for created_by in [
        "",
        ".",
        "main.main",
        "main.(*Gateway).forward",
        // Servers: their goroutines come and go with their clients.
        "net/http.(*Server).Serve",
        "net/http.(*connReader).startBackgroundRead",
        "net/http.(*http2serverConn).serve",
        "net/http.(*http2responseWriter).CloseNotify",
        "net/http/internal/http2.(*responseWriter).CloseNotify",
        "google.golang.org/grpc.(*Server).serveStreams",
        // One for the whole process.
        "os/signal.Notify",
        "go.opencensus.io/stats/view.init.0",
        // The user's function, whatever began it.
        "golang.org/x/sync/errgroup.(*Group).Go",
        "sync.(*WaitGroup).Go",
        "time.goFunc",
        // Other packages and functions of the same names.
        "example.com/context.(*cancelCtx).propagateCancel",
        "example.com/database/sql.OpenDB",
        "example.com/net/http.(*Transport).dialConn",
        "topology.(*Server).Connect",
        "main.(*Server).Connect",
        "example.com/grpc.DialContext",
        "google.golang.org/grpcx.DialContext",
        "google.golang.org/grpc.DialContext2",
        "google.golang.org/grpc.(*ClientConn).DialContext",
        "google.golang.org/grpc/balancer.newCCBalancerWrapper",
        "github.com/dgraph-io/badger/v4.(*DB).Open.func1",
        "notgithub.com/lib/pq.NewDialListener",
        "example.com/github.com/lib/pq.NewDialListener",
        "nats%2ego.(*Conn).processConnectInit",
        "%",
        "%2",
        "%zz.[",
        "]]v2/v3.func1",
    ] {
        assert_eq!(told(created_by), None, "{created_by}");
        assert_eq!(call_of(created_by, &[]), None, "{created_by}");
    }
    assert_eq!(call_of("main.main", &["net/http.(*conn).serve", "main.handler"]), None);
    assert_eq!(call_of("main.main", &["time.Sleep", "main.main"]), None);
}

/// What a library's cut name lost is checked: an alert has the last 48 bytes, from an element's beginning if it can.
#[test]
fn a_cut_name_is_believed_only_if_what_is_lost_did_not_fit() {
    let known = |name| recognise_creator(name).map(|known| known.call);
    assert_eq!(
        known("x/mongo/driver/topology.(*Server).Connect"),
        Some("(*mongo.Client).Disconnect"),
        "mongo-driver/ is too long"
    );
    assert_eq!(known("driver/topology.(*Server).Connect"), None, "mongo/ would have fitted");
    assert_eq!(known("paho%2emqtt%2egolang.(*client).startCommsWorkers"), Some("mqtt.Client.Disconnect"));
    assert_eq!(
        known("aho%2emqtt%2egolang.(*client).startCommsWorkers"),
        None,
        "47 bytes, begun within an element"
    );
}

#[test]
fn a_method_compiled_into_another_function_is_found() {
    let by = "gopkg.in/natefinch/lumberjack%2ev2.(*Logger).rotate.(*Logger).mill.func1";
    assert_eq!(call_of(by, &[]), Some("reuse of one lumberjack.Logger"));
}

#[test]
fn calls_fit_into_alerts_and_rows_are_whole() {
    let rows: Vec<&Known> = rows().collect();
    let libraries: BTreeSet<_> = rows.iter().filter_map(|row| row.packages.first()).collect();
    assert!(libraries.len() >= 40, "{}", libraries.len());
    for row in rows {
        assert!((1..=MISSING_MAX).contains(&row.call.len()), "{}: {}", row.call, row.call.len());
        assert!(!row.what.is_empty() && !row.packages.is_empty());
        assert!(!row.creators.is_empty() || !row.frames.is_empty(), "{} would fit everything", row.what);
        for package in row.packages {
            let version = |part: &str| part.strip_prefix('v').is_some_and(is_number);
            assert!(!package.split('/').any(version), "{package}: names are compared without versions");
        }
        for function in row.creators.iter().chain(row.frames) {
            // A row that its own names do not fit is spelled wrong.
            let name = Name::of(&format!("{}.{function}", row.packages[0]));
            assert!(row.is(function, &name), "{function}");
        }
    }
}

/// Each line is a goroutine of a real program; see the file's head.
#[test]
fn clients_that_were_left_open_are_recognised() {
    let lines: Vec<&str> =
        include_str!("observed.txt").lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.len() > 40, "{}", lines.len());
    for line in lines {
        let [call, created_by, stack] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let frames: Vec<&str> = stack.split_whitespace().collect();
        assert_eq!(call_of(created_by, &frames).unwrap_or("-"), call, "{line}");
        // A stack tells more than its creator, never something else.
        assert!(told(created_by).is_none_or(|told| told == call), "{line}");
    }
}
