package main

// #include "lock.h"
import "C"

import "goleakguard.test/programs/internal/oracle"

// wait is a thread that waits in C.
type wait struct {
	TID  int    `json:"tid"`
	Kind string `json:"kind"`
	// Lock is its address; 0 where it is no lock.
	Lock  uint64 `json:"lock"`
	Owner *int   `json:"owner"`
	// OwnerExited tells that the owner has ended.
	OwnerExited bool    `json:"owner_exited"`
	Goid        *uint64 `json:"goid"`
	// CFunction is the function that called into the C library.
	CFunction  string `json:"c_function"`
	GoFunction string `json:"go_function"`
	GoLine     int    `json:"go_line"`
}

// deadlock is a circle of waits.
type deadlock struct {
	Threads    []int    `json:"threads"`
	Goroutines []uint64 `json:"goroutines"`
	// Inferred tells that a wait within Go is part of it.
	Inferred bool `json:"inferred"`
}

// expected is what an observer has to find.
type expected struct {
	waits     []wait
	deadlocks []deadlock
	// answers are what the mode says to commands of its own.
	answers map[string]oracle.Command
}

func (e *expected) answer(command string, with oracle.Command) {
	if e.answers == nil {
		e.answers = make(map[string]oracle.Command)
	}
	e.answers[command] = with
}

func (e *expected) json() any {
	type all struct {
		Deadlocks []deadlock `json:"deadlocks"`
		Waits     []wait     `json:"waits"`
	}
	return all{append([]deadlock{}, e.deadlocks...), append([]wait{}, e.waits...)}
}

// wait adds a worker that waits for its second lock; the owner is nil if there is none, or nobody can know.
func (e *expected) wait(w *worker, kind string, owner *worker) *wait {
	if kind == "futex" {
		return e.waitElsewhere(w, kind, owner)
	}
	return e.add(w, wait{Kind: kind, Lock: uint64(C.worker_lock(w.c))}, owner)
}

// waitElsewhere adds one that waits for something else than a lock.
func (e *expected) waitElsewhere(w *worker, kind string, owner *worker) *wait {
	return e.add(w, wait{Kind: kind}, owner)
}

func (e *expected) add(w *worker, wait wait, owner *worker) *wait {
	wait.TID = w.tid()
	wait.CFunction = C.GoString(C.worker_function(w.c))
	if owner != nil {
		tid := owner.tid()
		wait.Owner = &tid
	}
	if w.goid != 0 {
		wait.Goid = &w.goid
		place := goroutines()[w.goid]
		wait.GoFunction, wait.GoLine = place.function, place.line
	}
	e.waits = append(e.waits, wait)
	return &e.waits[len(e.waits)-1]
}

// ring adds workers of which each waits for the next one's lock, and the deadlock that they are if that can be
// known.
func (e *expected) ring(kind lockKind, workers ...*worker) {
	for i, w := range workers {
		owner := workers[(i+1)%len(workers)]
		if !kind.owned {
			owner = nil
		}
		e.wait(w, kind.name, owner)
	}
	if kind.owned {
		e.deadlock(false, workers...)
	}
}

// deadlock adds a circle of these.
func (e *expected) deadlock(inferred bool, workers ...*worker) {
	circle := deadlock{Threads: []int{}, Goroutines: []uint64{}, Inferred: inferred}
	for _, w := range workers {
		circle.Threads = append(circle.Threads, w.tid())
		if w.goid != 0 {
			circle.Goroutines = append(circle.Goroutines, w.goid)
		}
	}
	e.deadlocks = append(e.deadlocks, circle)
}
