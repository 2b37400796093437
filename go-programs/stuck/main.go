// Command stuck is a small piece of vehicle middleware around a C library, and can be told to bring two of its threads
// into a deadlock there: the watched program of the demo and of the QEMU run.
//
// It prints "READY <pid>" when it is up. Its goroutines share the library's two locks all the time, and healthily so.
// After a line "deadlock" on standard input one of them takes the locks in the wrong order; it prints
// "CROSSING <unix milliseconds>" at that moment, and some dozen milliseconds later both wait for ever.
package main

// #cgo LDFLAGS: -pthread
// #include "faults.h"
import "C"

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// pause is what the goroutines do without a lock in between.
const pause = 4 * time.Millisecond

// confirms tells that cleared faults are to be confirmed on the bus.
var confirms atomic.Bool

func main() {
	exitAtEOF := flag.Bool("stdin", false, "exit when standard input ends")
	flag.Parse()

	// Registered before READY, so that a SIGTERM sent on seeing it is never lost.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)

	C.open_faults()
	go record()
	go forget()
	go readCommands(stop, *exitAtEOF)

	fmt.Printf("READY %d\n", os.Getpid())
	<-stop
}

// record takes fault codes off the bus.
func record() {
	for {
		C.record_fault() // DEADLOCK
		time.Sleep(pause)
	}
}

// forget clears the fault codes again and again.
func forget() {
	for {
		C.clear_faults(C.bool(confirms.Load())) // DEADLOCK
		time.Sleep(pause)
	}
}

// readCommands obeys lines on standard input until it ends.
func readCommands(stop chan<- os.Signal, exitAtEOF bool) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch line := lines.Text(); line {
		case "deadlock":
			confirms.Store(true)
			fmt.Printf("CROSSING %d\n", time.Now().UnixMilli())
		default:
			fmt.Fprintf(os.Stderr, "stuck: unknown command %q (known: deadlock)\n", line)
		}
	}
	if exitAtEOF {
		stop <- syscall.SIGTERM
	}
}
