package main

// #include "lock.h"
// extern void called_with_lock_held(int number);
import "C"

import (
	"runtime"
	"sync"
	"time"
)

// relock: a goroutine in C takes a lock twice.
func relock(word string) *expected {
	kind, state := kindOf(word), new(expected)
	lock := kind.new()
	if word == "" {
		// For once no allocation, but a variable of the program.
		lock = C.standing_lock()
	}
	w := newWorker(nil, lock, nil).inGo(lockTwice)
	awaitBlocked(w)
	state.ring(kind, w)
	return state
}

// ringOf makes workers of which each has a lock that the one before it wants.
func ringOf(kind lockKind, n int) []*worker {
	locks, gate := make([]lock, n), newGate(n)
	for i := range locks {
		locks[i] = kind.new()
	}
	workers := make([]*worker, n)
	for i := range workers {
		workers[i] = newWorker(locks[i], locks[(i+1)%n], gate)
	}
	return workers
}

// abba: two threads of C's own, each with the lock that the other wants.
func abba(word string) *expected {
	kind, state := kindOf(word), new(expected)
	workers := ringOf(kind, 2)
	for _, w := range workers {
		w.inC(C.lock_both)
	}
	awaitBlocked(workers...)
	state.ring(kind, workers...)
	return state
}

// abbaGo: the same of two goroutines in C.
func abbaGo(word string) *expected {
	return goRing(kindOf(word), 2)
}

// three: a circle of three.
func three(word string) *expected {
	return goRing(kindOf(word), 3)
}

func goRing(kind lockKind, n int) *expected {
	state, workers := new(expected), ringOf(kind, n)
	for _, w := range workers {
		w.inGo(lockBoth)
	}
	awaitBlocked(workers...)
	state.ring(kind, workers...)
	return state
}

// tail: the C functions end with the call that takes the lock.
func tail(word string) *expected {
	kind, state := kindOf(word), new(expected)
	workers := ringOf(kind, 2)
	for _, w := range workers {
		w.inGo(lockLast)
	}
	awaitBlocked(workers...)
	state.ring(kind, workers...)
	return state
}

// deep: the lock is taken some C functions further in.
func deep(word string) *expected {
	kind, state := kindOf(word), new(expected)
	workers := ringOf(kind, 2)
	for _, w := range workers {
		w.inGo(lockDeep)
	}
	awaitBlocked(workers...)
	state.ring(kind, workers...)
	return state
}

// timed: a deadlock that ends in a year.
func timed(word string) *expected {
	kind, state := kindOf(word), new(expected)
	workers := ringOf(kind, 2)
	for _, w := range workers {
		w.inC(C.timedlock_both)
	}
	awaitBlocked(workers...)
	state.ring(kind, workers...)
	return state
}

// rwlock: two writers, each with the lock that the other wants, and a reader who wants one of them.
func rwlock(string) *expected {
	kind, state := kindOf("rwlock"), new(expected)
	a, b, gate := kind.new(), kind.new(), newGate(3)
	writers := []*worker{newWorker(a, b, gate), newWorker(b, a, gate)}
	for _, w := range writers {
		w.inC(C.write_both)
	}
	reader := newWorker(nil, a, gate).inGo(readSecond)
	awaitBlocked(append(writers, reader)...)
	state.ring(kind, writers...)
	var owner *worker
	if kind.owned {
		owner = writers[0]
	}
	state.wait(reader, kind.name, owner)
	return state
}

// join: a thread waits for the end of another, which wants the lock that the first one has.
func join(word string) *expected {
	kind, state := kindOf(word), new(expected)
	lock, gate := kind.new(), newGate(2)
	wants := newWorker(nil, lock, gate)
	joins := newWorker(lock, nil, gate)
	C.set_other(joins.c, wants.c)
	wants.inC(C.lock_both)
	joins.inGo(holdAndJoin)
	awaitBlocked(wants, joins)
	state.waitElsewhere(joins, "join", wants)
	if kind.owned {
		state.wait(wants, kind.name, joins)
		state.deadlock(false, joins, wants)
	} else {
		state.wait(wants, kind.name, nil)
	}
	return state
}

// calls are what goroutines do that C calls with a lock held.
var calls struct {
	sync.Mutex
	next []func()
}

