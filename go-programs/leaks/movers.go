package main

import (
	"math/rand"
	"sync/atomic"
	"time"
)

// pauses are those of the movers between two moves.
var pauses = []time.Duration{0, 50 * time.Microsecond, time.Millisecond, 20 * time.Millisecond}

// Entries of the tables in which references are moved: 32 KiB, 1 MiB and 8 MiB. The longer it takes to read one, the
// more often the reference goes from where nobody has looked yet to where everybody has.
const (
	table     = 4 << 10
	wideTable = 128 << 10
	hugeTable = 1 << 20
)

// mover is somebody who waits for a channel, and the only reference to that channel, which never stays where it is.
type mover struct {
	name  string
	moves atomic.Int64
	pause time.Duration
}

var movers []*mover

// move begins goroutines whose channels are always reachable, by one reference that never stays where it is: at all
// speeds, or at the one that is wanted, and then in large tables as well.
func move(wanted []string) error {
	speeds := pauses
	if len(wanted) > 0 {
		pause, err := time.ParseDuration(wanted[0])
		if err != nil {
			return err
		}
		speeds = []time.Duration{pause}
	}
	for _, pause := range speeds {
		newMover("ring", pause).ring(0)
		newMover("buffered ring", pause).ring(1)
		newMover("shuffle", pause).shuffle(table)
		newMover("map", pause).remap()
		newMover("replace", pause).replace()
		if len(wanted) > 0 {
			newMover("shuffle of 1 MiB", pause).shuffle(wideTable)
			newMover("shuffle of 8 MiB", pause).shuffle(hugeTable)
		}
	}
	return nil
}

func newMover(name string, pause time.Duration) *mover {
	m := &mover{name: name + ", " + pause.String(), pause: pause}
	movers = append(movers, m)
	return m
}

// moves says how often each has moved its reference.
func moves() any {
	all := map[string]int64{}
	for _, m := range movers {
		all[m.name] = m.moves.Load()
	}
	return all
}

// victim waits for the channel that only the returned holder leads to.
func (m *mover) victim() *holder {
	return waits(m.name)
}

// moved counts a move, and rests.
func (m *mover) moved() {
	m.moves.Add(1)
	if m.pause > 0 {
		time.Sleep(m.pause)
	}
}

// ring hands the reference on from goroutine to goroutine.
func (m *mover) ring(room int) {
	const members = 4
	var links [members]chan *holder
	for i := range links {
		links[i] = make(chan *holder, room)
	}
	for i := range links {
		from, to := links[i], links[(i+1)%members]
		go func() {
			for {
				h := <-from
				m.moved()
				to <- h
			}
		}()
	}
	links[0] <- m.victim()
}

// shuffle moves the reference about in a table.
func (m *mover) shuffle(entries int) {
	table := make([]*holder, entries)
	table[0] = m.victim()
	go func() {
		at := 0
		for {
			to := rand.Intn(len(table))
			if to != at {
				table[to], table[at] = table[at], nil
				at = to
			}
			m.moved()
		}
	}()
}

// remap moves the reference about in a map.
func (m *mover) remap() {
	byKey := map[int]*holder{0: m.victim()}
	go func() {
		for at := 0; ; {
			to := rand.Intn(table)
			h := byKey[at]
			delete(byKey, at)
			byKey[to] = h
			at = to
			m.moved()
		}
	}()
}

// replace puts the reference into a new object each time.
func (m *mover) replace() {
	first := &holder{next: m.victim()}
	go func() {
		h := first
		for {
			h = &holder{next: h.next}
			m.moved()
		}
	}()
}
