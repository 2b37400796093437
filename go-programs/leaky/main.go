// Command leaky is a small piece of vehicle middleware that can be told to leak goroutines: the watched
// program of the demo and of the tests.
//
// It prints "READY <pid>" when it is up. After a line "leak" on standard input, or after -leak-after, the
// cloud it talks to answers too late, and every forwarded request leaves one goroutine behind for ever;
// it prints "LEAKING <unix milliseconds>" at that moment.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	requests := flag.Float64("requests", 200, "requests per second; each is one short-lived goroutine")
	rate := flag.Float64("rate", 20, "of those, forwarded to the cloud per second; these leak once the leak has begun")
	leakAfter := flag.Duration("leak-after", 0, "begin to leak this long after the start (0: only when told)")
	keep := flag.Bool("keep", false, "remember what leaks, so that it can still be reached")
	subscribes := flag.Bool("subscribe", false, "leak subscribers, who can still be reached")
	exitAtEOF := flag.Bool("stdin", false, "exit when standard input ends")
	flag.Parse()

	// Registered before READY, so that a SIGTERM sent on seeing it is never lost.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)

	startServices()
	gateway := &Gateway{jobs: startDiagnostics(), keep: *keep, subscribes: *subscribes}
	go gateway.serve(*requests, *rate)
	if *leakAfter > 0 {
		time.AfterFunc(*leakAfter, gateway.beginLeak)
	}
	go readCommands(gateway, stop, *exitAtEOF)

	fmt.Printf("READY %d\n", os.Getpid())
	<-stop
}

// readCommands obeys lines on standard input until it ends.
func readCommands(gateway *Gateway, stop chan<- os.Signal, exitAtEOF bool) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch line := lines.Text(); line {
		case "leak":
			gateway.beginLeak()
		default:
			fmt.Fprintf(os.Stderr, "leaky: unknown command %q (known: leak)\n", line)
		}
	}
	if exitAtEOF {
		stop <- syscall.SIGTERM
	}
}