// newCall gives a number to what is to be done.
func newCall(call func()) C.int {
	calls.Lock()
	defer calls.Unlock()
	calls.next = append(calls.next, call)
	return C.int(len(calls.next) - 1)
}

//export called_with_lock_held
func called_with_lock_held(number C.int) {
	calls.Lock()
	call := calls.next[number]
	calls.Unlock()
	call()
}

// callback: a goroutine in C holds a lock and is called back into Go, where it waits for a message of another,
// which wants that lock first.
func callback(word string) *expected {
	kind, state := kindOf(word), new(expected)
	lock, gate, messages := kind.new(), newGate(2), make(chan int)
	holds := newWorker(lock, nil, gate)
	C.set_number(holds.c, newCall(func() { receive(messages) }))
	sends := newWorker(nil, lock, gate)
	holds.inGo(holdAndCall)
	sends.inGo(func(w *worker) { lockAndSend(w, messages) })
	awaitBlocked(sends)
	awaitState(holds, "chan receive")
	if kind.owned {
		state.wait(sends, kind.name, holds)
		state.deadlock(true, holds, sends)
	} else {
		state.wait(sends, kind.name, nil)
	}
	return state
}

// helped: the same, but there is a third goroutine, asleep, that will send: it comes to the channel by way of others.
func helped(word string) *expected {
	kind, state := kindOf(word), new(expected)
	lock, gate, messages := kind.new(), newGate(2), make(chan int)
	helper := newWorker(nil, nil, nil).inGo(func(w *worker) { helpLater(w, &office{&desk{messages}}) })
	holds := newWorker(lock, nil, gate)
	C.set_number(holds.c, newCall(func() { receive(messages) }))
	sends := newWorker(nil, lock, gate)
	holds.inGo(holdAndCall)
	sends.inGo(func(w *worker) { lockAndSend(w, messages) })
	awaitBlocked(sends)
	awaitState(holds, "chan receive")
	awaitState(helper, "sleep")
	var owner *worker
	if kind.owned {
		owner = holds
	}
	state.wait(sends, kind.name, owner)
	return state
}

type (
	office struct{ desk *desk }
	desk   struct{ out chan int }
)

//go:noinline
func helpLater(w *worker, office *office) {
	time.Sleep(time.Hour)
	office.desk.out <- int(w.goid)
}

//go:noinline
func receive(from chan int) {
	<-from
}

//go:noinline
func lockAndSend(w *worker, to chan int) {
	C.lock_and_leave(w.c)
	to <- 1
}

// ledger is something with a lock of Go's own.
type ledger struct {
	entries int
	sync.Mutex
}

var books ledger

// syncMutex: a goroutine enters C with a sync.Mutex locked and wants a lock there, which the thread of another has,
// who waits for the sync.Mutex.
func syncMutex(word string) *expected {
	return syncAndC(kindOf(word), new(ledger))
}

// syncGlobal: the same with a package's variable.
func syncGlobal(word string) *expected {
	return syncAndC(kindOf(word), &books)
}

func syncAndC(kind lockKind, books *ledger) *expected {
	state, lock := new(expected), kind.new()
	hasC, hasGo := newWorker(lock, nil, nil), newWorker(nil, lock, nil)
	both := make(chan struct{}, 2)
	hasC.inGo(func(w *worker) {
		// A lock of C's belongs to the thread.
		runtime.LockOSThread()
		enterAndKeep(w)
		both <- struct{}{}
		awaitFull(both)
		enterBook(books)
	})
	hasGo.inGo(func(w *worker) {
		books.Lock()
		both <- struct{}{}
		awaitFull(both)
		lockBooked(w, books)
	})
	awaitBlocked(hasGo)
	awaitState(hasC, "sync.Mutex.Lock", "semacquire")
	if kind.owned {
		state.wait(hasGo, kind.name, hasC)
		state.deadlock(true, hasC, hasGo)
	} else {
		state.wait(hasGo, kind.name, nil)
	}
	return state
}

func awaitFull(both chan struct{}) {
	await("both to have their first lock", func() bool { return len(both) == cap(both) })
}

//go:noinline
func enterBook(books *ledger) {
	books.Lock()
	books.entries++
	books.Unlock()
}

//go:noinline
func lockBooked(w *worker, books *ledger) {
	C.lock_and_leave(w.c)
	books.entries++
	books.Unlock()
}
