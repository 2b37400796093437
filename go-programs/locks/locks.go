// Program locks brings threads and goroutines into waits for pthread locks, among them deadlocks, and says what has
// to be found: `locks [-later] MODE [WORD]`.
//
// It is ready once all of them stand in their waits; with -later it is ready before, and goes there when it is
// told `go`. To `expected` it answers with what an observer must find.
package main

import (
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"

	"goleakguard.test/programs/internal/oracle"
)

// mode is a state to bring the program into; word is the kind of its locks, or a number.
type mode func(word string) *expected

var modes = map[string]mode{
	// Deadlocks.
	"relock":     relock,
	"abba":       abba,
	"abba-go":    abbaGo,
	"three":      three,
	"tail":       tail,
	"deep":       deep,
	"timed":      timed,
	"rwlock":     rwlock,
	"join":       join,
	"callback":   callback,
	"syncmutex":  syncMutex,
	"syncglobal": syncGlobal,
	// Waits that are none.
	"helped":    helped,
	"pi":        pi,
	"pi-cycle":  piCycle,
	"exited":    exited,
	"hold":      hold,
	"cond":      cond,
	"contended": contended,
	"pins":      pins,
	"storm":     storm,
}

func main() {
	later := flag.Bool("later", false, "be ready before the state is reached, and go there on `go`")
	flag.Usage = usage
	flag.Parse()
	enter, known := modes[flag.Arg(0)]
	if !known || flag.NArg() > 2 {
		usage()
		os.Exit(2)
	}
	state := new(expected)
	commands := map[string]oracle.Command{"expected": func() any { return state.json() }}
	for _, name := range []string{"release", "ended", "contention", "grow"} {
		name := name
		commands[name] = func() any { return state.answers[name]() }
	}
	if *later {
		commands["go"] = func() any {
			state = aside(enter)
			return state.json()
		}
	} else {
		state = aside(enter)
	}
	oracle.Serve(commands)
}

// aside enters the state on a goroutine of its own, so that nothing stays behind on the stack of the one that answers:
// what is there, that one could use.
func aside(enter mode) *expected {
	reached := make(chan *expected)
	go func() {
		reached <- enter(flag.Arg(1))
	}()
	return <-reached
}

func usage() {
	var names []string
	for name := range modes {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintln(os.Stderr, "usage: locks [-later] MODE [WORD]\nmodes:", strings.Join(names, ", "))
}

func fail(why ...any) {
	fmt.Fprintln(os.Stderr, why...)
	os.Exit(1)
}
