package main

// #include "storm.h"
import "C"

import "strconv"

// storm: so many locks, of which each is waited for once at least, and a few that are waited for all the time.
func storm(word string) *expected {
	locks, err := strconv.Atoi(word)
	if err != nil {
		fail(err)
	}
	state := new(expected)
	type steady struct {
		Lock   uint64 `json:"lock"`
		HeldMs int    `json:"held_ms"`
		Sleeps int    `json:"sleeps"`
	}
	state.answer("contention", func() any {
		var steadies []steady
		for i := C.int(0); i < C.steady_locks(); i++ {
			lock, held, sleeps := C.steady_address(i), C.steady_held_ms(i), C.steady_sleeps(i)
			steadies = append(steadies, steady{uint64(lock), int(held), int(sleeps)})
		}
		return struct {
			// Waited is how many locks of the storm somebody has slept for.
			Waited int `json:"waited"`
			// Sleeps is how often that was, for all locks.
			Sleeps int      `json:"sleeps"`
			Steady []steady `json:"steady"`
		}{int(C.storm_waited()), int(C.storm_sleeps()), steadies}
	})
	state.answer("release", func() any {
		C.end_storm()
		return true
	})
	state.answer("ended", func() any { return C.storm_threads() == 0 })
	C.start_storm(C.int(locks))
	return state
}
