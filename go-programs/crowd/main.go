// Program crowd keeps N goroutines blocked the way a service's are, `crowd N`, and measures itself: what its own
// profiles take, and the longest time for which a goroutine that never rests was not let on.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"goleakguard.test/programs/internal/measure"
	"goleakguard.test/programs/internal/oracle"
)

func main() {
	n, err := count()
	if err != nil {
		fmt.Fprintln(os.Stderr, "usage: crowd N:", err)
		os.Exit(2)
	}
	// One for the spinner, one for what is asked.
	runtime.GOMAXPROCS(2)
	gather(n)
	// Collections happen when they are asked for, never while something is measured.
	debug.SetGCPercent(-1)
	runtime.GC()
	spinner := new(measure.Spinner)
	oracle.Serve(map[string]oracle.Command{
		"profile1": func() any { return profile(1) },
		"profile2": func() any { return profile(2) },
		"spin":     spinner.Start,
		"stall":    spinner.Stop,
		// Ends what profiles leave to do.
		"settle": func() any { runtime.GC(); return struct{}{} },
	})
}

func count() (int, error) {
	if len(os.Args) != 2 {
		return 0, fmt.Errorf("%d arguments", len(os.Args)-1)
	}
	return strconv.Atoi(os.Args[1])
}
