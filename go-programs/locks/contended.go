package main

// #include "rhythm.h"
import "C"

import (
	"strconv"
	"time"
)

// pace is how many times longer everything takes than at full speed.
var pace = 1

// contended: threads and goroutines share locks for ever, in order and in several rhythms. With a number as its word
// everything takes so many times longer and nothing keeps a processor busy, which leaves a slow machine time to look.
func contended(word string) *expected {
	state := new(expected)
	if word != "" {
		times, err := strconv.Atoi(word)
		if err != nil || times < 1 {
			fail("contended takes how many times longer:", word)
		}
		pace = times
	}
	C.set_pace(C.uint(pace))
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
		nap(20)
	})
	go forEver(func() { wantAndSend(messages) })
	go forEver(func() { send(messages) })
	go forEver(func() { C.call_with_lock(keeps) })
	go forEver(func() { enterAndTry(books) })
}

func nap(microseconds int) {
	time.Sleep(time.Duration(microseconds*pace) * time.Microsecond)
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
	nap(20)
}

//go:noinline
func send(to chan int) {
	nap(200)
	to <- 1
}

// keepFor has the sync.Mutex for a while.
//
//go:noinline
func keepFor(books *ledger) {
	books.Lock()
	nap(100)
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
	nap(100)
}
