package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"goleakguard.test/programs/internal/measure"
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
	began, cpu := time.Now(), measure.CPUSeconds()
	if err := pprof.Lookup("goroutine").WriteTo(out, level); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return taken{time.Since(began).Seconds(), measure.CPUSeconds() - cpu, out.bytes, out.goroutines}
}

// discarded counts what is written to it: bytes, and first lines of a goroutine. A traceback comes as one piece.
type discarded struct{ bytes, goroutines int64 }

func (d *discarded) Write(text []byte) (int, error) {
	d.bytes += int64(len(text))
	d.goroutines += int64(bytes.Count(text, []byte("]:\n")))
	return len(text), nil
}
