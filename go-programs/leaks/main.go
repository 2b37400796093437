// Command leaks has goroutines that can never go on beside goroutines that look alike and can, and says of itself which
// are which.
//
// It prints "READY <pid>" when all of them are at rest, and answers `expected` with their numbers: "leaked" can never
// go on, "alive" can, and of "unclear" it cannot be known from outside. With the argument "movers" all are alive, and
// what they wait for is moved about all the time, as often as a second argument says, "50us": `moves` says how often
// that was done. With the argument "frames" all are alive, too: what they wait for is held by frames of every kind. With
// the argument "spins" one is alive, by what another one has in a register; that one is never preempted, unless a second
// argument says "preempted".
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"goleakguard.test/programs/internal/oracle"
)

// One goroutine and what it is an example of.
type one struct {
	Goid int    `json:"goid"`
	Name string `json:"name"`
}

var (
	lock    sync.Mutex
	leaked  []one
	alive   []one
	unclear []one
)

func main() {
	mode, last := "", func() {}
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "movers":
		if err := move(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	case "frames":
		liveFrames()
		for _, more := range otherFrames {
			more()
		}
	case "spins":
		withoutPreemption(os.Args[2:])
		last = spin
	default:
		// What only a finaliser or a weak pointer reaches stays as it is, but for what is to be in their queues.
		debug.SetGCPercent(-1)
		// First of all: what is freed for the queues is used again, and stacks still refer to what was there before.
		leak()
		scrub(64)
		fillQueues()
		live()
		for _, more := range others {
			more()
		}
	}
	awaitRest()
	last()
	oracle.Serve(map[string]oracle.Command{
		"expected": func() any {
			lock.Lock()
			defer lock.Unlock()
			return map[string][]one{"leaked": leaked, "alive": alive, "unclear": unclear}
		},
		"moves": moves,
	})
}

// scrub writes over what calls have left on the stack: later ones do not fill every word of their frames, and what
// stands in one that is in use counts as a reference.
//
//go:noinline
func scrub(depth int) byte {
	var room [1024]byte
	for i := range room {
		room[i] = byte(depth)
	}
	if depth > 0 {
		return scrub(depth-1) + room[depth]
	}
	return room[0]
}

// Filled in by files for newer releases: more goroutines, and what is to be in queues.
var (
	others      []func()
	queued      []func(begun chan<- struct{})
	otherFrames []func()
)

// begin runs f on a goroutine whose number is kept under a name.
func begin(list *[]one, name string, f func()) {
	begun := make(chan struct{})
	go func() {
		lock.Lock()
		*list = append(*list, one{goid(), name})
		lock.Unlock()
		close(begun)
		f()
	}()
	<-begun
}

// goid is the number of the calling goroutine.
func goid() int {
	text := make([]byte, 64)
	text = text[:runtime.Stack(text, false)]
	number, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		panic(err)
	}
	return number
}

// awaitRest returns once all goroutines with a name are blocked.
func awaitRest() {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		restless := restless()
		if restless == "" {
			return
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, "never at rest:", restless)
			os.Exit(1)
		}
	}
}

func restless() string {
	lock.Lock()
	defer lock.Unlock()
	states := map[int]string{}
	for _, block := range strings.Split(oracle.Traceback(2), "\n\n") {
		words := strings.SplitN(strings.SplitN(block, "\n", 2)[0], " ", 3)
		if len(words) == 3 && words[0] == "goroutine" {
			number, _ := strconv.Atoi(words[1])
			states[number] = words[2]
		}
	}
	for _, list := range [][]one{leaked, alive, unclear} {
		for _, one := range list {
			if state := states[one.Goid]; strings.HasPrefix(state, "[run") {
				return one.Name + " " + state
			}
		}
	}
	return ""
}
