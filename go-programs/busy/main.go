// Program busy is a server and its clients over HTTP in one process, and never rests. Each request goes through
// channels, timers, contexts and locks that are made for it alone, and none of its goroutines is leaked.
//
// Beside what all programs answer it says how many requests were served, `requests`, and whom its own profile of
// leaks names, `leaked`, since Go 1.27.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"sync/atomic"

	"goleakguard.test/programs/internal/oracle"
)

var served atomic.Int64

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() { _ = http.Serve(listener, routes()) }()
	visit("http://" + listener.Addr().String())
	oracle.Serve(map[string]oracle.Command{
		"requests": func() any { return map[string]int64{"requests": served.Load()} },
		"leaked":   func() any { return map[string]int{"leaked": leaked()} },
	})
}

// leaked is how many goroutines the runtime holds for leaked.
func leaked() int {
	profile := pprof.Lookup("goroutineleak")
	if profile == nil {
		return 0
	}
	if err := profile.WriteTo(io.Discard, 1); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return profile.Count()
}
