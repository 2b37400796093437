// Program locking takes locks in C as quickly as it can, in one of several ways, or has many threads wait for one: the
// load for which the cost of watching locks is measured.
//
// It answers `rate` with the turns per second since the last answer.
package main

// #cgo LDFLAGS: -pthread
// #include "turns.h"
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"goleakguard.test/programs/internal/oracle"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "uncontended":
		C.run_uncontended()
	case len(os.Args) == 2 && os.Args[1] == "contended":
		C.run_contended()
	case len(os.Args) == 2 && os.Args[1] == "futex":
		C.run_futex()
	case len(os.Args) == 3 && os.Args[1] == "waiting":
		wait(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: locking uncontended | contended | futex | waiting THREADS")
		os.Exit(2)
	}
	asked := newMeter()
	oracle.Serve(map[string]oracle.Command{
		"rate": func() any { return asked.read() },
	})
}

func wait(threads string) {
	n, err := strconv.Atoi(threads)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	// The lock belongs to this thread.
	runtime.LockOSThread()
	C.run_waiting(C.int(n))
}

// reading is the answer to `rate`.
type reading struct {
	// Rate is in turns per second, over Seconds.
	Rate    float64 `json:"rate"`
	Seconds float64 `json:"seconds"`
	Total   int64   `json:"total"`
}

// meter measures from one reading to the next.
type meter struct {
	at    time.Time
	total int64
}

func newMeter() *meter {
	return &meter{at: time.Now(), total: int64(C.turns())}
}

func (m *meter) read() reading {
	now, total := time.Now(), int64(C.turns())
	seconds := now.Sub(m.at).Seconds()
	r := reading{Rate: float64(total-m.total) / seconds, Seconds: seconds, Total: total}
	m.at, m.total = now, total
	return r
}
