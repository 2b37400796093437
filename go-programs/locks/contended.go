package main

// #include "rhythm.h"
import "C"

import "time"

// contended: threads and goroutines share locks for ever, in order and in several rhythms.
func contended(string) *expected {
	state := new(expected)
	C.prepare_rhythms()
	for i := C.int(0); i < C.rhythms(); i++ {
		for n := C.int(0); n < C.rhythm_threads(i); n++ {
			C.start_rhythm(i)
		}
		for n := C.int(0); n < C.rhythm_goroutines(i); n++ {
			go turns(i)
		}
	}
	tempt()
	type rhythm struct {
		Locks  int `json:"locks"`
		Waited int `json:"waited"`
	}
	contention := func() any {
		all := make(map[string]rhythm)
		for i := C.int(0); i < C.rhythms(); i++ {
			all[C.GoString(C.rhythm_name(i))] = rhythm{int(C.rhythm_locks(i)), int(C.rhythm_waited(i))}
		}
		return all
	}
	await("every lock to be waited for", func() bool {
		for i := C.int(0); i < C.rhythms(); i++ {
			if C.rhythm_waited(i) == 0 {
				return false
			}
		}
		return true
	})
	state.answer("contention", contention)
	return state
}

func turns(rhythm C.int) {
	for {
		C.rhythm_turns(rhythm)
	}
}

// tempt runs what looks like a deadlock through Go and is none: whoever is called with C's lock held waits for a
// message or for a sync.Mutex, and those who could help want the same lock in C. But one of them does not wait for it,
// and whoever has the sync.Mutex got C's lock before.
func tempt() {
	messages, books := make(chan int), new(ledger)
	receives := newCall(func() { receive(messages) })
	enters := newCall(func() { enterBook(books) })
	keeps := newCall(func() { keepFor(books) })
	go forEver(func() { C.call_with_lock(receives) })
	go forEver(func() {
		C.call_with_lock(enters)
		time.Sleep(20 * time.Microsecond)
	})
	go forEver(func() { wantAndSend(messages) })
	go forEver(func() { send(messages) })
	go forEver(func() { C.call_with_lock(keeps) })
	go forEver(func() { enterAndTry(books) })
}

func forEver(turn func()) {
	for {
		turn()
	}
}

// wantAndSend could help, and mostly waits for the lock instead.
//
//go:noinline
func wantAndSend(to chan int) {
	C.lock_for_call()
	C.unlock_for_call()
	select {
	case to <- 1:
	default:
	}
	time.Sleep(20 * time.Microsecond)
}

//go:noinline
func send(to chan int) {
	time.Sleep(200 * time.Microsecond)
	to <- 1
}

// keepFor has the sync.Mutex for a while.
//
//go:noinline
func keepFor(books *ledger) {
	books.Lock()
	time.Sleep(100 * time.Microsecond)
	books.Unlock()
}

// enterAndTry enters C with the sync.Mutex locked, against the order, but does not wait there.
//
//go:noinline
func enterAndTry(books *ledger) {
	books.Lock()
	if bool(C.lock_if_free_for_call()) {
		C.unlock_for_call()
	}
	books.Unlock()
	time.Sleep(100 * time.Microsecond)
}
