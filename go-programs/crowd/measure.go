package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime/pprof"
	"sync/atomic"
	"syscall"
	"time"
)

// taken is what one profile took.
type taken struct {
	Seconds float64 `json:"seconds"`
	// CPU time of the whole program.
	CPUSeconds float64 `json:"cpu_seconds"`
	Bytes      int64   `json:"bytes"`
	// Goroutines whose stack was printed, with debug=2.
	Goroutines int64 `json:"goroutines"`
}

// profile prints the goroutines as pprof does over HTTP, to nowhere.
func profile(level int) taken {
	out := new(discarded)
	began, cpu := time.Now(), cpuSeconds()
	if err := pprof.Lookup("goroutine").WriteTo(out, level); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return taken{time.Since(began).Seconds(), cpuSeconds() - cpu, out.bytes, out.goroutines}
}

// discarded counts what is written to it: bytes, and first lines of a goroutine. A traceback comes as one piece.
type discarded struct{ bytes, goroutines int64 }

func (d *discarded) Write(text []byte) (int, error) {
	d.bytes += int64(len(text))
	d.goroutines += int64(bytes.Count(text, []byte("]:\n")))
	return len(text), nil
}

func cpuSeconds() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

// spinner looks at the clock as often as it can.
type spinner struct {
	on    atomic.Bool
	ended chan stall
}

// stall is what a spinner saw.
type stall struct {
	// LongestNs is the longest time between two looks at the clock.
	LongestNs int64 `json:"longest_ns"`
	Looks     int64 `json:"looks"`
	// Seconds from the first look to the last.
	Seconds float64 `json:"seconds"`
}

func (s *spinner) start() any {
	s.on.Store(true)
	s.ended = make(chan stall)
	going := make(chan struct{})
	go func() {
		close(going)
		s.ended <- s.spin()
	}()
	<-going
	return struct{}{}
}

func (s *spinner) stop() any {
	s.on.Store(false)
	return <-s.ended
}

func (s *spinner) spin() stall {
	var seen stall
	began := time.Now()
	last := time.Since(began)
	for s.on.Load() {
		now := time.Since(began)
		if gap := int64(now - last); gap > seen.LongestNs {
			seen.LongestNs = gap
		}
		last = now
		seen.Looks++
	}
	seen.Seconds = last.Seconds()
	return seen
}
