package main

// #cgo LDFLAGS: -pthread
// #include "lock.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// lock is one of C's, and gate where its threads meet.
type (
	lock = *C.struct_lock
	gate = *C.struct_gate
	task = *C.task
)

var kinds = map[string]C.int{
	"":           C.NORMAL,
	"normal":     C.NORMAL,
	"recursive":  C.RECURSIVE,
	"errorcheck": C.ERRORCHECK,
	"adaptive":   C.ADAPTIVE,
	"robust":     C.ROBUST,
	"pi":         C.PI,
	"rwlock":     C.READ_WRITE,
}

// lockKind is a kind of lock, and how it is to be seen.
type lockKind struct {
	number C.int
	// name is what a wait for it is called.
	name string
	// owned tells whether the library writes down who has it.
	owned bool
}

func kindOf(word string) lockKind {
	number, known := kinds[word]
	if !known {
		fail("no kind of lock:", word)
	}
	kind := lockKind{number, "mutex", bool(C.records_owner(number))}
	switch number {
	case C.ROBUST:
		kind.name = "robust mutex"
	case C.PI:
		kind.name = "PI mutex"
	case C.READ_WRITE:
		kind.name = "rwlock"
		if !kind.owned {
			// Nothing in it tells it from anything else.
			kind.name = "futex"
		}
	}
	return kind
}

func (k lockKind) new() lock {
	lock := C.new_lock(k.number)
	if lock == nil {
		fail("this library has no such kind of lock")
	}
	return lock
}

func newGate(all int) gate {
	return C.new_gate(C.int(all))
}

// worker is a thread that waits in C, or holds what others wait for; maybe with the goroutine that took it there.
type worker struct {
	c *C.struct_worker
	// goid is 0 on a thread of C's own.
	goid uint64
}

func newWorker(first, second lock, gate gate) *worker {
	return &worker{c: C.new_worker(first, second, gate)}
}

// inC does the task on a thread of C's own.
func (w *worker) inC(task unsafe.Pointer) *worker {
	C.start(w.c, (*C.task)(task))
	return w
}

// inGo does what calls the task on a goroutine.
func (w *worker) inGo(call func(*worker)) *worker {
	known := make(chan struct{})
	go func() {
		w.goid = ownGoid()
		close(known)
		call(w)
	}()
	<-known
	return w
}

func (w *worker) tid() int {
	var tid C.int
	await("a thread's number", func() bool {
		tid = C.worker_tid(w.c)
		return tid != 0
	})
	return int(tid)
}

// await returns once all of these stand in their waits.
func awaitBlocked(workers ...*worker) {
	for _, w := range workers {
		tid := w.tid()
		await(fmt.Sprint("thread ", tid, " to wait"), func() bool {
			return C.worker_function(w.c) != nil && futexOf(tid) != 0
		})
	}
}

// The calls into C, each in a function of its own.

func lockBoth(w *worker)     { C.lock_both(w.c) }
func lockTwice(w *worker)    { C.lock_twice(w.c) }
func lockLast(w *worker)     { C.lock_last(w.c) }
func lockDeep(w *worker)     { C.lock_deep(w.c) }
func lockAndLeave(w *worker) { C.lock_and_leave(w.c) }
func readSecond(w *worker)   { C.read_second(w.c) }
func holdAndCall(w *worker)  { C.hold_and_call(w.c) }
func holdAndJoin(w *worker)  { C.hold_and_join(w.c) }
func enterAndKeep(w *worker) { C.enter_and_keep(w.c) }
func stay(w *worker)         { C.stay(w.c) }
