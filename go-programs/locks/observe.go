package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// await asks again and again until the answer is yes, and ends the program if that takes a minute.
func await(what string, reached func() bool) {
	for deadline := time.Now().Add(time.Minute); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			fail("never reached:", what)
		}
	}
}

// futexOf is the address that a thread of this program waits at, 0 if it does not.
func futexOf(tid int) uint64 {
	futex := map[string]string{"amd64": "202", "arm64": "98"}[runtime.GOARCH]
	line, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", tid))
	if err != nil {
		fail(err)
	}
	words := strings.Fields(string(line))
	if len(words) < 2 || words[0] != futex {
		return 0
	}
	address, err := strconv.ParseUint(words[1], 0, 64)
	if err != nil {
		fail(err)
	}
	return address
}

// awaitEnd returns once there is no such thread.
func awaitEnd(tid int) {
	await(fmt.Sprint("the end of thread ", tid), func() bool {
		_, err := os.Stat(fmt.Sprint("/proc/self/task/", tid))
		return os.IsNotExist(err)
	})
}

// goroutine is what a traceback says of one: its state, and the innermost place in this program's own code.
type goroutine struct {
	state    string
	function string
	line     int
}

func goroutines() map[uint64]goroutine {
	all := make(map[uint64]goroutine)
	for _, block := range strings.Split(traceback(true), "\n\n") {
		goid, g := parse(block)
		all[goid] = g
	}
	return all
}

func ownGoid() uint64 {
	goid, _ := parse(traceback(false))
	return goid
}

// awaitState returns once the goroutine is in one of the states.
func awaitState(w *worker, states ...string) {
	await(fmt.Sprint("goroutine ", w.goid, " in ", states), func() bool {
		now := goroutines()[w.goid].state
		for _, state := range states {
			if now == state {
				return true
			}
		}
		return false
	})
}

func traceback(all bool) string {
	text := make([]byte, 1<<20)
	return string(text[:runtime.Stack(text, all)])
}

// parse reads one goroutine of a traceback (runtime/traceback.go, goroutineheader and traceback).
func parse(block string) (uint64, goroutine) {
	var g goroutine
	lines := strings.Split(block, "\n")
	var number string
	number, g.state, _ = strings.Cut(strings.TrimPrefix(lines[0], "goroutine "), " [")
	g.state = strings.FieldsFunc(g.state, func(r rune) bool { return r == ',' || r == ']' })[0]
	goid, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		fail("no goroutine:", block)
	}
	for i, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, "main.") || strings.HasPrefix(line, "main._C") {
			continue
		}
		g.function = line[:strings.LastIndexByte(line, '(')]
		place, _, _ := strings.Cut(strings.TrimSpace(lines[i+1]), " ")
		g.line, _ = strconv.Atoi(place[strings.LastIndexByte(place, ':')+1:])
		break
	}
	return goid, g
}
