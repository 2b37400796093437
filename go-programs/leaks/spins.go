package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
)

// noAsync has Go preempt nobody but where they call something.
const noAsync = "GODEBUG=asyncpreemptoff=1"

var spinning, spun uint32

// withoutPreemption begins this program anew, if need be, so that a loop without calls is never preempted, or is when it
// is wanted.
func withoutPreemption(wanted []string) {
	preempted := len(wanted) > 0 && wanted[0] == "preempted"
	if !preempted && "GODEBUG="+os.Getenv("GODEBUG") != noAsync {
		err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), noAsync))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Whoever spins keeps a processor for himself, and the collector waiting.
	runtime.GOMAXPROCS(4)
	debug.SetGCPercent(-1)
}

// spin begins a goroutine that has in a register, and nowhere else, what only it can wake somebody by.
func spin() {
	go spins(waits("by a register"))
	scrub(64)
	for atomic.LoadUint32(&spinning) == 0 {
		runtime.Gosched()
	}
}

//go:noinline
func spins(h *holder) {
	atomic.StoreUint32(&spinning, 1)
	for atomic.LoadUint32(&spun) == 0 {
	}
	close(h.c)
}
