package main

import (
	"io"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"goleakguard.test/programs/internal/oracle"
)

// turns counts all that the working goroutines do.
var turns uint64

// workers never wait.
var workers = []func(){
	func() { go spin(1, "spin") },
	func() { go yield(2, "yield") },
	func() { go call(3, "call") },
}

// hold starts goroutines that work and holds them still wherever they are, while it waits for its input: it does
// that without telling the scheduler, which has no second processor for them.
func hold() {
	runtime.GOMAXPROCS(1)
	for _, start := range workers {
		start()
	}
	for before := atomic.LoadUint64(&turns); before < 1000; before = atomic.LoadUint64(&turns) {
		runtime.Gosched()
	}
	input, room := new(heldInput), make([]byte, 64<<10)
	oracle.ServeFrom(input, map[string]oracle.Command{
		// The stacks, and how far the work was when they were taken. What pprof does is done here with less work of
		// its own, so that it ends before the others take their turn.
		"plain": func() any {
			now := atomic.LoadUint64(&turns)
			return held{string(room[:runtime.Stack(room, true)]), now}
		},
		"grouped": func() any {
			now := atomic.LoadUint64(&turns)
			return held{oracle.Traceback(1), now}
		},
		// How far it was before and after the wait for this command.
		"turns": func() any { return [2]uint64{input.before, input.after} },
	})
}

type held struct {
	Text  string `json:"text"`
	Turns uint64 `json:"turns"`
}

type heldInput struct {
	before, after uint64
}

func (in *heldInput) Read(into []byte) (int, error) {
	for {
		in.before = atomic.LoadUint64(&turns)
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, 0, uintptr(unsafe.Pointer(&into[0])), uintptr(len(into)))
		in.after = atomic.LoadUint64(&turns)
		switch {
		case errno == syscall.EINTR:
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		default:
			return int(n), nil
		}
	}
}

//go:noinline
func spin(n int, name string) {
	for {
		atomic.AddUint64(&turns, 1)
	}
}

//go:noinline
func yield(n int, name string) {
	for {
		atomic.AddUint64(&turns, 1)
		runtime.Gosched()
	}
}

//go:noinline
func call(n int, name string) {
	for {
		n = leaf(n, name) + deeper(n, name)
	}
}

//go:noinline
func leaf(n int, name string) int {
	atomic.AddUint64(&turns, uint64(len(name)))
	return n ^ 1
}

//go:noinline
func deeper(n int, name string) int {
	var room [64]int
	room[n&63] = leaf(n, name)
	return room[len(name)]
}
