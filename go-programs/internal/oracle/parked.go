package oracle

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Parked says how many goroutines one function creates and the states in which they come to rest. Go's word for
// one wait differs between versions. What the runtime creates has an empty creator.
type Parked struct {
	Creator string
	Count   int
	States  []string
}

// AwaitParked returns once every goroutine named is at rest, and ends the program if that takes a minute.
func AwaitParked(want []Parked) {
	pause := time.Millisecond
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(pause) {
		missing := missing(want, Sites())
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, "never at rest:", missing)
			os.Exit(1)
		}
		pause = 20 * time.Millisecond
	}
}

func missing(want []Parked, sites []Site) string {
	for _, kind := range want {
		count := 0
		for _, site := range sites {
			if created(site, kind.Creator) && contains(kind.States, site.State) {
				count += site.Count
			}
		}
		if count != kind.Count {
			return fmt.Sprintf("%d of %d %s %v", count, kind.Count, kind.Creator, kind.States)
		}
	}
	return ""
}

// created tells whether a site's function is the creator or a closure in it.
func created(site Site, creator string) bool {
	for _, part := range strings.Split(site.CreatedBy, ".") {
		if part == creator {
			return true
		}
	}
	return false
}

func contains(states []string, state string) bool {
	for _, s := range states {
		if s == state {
			return true
		}
	}
	return false
}
