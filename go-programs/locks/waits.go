package main

// #include "lock.h"
// #include "waits.h"
import "C"

import "strconv"

// waitersFor a lock: two threads of C's own and a goroutine.
func waitersFor(lock lock, gate gate) []*worker {
	return []*worker{
		newWorker(nil, lock, gate).inC(C.lock_and_leave),
		newWorker(nil, lock, gate).inC(C.lock_and_leave),
		newWorker(nil, lock, gate).inGo(lockAndLeave),
	}
}

// pi: a mutex with priority inheritance, held by a thread that does something else.
func pi(string) *expected {
	kind, state := kindOf("pi"), new(expected)
	lock, gate := kind.new(), newGate(4)
	holder := newWorker(lock, nil, gate).inC(C.hold_and_pause)
	waiters := waitersFor(lock, gate)
	awaitBlocked(waiters...)
	for _, w := range waiters {
		state.wait(w, kind.name, holder)
	}
	return state
}

// piCycle: two such mutexes, each held by a thread that wants the other. The kernel refuses the second wait, and the
// library then lets that thread wait for nothing at all.
func piCycle(string) *expected {
	kind, state := kindOf("pi"), new(expected)
	workers := ringOf(kind, 2)
	for _, w := range workers {
		w.inC(C.lock_both)
	}
	awaitBlocked(workers...)
	for i, w := range workers {
		if at := futexOf(w.tid()) - uint64(C.worker_lock(w.c)); at < uint64(C.lock_size()) {
			state.wait(w, kind.name, workers[1-i])
		} else {
			state.waitElsewhere(w, "futex", nil)
		}
	}
	return state
}

// exited: a thread has ended with a lock taken.
func exited(word string) *expected {
	kind, state := kindOf(word), new(expected)
	lock := kind.new()
	gone := newWorker(lock, nil, nil).inC(C.enter_and_keep)
	C.join(gone.c)
	awaitEnd(gone.tid())
	waiters := waitersFor(lock, nil)
	awaitBlocked(waiters...)
	for _, w := range waiters {
		owner := gone
		if !bool(C.is_glibc()) {
			// The number is taken out of the lock as the thread ends.
			owner = nil
		}
		state.wait(w, kind.name, owner).OwnerExited = kind.owned
	}
	return state
}

// hold: a lock is held for some seconds, or until `release` is said.
func hold(word string) *expected {
	kind, state := kindOf(""), new(expected)
	lock, gate := kind.new(), newGate(4)
	holder := newWorker(lock, nil, gate)
	waiters := waitersFor(lock, gate)
	owner := holder
	if !kind.owned {
		owner = nil
	}
	if word == "" {
		holder.inC(C.hold_until_told)
	} else {
		seconds, err := strconv.Atoi(word)
		if err != nil {
			fail(err)
		}
		C.set_number(holder.c, C.int(seconds))
		holder.inC(C.hold_for_seconds)
	}
	awaitBlocked(waiters...)
	for _, w := range waiters {
		state.wait(w, kind.name, owner)
	}
	state.answer("release", func() any {
		C.let_go(holder.c)
		return true
	})
	state.answer("ended", func() any {
		for _, w := range waiters {
			if C.worker_function(w.c) != nil {
				return false
			}
		}
		return true
	})
	return state
}

// cond: threads wait for what nobody has.
func cond(string) *expected {
	state := new(expected)
	waiters := []*worker{
		newWorker(nil, nil, nil).inC(C.wait_for_condition),
		newWorker(nil, nil, nil).inGo(func(w *worker) { C.wait_for_condition(w.c) }),
		newWorker(nil, nil, nil).inC(C.wait_condition_timed),
		newWorker(nil, nil, nil).inGo(func(w *worker) { C.wait_for_semaphore(w.c) }),
		newWorker(nil, nil, nil).inC(C.wait_at_barrier),
	}
	once, file := newGate(2), newGate(2)
	newWorker(nil, nil, once).inC(C.be_first)
	waiters = append(waiters, newWorker(nil, nil, once).inC(C.wait_for_first))
	holder := newWorker(nil, nil, file).inC(C.hold_file)
	waitsForFile := newWorker(nil, nil, file).inGo(func(w *worker) { C.wait_for_file(w.c) })
	awaitBlocked(append(waiters, waitsForFile)...)
	for _, w := range waiters {
		state.waitElsewhere(w, "futex", nil)
	}
	if bool(C.is_glibc()) {
		holder = nil
	}
	state.waitElsewhere(waitsForFile, "futex", holder)
	return state
}
