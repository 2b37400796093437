//! Go's own packages: clients of HTTP and SQL, contexts, commands, pipes. See [`super`] for how rows are read.

use super::super::{Known, created, standing};

const HTTP: &[&str] = &["net/http"];
const HTTP2: &[&str] = &["net/http", "net/http/internal/http2", "golang.org/x/net/http2"];
const SQL: &[&str] = &["database/sql"];

pub(super) const ROWS: &[Known] = &[
    // Go 1.19 to 1.27, net/http/transport.go: readLoop waits for the next response, in Read.
    created(
        "HTTP connection that stays open",
        "(*http.Transport).CloseIdleConnections",
        HTTP,
        &["(*Transport).dialConn"],
    )
    .standing_in(&["(*persistConn).Read"]),
    // The same: readLoop waits, in itself, until the body of a response is read to its end or closed.
    created("HTTP response whose body stays open", "Response.Body.Close", HTTP, &["(*Transport).dialConn"])
        .standing_in(&["(*persistConn).readLoop"]),
    // The same: writeLoop; either.
    created("HTTP connection", "Body.Close or CloseIdleConnections", HTTP, &["(*Transport).dialConn"]),
    // Go 1.19 to 1.26: net/http/h2_bundle.go (RoundTrip until 1.22); 1.27: net/http/internal/http2/transport.go;
    // x/net 0.10.0 (RoundTrip), 0.35.0, 0.50.0, 0.56.0 (internalRoundTrip): http2/transport.go.
    created(
        "HTTP/2 response whose body stays open",
        "Response.Body.Close",
        HTTP2,
        &[
            "(*http2ClientConn).RoundTrip",
            "(*http2ClientConn).roundTrip",
            "(*ClientConn).RoundTrip",
            "(*ClientConn).roundTrip",
            "(*ClientConn).internalRoundTrip",
        ],
    ),
    // The same: newClientConn.
    created(
        "HTTP/2 connection that stays open",
        "(*http.Transport).CloseIdleConnections",
        HTTP2,
        &["(*http2Transport).newClientConn", "(*Transport).newClientConn"],
    ),
    // Go 1.19 to 1.27: net/http/client.go; ends with the body of a response.
    created("HTTP response whose body stays open", "Response.Body.Close", HTTP, &["setRequestCancel"]),
    // Go 1.19 to 1.27: net/http/transport.go; the goroutine is the user's.
    standing("HTTP request without a time limit", "http.Client.Timeout", HTTP, &["(*persistConn).roundTrip"]),
    // Go 1.19 to 1.27: database/sql/sql.go, beginDC.
    created("SQL transaction", "(*sql.Tx).Commit or Rollback", SQL, &["(*DB).beginDC"]),
    // The same: initContextClose.
    created("SQL rows", "(*sql.Rows).Close", SQL, &["(*Rows).initContextClose"]),
    // The same: conn, when all connections are taken; the goroutine is the user's.
    standing("wait for an SQL connection", "(*sql.Rows).Close or (*sql.Tx).Rollback", SQL, &["(*DB).conn"]),
    // The same: OpenDB, startCleanerLocked.
    created("SQL database", "(*sql.DB).Close", SQL, &["OpenDB", "(*DB).startCleanerLocked"]),
    // Go 1.19: context/context.go, propagateCancel, a method since 1.21; for parents that are no contexts of Go's own.
    created(
        "context of a parent of a foreign type",
        "cancel",
        &["context"],
        &["propagateCancel", "(*cancelCtx).propagateCancel"],
    ),
    // Go 1.19 to 1.27: os/signal/signal.go, NotifyContext.
    created("context of signal.NotifyContext", "stop", &["os/signal"], &["NotifyContext"]),
    // Go 1.19: os/exec/exec.go, Start, watchCtx; 1.21 to 1.27: Start.
    created(
        "command that nobody waits for",
        "(*exec.Cmd).Wait",
        &["os/exec"],
        &["(*Cmd).Start", "(*Cmd).watchCtx"],
    ),
    // Go 1.19 to 1.27: net/rpc/client.go.
    created("RPC client", "(*rpc.Client).Close", &["net/rpc"], &["NewClientWithCodec"]),
    // Go 1.19 to 1.27: io/pipe.go; the goroutine is the user's.
    standing("writer of a pipe that nobody reads", "(*io.PipeReader).Close", &["io"], &["(*pipe).write"]),
    // The same.
    standing("reader of a pipe that nobody writes to", "(*io.PipeWriter).Close", &["io"], &["(*pipe).read"]),
];
