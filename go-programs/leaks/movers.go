package main

import (
	"math/rand"
	"time"
)

// pauses are those of the movers between two moves.
var pauses = []time.Duration{0, 50 * time.Microsecond, time.Millisecond, 20 * time.Millisecond}

// move begins goroutines whose channels are always reachable, by one reference that never stays where it is.
func move() {
	for _, pause := range pauses {
		ring(pause)
		shuffle(pause)
		replace(pause)
	}
}

// victim waits for the channel that only the returned holder leads to.
func victim(name string) *holder {
	return waits(name)
}

// rest pauses, and lets others run in any case.
func rest(pause time.Duration) {
	if pause > 0 {
		time.Sleep(pause)
	}
}

// ring hands the reference on from goroutine to goroutine.
func ring(pause time.Duration) {
	const members = 4
	var links [members]chan *holder
	for i := range links {
		links[i] = make(chan *holder)
	}
	for i := range links {
		from, to := links[i], links[(i+1)%members]
		go func() {
			for {
				h := <-from
				rest(pause)
				to <- h
			}
		}()
	}
	links[0] <- victim("ring")
}

// shuffle moves the reference about in a table.
func shuffle(pause time.Duration) {
	table := make([]*holder, 4096)
	table[0] = victim("shuffle")
	go func() {
		at := 0
		for {
			to := rand.Intn(len(table))
			if to != at {
				table[to], table[at] = table[at], nil
				at = to
			}
			rest(pause)
		}
	}()
}

// replace puts the reference into a new object each time.
func replace(pause time.Duration) {
	first := &holder{next: victim("replace")}
	go func() {
		h := first
		for {
			h = &holder{next: h.next}
			rest(pause)
		}
	}()
}
