// Program heaps has a heap of so many MiB, `heaps GOROUTINES MIB SHAPE`, and goroutines that are blocked, every other
// one of them for ever. It measures what its own profile of leaks takes, since Go 1.27, and the longest time for which
// a goroutine that never rests was not let on.
//
// Shapes are "tree" and "list", of objects of 64 bytes whose pointers lead anywhere in the heap, and "data" without
// pointers.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"time"

	"goleakguard.test/programs/internal/measure"
	"goleakguard.test/programs/internal/oracle"
)

func main() {
	if err := set(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "usage: heaps GOROUTINES MIB tree|list|data:", err)
		os.Exit(2)
	}
	// One for the spinner, one for what is asked.
	runtime.GOMAXPROCS(2)
	// Collections happen when they are asked for, never while something is measured.
	debug.SetGCPercent(-1)
	debug.FreeOSMemory()
	spinner := new(measure.Spinner)
	oracle.Serve(map[string]oracle.Command{
		"leaks": leaks,
		"spin":  spinner.Start,
		"stall": spinner.Stop,
		// Ends what profiles leave to do.
		"settle": func() any { runtime.GC(); return struct{}{} },
	})
}

func set(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("%d arguments", len(args))
	}
	goroutines, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	mib, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := fill(args[2], mib<<20); err != nil {
		return err
	}
	block(goroutines)
	return nil
}

// taken is what a profile took.
type taken struct {
	Seconds float64 `json:"seconds"`
	// CPU time of the whole program.
	CPUSeconds float64 `json:"cpu_seconds"`
	// Goroutines that it names.
	Leaked int `json:"leaked"`
}

// leaks takes the profile of leaks, equal stacks once, to nowhere.
func leaks() any {
	profile := pprof.Lookup("goroutineleak")
	if profile == nil {
		return taken{}
	}
	began, cpu := time.Now(), measure.CPUSeconds()
	if err := profile.WriteTo(discarded{}, 1); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return taken{time.Since(began).Seconds(), measure.CPUSeconds() - cpu, profile.Count()}
}

type discarded struct{}

func (discarded) Write(text []byte) (int, error) { return len(text), nil }
