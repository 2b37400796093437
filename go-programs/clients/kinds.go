package main

import (
	"context"
	"database/sql"
	"io"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

var (
	// What is in use.
	stops      []func()
	transports []*http.Transport
	clients    []*rpc.Client
	ends       []net.Conn
)

// foreign is a context of a type that Go's own package does not know.
type foreign struct {
	done chan struct{}
}

func (foreign) Deadline() (time.Time, bool) { return time.Time{}, false }
func (f foreign) Done() <-chan struct{}     { return f.done }
func (foreign) Err() error                  { return nil }
func (foreign) Value(any) any               { return nil }

// open begins what there is one of for all.
func open() {
	database = sql.OpenDB(store{})
	must(database.Ping())
	_, stop := signal.NotifyContext(context.Background(), syscall.SIGUSR1)
	stop()
}

// end does all that is forgotten elsewhere as it should be done.
func end() {
	before := goroutines()
	for n := 0; n < each; n++ {
		response, transport := get(path("half", n))
		must(response.Body.Close())
		keepConnection(n).CloseIdleConnections()
		transport.CloseIdleConnections()
		response, transport = over2("/whole")
		_, err := io.ReadAll(response.Body)
		must(err)
		must(response.Body.Close())
		transport.CloseIdleConnections()
		db := sql.OpenDB(store{})
		must(db.Ping())
		must(db.Close())
		_, cancel := context.WithCancel(foreign{make(chan struct{})})
		cancel()
		rows, err := database.QueryContext(context.Background(), "")
		must(err)
		must(rows.Close())
		tx, err := database.BeginTx(context.Background(), nil)
		must(err)
		must(tx.Rollback())
		must(command(context.Background()).Wait())
		here, there := net.Pipe()
		client := rpc.NewClient(here)
		must(client.Close())
		must(there.Close())
	}
	settled(before, kind{"ended", map[string]int{
		"database/sql.OpenDB": 0, "dialConn": 0, "ewClientConn": 0, "oundTrip": 0, "propagateCancel": 0,
		"initContextClose": 0, "beginDC": 0, "NotifyContext": 0, "os/exec.": 0, "net/rpc.": 0,
	}, nil})
}

// command is this program once more, which ends at once.
func command(ctx context.Context) *exec.Cmd {
	command := exec.CommandContext(ctx, os.Args[0], "end")
	must(command.Start())
	return command
}

// used are clients that somebody will end.
func used() []kind {
	return []kind{
		{"idle", map[string]int{"(*Transport).dialConn": 2 * each}, times(func(n int) {
			transports = append(transports, keepConnection(n))
		})},
		{"cancel", map[string]int{"propagateCancel": each}, times(func(int) {
			_, cancel := context.WithCancel(foreign{make(chan struct{})})
			stops = append(stops, cancel)
		})},
		{"database", map[string]int{"database/sql.OpenDB": each}, times(func(int) {
			databases = append(databases, sql.OpenDB(store{}))
		})},
		{"rpc", map[string]int{"net/rpc.NewClientWithCodec": each}, times(func(int) {
			here, there := net.Pipe()
			clients, ends = append(clients, rpc.NewClient(here)), append(ends, there)
		})},
	}
}

// forgotten are clients that nobody can end any more.
func forgotten() []kind {
	return []kind{
		{"body", map[string]int{"(*Transport).dialConn": 2 * each}, times(leaveBody)},
		{"database", map[string]int{"database/sql.OpenDB": each}, times(leaveDatabase)},
		{"cancel", map[string]int{"propagateCancel": each}, times(func(int) {
			_, _ = context.WithCancel(foreign{make(chan struct{})})
		})},
		{"pipe written", map[string]int{"main.writePipe": each}, times(writePipe)},
		{"pipe read", map[string]int{"main.readPipe": each}, times(readPipe)},
		{"rpc", map[string]int{"net/rpc.NewClientWithCodec": each}, times(func(int) {
			here, _ := net.Pipe()
			rpc.NewClient(here)
		})},
		{"none", map[string]int{"main.forget": each}, times(forget)},
	}
}

// waiting are clients of which something still knows.
func waiting() []kind {
	return []kind{
		{"idle", map[string]int{"(*Transport).dialConn": 2 * each}, times(func(n int) { keepConnection(n) })},
		{"request", map[string]int{"main.ask": each}, times(ask)},
		{"body 2", map[string]int{"oundTrip": each, "newClientConn": each}, times(leaveBody2)},
		{"rows", map[string]int{"initContextClose": each}, times(leaveRows)},
		{"transaction", map[string]int{"beginDC": each}, times(leaveTransaction)},
		{"connection", map[string]int{"main.exhaust": each}, times(exhaust)},
		{"signal", map[string]int{"os/signal.NotifyContext": each}, times(func(int) {
			signal.NotifyContext(context.Background(), syscall.SIGUSR1)
		})},
		{"command", map[string]int{"os/exec.(*Cmd)": each}, times(func(int) {
			ctx, cancel := context.WithCancel(context.Background())
			stops = append(stops, cancel)
			command(ctx)
		})},
	}
}

func writePipe(int) {
	_, writer := io.Pipe()
	go func() {
		_, err := io.WriteString(writer, "x")
		must(err)
	}()
}

func readPipe(int) {
	reader, _ := io.Pipe()
	go func() {
		_, err := io.ReadAll(reader)
		must(err)
	}()
}

// forget is a leak of the program's own.
func forget(int) {
	results := make(chan int)
	go func() { results <- 1 }()
}
