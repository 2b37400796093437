// Package measure lets a test program say what something takes of it, and for how long it was kept from running.
package measure

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// CPUSeconds is the CPU time of the whole program so far.
func CPUSeconds() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

// Spinner looks at the clock as often as it can.
type Spinner struct {
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

// Start begins, and forgets what was seen before.
func (s *Spinner) Start() any {
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

// Stop ends, and says what was seen.
func (s *Spinner) Stop() any {
	s.on.Store(false)
	return <-s.ended
}

func (s *Spinner) spin() stall {
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
