package main

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"goleakguard.test/programs/internal/oracle"
)

// arrived counts goroutines that have nothing left to do but to block.
var arrived atomic.Int64

// shapes are what a service's goroutines look like while they wait: 3 to 10 functions deep, each goroutine with
// data of its own.
var shapes = []func(id int){
	func(id int) { go newSession(id).serve() },
	func(id int) { go handle(&request{id: id, path: "/vehicles"}) },
	func(id int) { go refresh(id, new(entry)) },
	func(id int) { go (&publisher{topic: "telemetry", last: id}).run() },
	func(id int) { go (&branch{depth: 6}).visit(id) },
	func(id int) { go supervise(id) },
	func(id int) { go upload(id) },
}

// gather starts n goroutines, the shapes in turn, from two places at once as a service does, and returns when
// they have come to where they block.
func gather(n int) {
	hold.Lock()
	some := func(from, to int) {
		for i := from; i < to; i++ {
			shapes[i%len(shapes)](i)
		}
	}
	go some(0, n/2)
	some(n/2, n)
	for arrived.Load() < int64(n) {
		runtime.Gosched()
	}
	// Whether they all do is what the program's own profile tells, unless they are too many for its 64 MB.
	for n <= 10_000 && busy() {
		time.Sleep(time.Millisecond)
	}
}

// busy tells whether a goroutine is about to run besides the one that asks.
func busy() bool {
	for _, site := range oracle.Sites() {
		if site.CreatedBy != "" && (site.State == "runnable" || site.State == "running") {
			return true
		}
	}
	return false
}

// Nothing ever comes out of these.
var (
	frames = make(chan []byte)
	rows   = make(chan string)
	topics = make(chan string)
	done   = make(chan struct{})
	hold   sync.Mutex
	never  = newNever()
)

func newNever() *sync.WaitGroup {
	group := new(sync.WaitGroup)
	group.Add(1)
	return group
}

type session struct {
	id   int
	from chan []byte
}

func newSession(id int) *session { return &session{id, frames} }

//go:noinline
func (s *session) serve() {
	for frame, ok := s.next(); ok; frame, ok = s.next() {
		s.id += len(frame)
	}
}

//go:noinline
func (s *session) next() ([]byte, bool) {
	arrived.Add(1)
	frame, ok := <-s.from
	return frame, ok
}

type request struct {
	id   int
	path string
}

type handler func(*request) error

//go:noinline
func handle(r *request) {
	chain := authenticated(traced(func(r *request) error { return query(r.path, r.id) }))
	_ = chain(r)
}

func authenticated(next handler) handler {
	return func(r *request) error { return next(r) }
}

func traced(next handler) handler {
	return func(r *request) error {
		defer func() { r.path = "" }()
		return next(r)
	}
}

//go:noinline
func query(path string, id int) error {
	return fetch([]byte(path), id)
}

//go:noinline
func fetch(_ []byte, _ int) error {
	arrived.Add(1)
	select {
	case <-rows:
	case <-done:
	}
	return nil
}

type entry struct{ value [4]int }

//go:noinline
func refresh(id int, e *entry) {
	e.update(id)
}

//go:noinline
func (e *entry) update(id int) {
	arrived.Add(1)
	hold.Lock()
	e.value[id%len(e.value)] = id
	hold.Unlock()
}

type publisher struct {
	topic string
	last  int
}

//go:noinline
func (p *publisher) run() {
	p.publish(p.topic, p.last)
}

//go:noinline
func (p *publisher) publish(topic string, n int) {
	send(topics, topic)
	p.last = n
}

func send[T any](to chan T, value T) {
	arrived.Add(1)
	to <- value
}

type branch struct{ depth int }

//go:noinline
func (b *branch) visit(id int) int {
	if b.depth == 0 {
		arrived.Add(1)
		never.Wait()
		return id
	}
	below := branch{b.depth - 1}
	return below.visit(id) + 1
}

//go:noinline
func supervise(id int) {
	var lock sync.Mutex
	quiet := sync.NewCond(&lock)
	lock.Lock()
	arrived.Add(1)
	quiet.Wait()
	lock.Unlock()
	_ = id
}

// upload has a buffer in its frame.
//
//go:noinline
func upload(id int) byte {
	var piece [2048]byte
	fill(piece[:], id)
	return piece[id%len(piece)]
}

//go:noinline
func fill(piece []byte, id int) {
	arrived.Add(1)
	<-done
	piece[id%len(piece)] = byte(id)
}
