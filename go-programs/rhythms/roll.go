package main

import (
	"runtime"
	"sort"
	"sync"
	"time"
)

// patience is the time after which a goroutine that has not answered will not.
const patience = 2 * time.Minute

// roll knows all goroutines of the program by name, and nothing of what they wait for: what leads to that is where
// healthy programs have it too.
type roll struct {
	// calls reaches the rhythm's driver, which then wakes all others in the way in which they are woken anyway.
	calls chan struct{}

	lock    sync.Mutex
	number  int
	members map[*member]struct{}
	// ended is how many have ended since the last call that began before it.
	ended int
	// others have no name: they are the library's.
	others int
}

// member is one goroutine.
type member struct {
	roll *roll
	name string
	// born is the number of the last call before it began, seen that of the last one that it has answered.
	born, seen int
}

func newRoll() *roll {
	return &roll{calls: make(chan struct{}), members: map[*member]struct{}{}}
}

// start begins a goroutine, which is a member until f returns.
func (r *roll) start(name string, f func(*member)) {
	m := r.join(name)
	go func() {
		defer m.leave()
		f(m)
	}()
}

// expect says how many goroutines the library has begun.
func (r *roll) expect(others int) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.others = others
}

// join makes a member of a goroutine that is about to begin.
func (r *roll) join(name string) *member {
	r.lock.Lock()
	defer r.lock.Unlock()
	m := &member{roll: r, name: name, born: r.number, seen: r.number}
	r.members[m] = struct{}{}
	return m
}

// here says that the goroutine runs.
func (m *member) here() {
	m.roll.lock.Lock()
	defer m.roll.lock.Unlock()
	m.seen = m.roll.number
}

// leave is the last that a goroutine does.
func (m *member) leave() {
	m.roll.lock.Lock()
	defer m.roll.lock.Unlock()
	delete(m.roll.members, m)
	if m.born < m.roll.number {
		m.roll.ended++
	}
}

// answer is what `alive?` is answered with.
type answer struct {
	// Held is how many goroutines there were: all have run since, and some have ended.
	Held int `json:"held"`
	// Silent are the names of those that have not run.
	Silent []string `json:"silent"`
	// Unnamed goroutines are nobody's.
	Unnamed int `json:"unnamed"`
}

// call wakes all goroutines until each has answered.
func (r *roll) call() any {
	r.lock.Lock()
	r.number++
	r.ended = 0
	r.lock.Unlock()
	deadline := time.After(patience)
	for {
		said := r.answers()
		if len(said.Silent) == 0 && said.Unnamed == 0 {
			return said
		}
		select {
		case r.calls <- struct{}{}:
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			return said
		}
	}
}

func (r *roll) answers() answer {
	r.lock.Lock()
	defer r.lock.Unlock()
	said := answer{Held: r.ended, Silent: []string{}}
	for m := range r.members {
		if m.born < r.number {
			said.Held++
		}
		if m.seen < r.number {
			said.Silent = append(said.Silent, m.name)
		}
	}
	sort.Strings(said.Silent)
	// The main goroutine asks.
	said.Unnamed = runtime.NumGoroutine() - 1 - len(r.members) - r.others
	return said
}
