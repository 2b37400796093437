//! Clients of databases and what keeps data. See [`super`] for how rows are read.

use super::super::{Known, created, standing};

const ETCD: &[&str] = &["go.etcd.io/etcd/client", "go.etcd.io/etcd/clientv3"];
const PQ: &[&str] = &["github.com/lib/pq"];
const REDIS: &[&str] = &[
    "github.com/redis/go-redis",
    "github.com/redis/go-redis/internal/pool",
    "github.com/redis/go-redis/maintnotifications",
    "github.com/go-redis/redis",
    "github.com/go-redis/redis/internal/pool",
];

pub(super) const ROWS: &[Known] = &[
    // etcd clientv3 3.4.20, 3.5.9, 3.6.0, 3.7.1: lease.go, KeepAlive; one for each call of it.
    created("etcd lease that is kept alive", "cancel of KeepAlive's context", ETCD, &["(*lessor).KeepAlive"])
        .standing_in(&["(*lessor).keepAliveCtxCloser"]),
    // The same: watch.go; named newWatcherGrpcStream and watchGrpcStream until 3.5.
    created(
        "etcd watch",
        "cancel of Watch's context",
        ETCD,
        &[
            "(*watcher).newWatcherGrpcStream",
            "(*watcher).newWatcherGRPCStream",
            "(*watchGrpcStream).newWatchClient",
            "(*watchGRPCStream).newWatchClient",
            "(*watchGrpcStream).run",
            "(*watchGRPCStream).run",
        ],
    ),
    // The same: concurrency/session.go.
    created(
        "etcd session",
        "(*concurrency.Session).Close",
        &["go.etcd.io/etcd/client/concurrency", "go.etcd.io/etcd/clientv3/concurrency"],
        &["NewSession"],
    ),
    // The same: client.go, newClient; lease.go.
    created(
        "etcd client",
        "(*clientv3.Client).Close",
        ETCD,
        &["newClient", "(*lessor).KeepAlive", "(*lessor).resetRecv"],
    ),
    // mongo-driver 1.4.6, 1.8.4, 1.11.9, 1.17.9, 2.0.0, 2.8.0, x/mongo/driver/topology: server.go, topology.go,
    // rtt_monitor.go, pool.go (connect until 1.8.4, newPool since 1.11.9).
    created(
        "MongoDB client",
        "(*mongo.Client).Disconnect",
        &["go.mongodb.org/mongo-driver/x/mongo/driver/topology"],
        &["(*Server).Connect", "(*Topology).Connect", "(*rttMonitor).connect", "newPool", "(*pool).connect"],
    ),
    // mgo.v2 (Debian 2016.08.01): cluster.go, server.go, socket.go.
    created(
        "MongoDB session",
        "(*mgo.Session).Close",
        &["gopkg.in/mgo.v2"],
        &["newCluster", "newServer", "newSocket"],
    ),
    // go-redis 6.15.9 to 9.22.0: pubsub.go, on PubSub until 8.0.0, on channel since.
    created(
        "Redis subscription",
        "(*redis.PubSub).Close",
        REDIS,
        &[
            "(*PubSub).initChannel",
            "(*PubSub).initPing",
            "(*PubSub).initMsgChan",
            "(*PubSub).initAllChan",
            "(*channel).initHealthCheck",
            "(*channel).initMsgChan",
            "(*channel).initAllChan",
        ],
    ),
    // go-redis 6.15.9 to 8.11: internal/pool/pool.go, NewConnPool; cluster.go, NewClusterClient. Until 9.22.0: ring.go,
    // sentinel.go; 9.17.3 and newer: maintnotifications/circuit_breaker.go.
    created(
        "Redis client",
        "(*redis.Client).Close",
        REDIS,
        &[
            "NewConnPool",
            "NewClusterClient",
            "NewRing",
            "(*sentinelFailover).setSentinel",
            "newCircuitBreakerManager",
        ],
    ),
    // go-zookeeper/zk 1.0.4 and samuel/go-zookeeper (Debian 0.0~git20180130): conn.go.
    created(
        "ZooKeeper connection",
        "(*zk.Conn).Close",
        &["github.com/go-zookeeper/zk", "github.com/samuel/go-zookeeper/zk"],
        &["Connect", "(*Conn).loop"],
    ),
    // influxdb-client-go 2.2.0, 2.14.0: api/write.go.
    created(
        "InfluxDB client",
        "influxdb2.Client.Close",
        &["github.com/influxdata/influxdb-client-go/api"],
        &["NewWriteAPI"],
    ),
    // puddle 1.1.0, 1.3.0, 2.0.0, 2.2.2, pool.go, below pgxpool: the goroutine is the user's.
    standing(
        "wait for a connection of pgxpool",
        "(*pgxpool.Conn).Release",
        &["github.com/jackc/puddle"],
        &["(*Pool).Acquire"],
    ),
    // pgx 4.17.0 (ConnectConfig), 5.0.0, 5.5.5, 5.10.0 (NewWithConfig): pgxpool/pool.go.
    created(
        "PostgreSQL pool",
        "(*pgxpool.Pool).Close",
        &["github.com/jackc/pgx/pgxpool"],
        &["ConnectConfig", "NewWithConfig"],
    ),
    // pq 1.5.0, 1.10.9, 1.12.3: notify.go.
    created("PostgreSQL listener", "(*pq.Listener).Close", PQ, &["NewDialListener", "newDialListenerConn"]),
    // The same: copy.go.
    created("PostgreSQL COPY", "(*sql.Stmt).Close", PQ, &["(*conn).prepareCopyIn"]),
    // go-sql-driver/mysql 1.5.0, 1.10.0: connection.go, one for each connection.
    created(
        "MySQL connection",
        "(*sql.DB).Close",
        &["github.com/go-sql-driver/mysql"],
        &["(*mysqlConn).startWatcher"],
    ),
    // goleveldb 1.0.0 and newer: leveldb/db.go, session.go (newer), util/buffer_pool.go (1.0.0).
    created(
        "LevelDB database",
        "(*leveldb.DB).Close",
        &["github.com/syndtr/goleveldb/leveldb", "github.com/syndtr/goleveldb/leveldb/util"],
        &["openDB", "newSession", "NewBufferPool"],
    ),
    // badger 1.6.2, 3.2103.5, 4.9.2: db.go, levels.go, y/watermark.go.
    created(
        "Badger database",
        "(*badger.DB).Close",
        &["github.com/dgraph-io/badger", "github.com/dgraph-io/badger/y"],
        &[
            "Open",
            "(*DB).startMemoryFlush",
            "(*DB).unblockWrite",
            "(*valueLog).open",
            "(*levelsController).startCompact",
            "(*WaterMark).Init",
        ],
    ),
    // ristretto 0.1.1, 2.4.2: cache.go, policy.go.
    created(
        "Ristretto cache",
        "(*ristretto.Cache).Close",
        &["github.com/dgraph-io/ristretto"],
        &["NewCache", "newDefaultPolicy"],
    ),
];
