package main

import (
	"reflect"
	"syscall"
	"time"
)

// held begins a goroutine that stands still, and whose stack alone leads to another one, in a way of its own.
func held(name string, f func(h *holder)) {
	both := make(chan struct{})
	begin(&alive, name+", holder", func() {
		h := waits(name)
		close(both)
		f(h)
	})
	<-both
}

// aside begins one that keeps what it has but for the time in which it stands still.
func aside(h *holder) { time.Sleep(time.Hour); h.wake() }

// liveFrames begins goroutines that have a frame of each kind that the compiler tells the collector of in another way.
//
//go:noinline
func liveFrames() {
	held("struct on a stack, by address", func(h *holder) {
		kept := struct {
			n int
			h [3]*holder
		}{h: [3]*holder{1: h}}
		byAddress(&kept.h)
	})
	held("closure on a stack", func(h *holder) { callLater(func() { h.wake() }) })
	held("argument in memory", func(h *holder) { byValue([5]*holder{3: h}) })
	held("argument", aside)
	held("interface on a stack", func(h *holder) {
		var w waker = h
		byInterface(w)
	})
	held("result", func(h *holder) { byResult(h).wake() })
	held("method value", func(h *holder) { callLater(h.wake) })
	held("call by reflection", func(h *holder) {
		reflect.ValueOf(aside).Call([]reflect.Value{reflect.ValueOf(h)})
	})
	held("function made by reflection", func(h *holder) {
		made := reflect.MakeFunc(reflect.TypeOf(aside), func(in []reflect.Value) []reflect.Value {
			aside(in[0].Interface().(*holder))
			return nil
		})
		made.Interface().(func(*holder))(h)
	})
	held("caller of a function made by reflection", func(h *holder) {
		made := reflect.MakeFunc(reflect.TypeOf(func() {}), func([]reflect.Value) []reflect.Value {
			time.Sleep(time.Hour)
			return nil
		})
		made.Interface().(func())()
		h.wake()
	})
	held("method called by reflection", func(h *holder) {
		reflect.ValueOf(sleeper{h}).Method(0).Interface().(func())()
	})
	held("system call", func(h *holder) {
		var pipe [2]int
		if err := syscall.Pipe(pipe[:]); err != nil {
			panic(err)
		}
		var one [1]byte
		syscall.Read(pipe[0], one[:])
		h.wake()
	})
	liveDeferred()
}

//go:noinline
func byAddress(kept *[3]*holder) {
	time.Sleep(time.Hour)
	kept[1].wake()
}

//go:noinline
func callLater(f func()) {
	time.Sleep(time.Hour)
	f()
}

//go:noinline
func byValue(kept [5]*holder) {
	time.Sleep(time.Hour)
	kept[3].wake()
}

//go:noinline
func byInterface(w waker) {
	time.Sleep(time.Hour)
	w.wake()
}

//go:noinline
func byResult(h *holder) (result *holder) {
	defer func() { time.Sleep(time.Hour) }()
	return h
}

type sleeper struct{ h *holder }

// Sleep is found by reflection.
func (s sleeper) Sleep() { aside(s.h) }

//go:noinline
func liveDeferred() {
	held("deferred call with an argument", func(h *holder) {
		defer h.wake()
		h = nil
		time.Sleep(time.Hour)
	})
	held("deferred closure", func(h *holder) {
		defer func() { h.wake() }()
		time.Sleep(time.Hour)
	})
	// More than eight are not compiled into the frame: their records are on the stack.
	held("one of many deferred calls", func(h *holder) {
		none := func() {}
		defer none()
		defer none()
		defer none()
		defer none()
		defer func() { h.wake() }()
		defer none()
		defer none()
		defer none()
		defer none()
		defer none()
		time.Sleep(time.Hour)
	})
	held("deferred function among many", func(h *holder) { deferAmongMany(later(h)) })
	// Those of a loop are on the heap, and one on the stack lies between them.
	held("deferred call of a loop", func(h *holder) {
		for i := 0; i < 3; i++ {
			if i == 1 {
				defer h.wake()
			} else {
				defer func() {}()
			}
		}
		h = nil
		time.Sleep(time.Hour)
	})
	held("deferred call under one of a loop", func(h *holder) {
		none := func() {}
		defer none()
		defer none()
		defer none()
		defer none()
		defer none()
		defer func() { h.wake() }()
		defer none()
		defer none()
		defer none()
		deferInLoop()
	})
	held("argument of a panic", func(h *holder) {
		defer func() { recover().(*holder).wake() }()
		defer time.Sleep(time.Hour)
		panic(h)
	})
	held("deferred call of who panics", func(h *holder) {
		defer func() {
			recover()
			h.wake()
		}()
		defer time.Sleep(time.Hour)
		panic("")
	})
	held("caller of who has recovered", func(h *holder) {
		recovers()
		h.wake()
	})
	held("deferred call of who failed", func(h *holder) {
		defer func() {
			recover()
			h.wake()
		}()
		defer time.Sleep(time.Hour)
		var none *holder
		none.wake()
	})
}

//go:noinline
func later(h *holder) func() { return func() { h.wake() } }

//go:noinline
func deferAmongMany(f func()) {
	none := func() {}
	defer none()
	defer none()
	defer none()
	defer none()
	defer none()
	defer f()
	defer none()
	defer none()
	defer none()
	f = nil
	time.Sleep(time.Hour)
}

//go:noinline
func deferInLoop() {
	for i := 0; i < 2; i++ {
		defer func() {}()
	}
	time.Sleep(time.Hour)
}

//go:noinline
func recovers() {
	defer time.Sleep(time.Hour)
	defer func() { recover() }()
	panic("")
}
