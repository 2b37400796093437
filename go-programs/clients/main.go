// Command clients uses clients of Go's own library and forgets the call that ends them, beside such that are ended, and
// such that are in use. It says of itself which goroutines are whose.
//
// It prints "READY <pid>" when all of them are at rest, and answers `expected` with their numbers: "forgotten" nobody can
// end any more, "waiting" is forgotten too but could be ended, or is held by the network, and "used" will be ended. With
// the argument "used" there are only those, after as many have been ended; with the name of a kind only what is forgotten
// of that.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"goleakguard.test/programs/internal/oracle"
)

// Of each kind there are so many.
const each = 8

// One goroutine and what it belongs to.
type one struct {
	Goid int    `json:"goid"`
	Kind string `json:"kind"`
}

// kind is a way to forget a call.
type kind struct {
	name string
	// Parts of the names of the functions that begin its goroutines, and how many each of them begins.
	begun map[string]int
	begin func()
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "end" {
		return
	}
	listen()
	open()
	expected := map[string][]one{}
	only := append(os.Args, "")[1]
	add := func(list string, kinds []kind) {
		for _, kind := range kinds {
			if only != "" && only != list && only != kind.name {
				continue
			}
			before := goroutines()
			kind.begin()
			for _, goid := range settled(before, kind) {
				expected[list] = append(expected[list], one{goid, kind.name})
			}
		}
	}
	switch only {
	case "":
		add("forgotten", forgotten())
		add("waiting", waiting())
		add("used", used())
	case "used":
		end()
		add("used", used())
	default:
		// Nothing else runs on a stack that still refers to these.
		add("forgotten", forgotten())
	}
	oracle.Serve(map[string]oracle.Command{"expected": func() any { return expected }})
}

// goroutine is what a traceback says of one.
type goroutine struct {
	state   string
	creator string
}

// goroutines are all there are, by number.
func goroutines() map[int]goroutine {
	all := make(map[int]goroutine)
	for _, block := range strings.Split(oracle.Traceback(2), "\n\n") {
		// goroutine 7 [chan receive, 2 minutes]:
		var goid int
		if n, _ := fmt.Sscanf(block, "goroutine %d [", &goid); n != 1 {
			continue
		}
		rest := block[strings.IndexByte(block, '[')+1:]
		found := goroutine{state: rest[:strings.IndexAny(rest, ",]")]}
		const created = "\ncreated by "
		if at := strings.Index(block, created); at >= 0 {
			found.creator = strings.Fields(block[at+len(created):])[0]
		}
		all[goid] = found
	}
	return all
}

// settled are the goroutines of a kind that were not there before, once all of them are at rest.
func settled(before map[int]goroutine, kind kind) []int {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		var all []int
		count := make(map[string]int)
		for part := range kind.begun {
			count[part] = 0
		}
		for goid, found := range goroutines() {
			_, old := before[goid]
			if old || found.state == "running" || found.state == "runnable" {
				continue
			}
			for part := range kind.begun {
				if strings.Contains(found.creator, part) {
					count[part]++
					all = append(all, goid)
				}
			}
		}
		if fmt.Sprint(count) == fmt.Sprint(kind.begun) {
			return all
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, kind.name, "never at rest:", count, "of", kind.begun)
			os.Exit(1)
		}
	}
}

// times begins something as often as there is of each kind.
func times(begin func(n int)) func() {
	return func() {
		for n := 0; n < each; n++ {
			begin(n)
		}
	}
}

// must ends the program: it is to forget calls, not errors.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func path(kind string, n int) string {
	return "http://" + address + "/" + kind + "/" + strconv.Itoa(n)
}
