package main

// #include "lock.h"
import "C"

import (
	"runtime"
	"strconv"
)

// pins: some goroutines lock themselves to their threads for ever; each `grow` sends as many into C for ever.
func pins(word string) *expected {
	n, err := strconv.Atoi(word)
	if err != nil {
		fail(err)
	}
	state, never := new(expected), make(chan struct{})
	for i := 0; i < n; i++ {
		newWorker(nil, nil, nil).inGo(func(w *worker) { pin(w, never) }).tid()
	}
	inC := 0
	state.answer("grow", func() any {
		for i := 0; i < n; i++ {
			newWorker(nil, nil, nil).inGo(stay).tid()
		}
		inC += n
		return map[string]int{"pinned": n, "in_c": inC}
	})
	return state
}

//go:noinline
func pin(w *worker, never chan struct{}) {
	runtime.LockOSThread()
	enterAndKeep(w)
	<-never
}
