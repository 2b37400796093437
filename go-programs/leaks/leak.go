package main

import (
	"context"
	"sync"
)

// padded is no tiny object, which would share its place with others.
type padded struct {
	lock  sync.Mutex
	other sync.RWMutex
	group sync.WaitGroup
	pad   [64]byte
}

// leak begins goroutines that nobody can wake.
//
//go:noinline
func leak() {
	leakChannels()
	leakSelects()
	leakLocks()
	leakTogether()
}

//go:noinline
func leakChannels() {
	receive := make(chan int)
	begin(&leaked, "receive", func() { <-receive })
	pointers := make(chan *one, 3)
	begin(&leaked, "receive of pointers", func() { <-pointers })
	send := make(chan int)
	begin(&leaked, "send", func() { send <- 1 })
	full := make(chan *one, 1)
	full <- &one{}
	begin(&leaked, "send to a full channel", func() { full <- &one{} })
	jobs := make(chan string)
	begin(&leaked, "range", func() {
		for range jobs {
		}
	})
	var none chan int
	begin(&leaked, "receive from nil", func() { <-none })
	begin(&leaked, "send to nil", func() { none <- 1 })
	begin(&leaked, "empty select", func() { select {} })
	ctx, cancel := context.WithCancel(context.Background())
	_ = cancel
	begin(&leaked, "context", func() { <-ctx.Done() })
}

//go:noinline
func leakSelects() {
	a, b, c := make(chan int), make(chan *one), make(chan string, 1)
	c <- ""
	begin(&leaked, "select of three", func() {
		select {
		case <-a:
		case <-b:
		case c <- "x":
		}
	})
	done := make(chan struct{})
	begin(&leaked, "select of one", func() {
		for {
			select {
			case <-done:
				return
			}
		}
	})
}

//go:noinline
func leakLocks() {
	locked := &padded{}
	locked.lock.Lock()
	begin(&leaked, "Mutex", func() { locked.lock.Lock() })
	begin(&leaked, "Mutex, second", func() { locked.lock.Lock() })
	held := &padded{}
	held.other.Lock()
	begin(&leaked, "RWMutex", func() { held.other.Lock() })
	reading := &padded{}
	reading.other.Lock()
	begin(&leaked, "RWMutex, reader", func() { reading.other.RLock() })
	group := &padded{}
	group.group.Add(1)
	begin(&leaked, "WaitGroup", func() { group.group.Wait() })
	cond := sync.NewCond(&sync.Mutex{})
	begin(&leaked, "Cond", func() {
		cond.L.Lock()
		cond.Wait()
	})
	// Eight bytes: whoever has another tiny object in the same place seems to reach it.
	tiny := new(sync.Mutex)
	tiny.Lock()
	begin(&unclear, "tiny Mutex", func() { tiny.Lock() })
}

// leakTogether begins goroutines that wait for each other.
//
//go:noinline
func leakTogether() {
	a, b := make(chan int), make(chan int)
	begin(&leaked, "circle, first", func() {
		<-a
		b <- 1
	})
	begin(&leaked, "circle, second", func() {
		<-b
		a <- 1
	})
	one, two := &padded{}, &padded{}
	both := make(chan struct{}, 2)
	met := make(chan struct{})
	take := func(first, second *padded) func() {
		return func() {
			first.lock.Lock()
			both <- struct{}{}
			<-met
			second.lock.Lock()
		}
	}
	begin(&leaked, "deadlock, first", take(one, two))
	begin(&leaked, "deadlock, second", take(two, one))
	<-both
	<-both
	close(met)
}
