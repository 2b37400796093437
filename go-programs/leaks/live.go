package main

import (
	"context"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// holder is something that leads to a channel.
type holder struct {
	next *holder
	c    chan struct{}
}

func (h *holder) wake() { close(h.c) }

type waker interface{ wake() }

// What is reachable from global variables.
var (
	jobs      = make(chan func())
	byMap     = map[string]*holder{}
	byFace    waker
	byClosure func()
	bySlice   []*holder
	byArray   [4]*holder
	byList    *holder
	byPool    = sync.Pool{}
	bySyncMap sync.Map
	byCond    = sync.NewCond(&sync.Mutex{})
	byLock    sync.Mutex
	byGroup   sync.WaitGroup
	byContext context.Context
	never     = make(chan struct{})
)

// waits begins a goroutine that waits for a channel, and returns what leads there.
//
//go:noinline
func waits(name string) *holder {
	h := &holder{c: make(chan struct{})}
	c := h.c
	begin(&alive, name, func() { <-c })
	return h
}

// sleeps runs f on a goroutine that then sleeps, and is as alive as can be.
func sleeps(f func()) {
	go func() {
		time.Sleep(time.Hour)
		f()
	}()
}

// live begins goroutines that somebody can wake.
//
//go:noinline
func live() {
	liveGlobals()
	liveStacks()
	liveTime()
	liveLocks()
	liveNet()
	liveFinalizers()
}

//go:noinline
func liveGlobals() {
	for i := 0; i < 3; i++ {
		begin(&alive, "worker", func() {
			for job := range jobs {
				job()
			}
		})
	}
	byMap["x"] = waits("map")
	byFace = waits("interface")
	h := waits("closure")
	byClosure = func() { h.wake() }
	bySlice = append(bySlice, waits("slice"))
	byArray[2] = waits("array")
	byList = &holder{next: &holder{next: waits("list")}}
	byPool.Put(waits("sync.Pool"))
	bySyncMap.Store("x", waits("sync.Map"))
	begin(&alive, "Cond", func() {
		byCond.L.Lock()
		byCond.Wait()
	})
	byLock.Lock()
	begin(&alive, "global Mutex", func() { byLock.Lock() })
	byGroup.Add(1)
	begin(&alive, "global WaitGroup", func() { byGroup.Wait() })
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	begin(&alive, "signal", func() { <-signals })
	other := make(chan int)
	c := make(chan int)
	bySelect = c
	begin(&alive, "select of which one is reachable", func() {
		select {
		case <-other:
		case <-c:
		}
	})
}

var bySelect chan int

//go:noinline
func liveStacks() {
	h := waits("stack of a sleeper")
	sleeps(h.wake)
	deferred := waits("deferred call")
	go func() {
		defer deferred.wake()
		time.Sleep(time.Hour)
	}()
	deep := waits("deep stack")
	go dive(200, deep)
	local := waits("local variable")
	go func() {
		var kept [3]*holder
		kept[1] = local
		time.Sleep(time.Hour)
		kept[1].wake()
	}()
	// Each link is on the stack of a goroutine that waits for the one before.
	last := &holder{c: make(chan struct{})}
	next := last
	for i := 0; i < 5; i++ {
		h := &holder{c: make(chan struct{})}
		after := next
		begin(&alive, "chain", func() {
			<-h.c
			after.wake()
		})
		next = h
	}
	begin(&alive, "chain, last", func() { <-last.c })
	sleeps(next.wake)
}

//go:noinline
func dive(depth int, h *holder) {
	var room [64]byte
	if depth == 0 {
		time.Sleep(time.Hour)
	} else {
		dive(depth-1, h)
	}
	if room[depth%64] == 0 {
		runtime.KeepAlive(h)
	}
}

//go:noinline
func liveTime() {
	h := waits("time.AfterFunc")
	time.AfterFunc(time.Hour, h.wake)
	begin(&alive, "time.After", func() { <-time.After(time.Hour) })
	begin(&alive, "select with time.After", func() {
		select {
		case <-time.After(time.Hour):
		case <-make(chan int):
		}
	})
	begin(&alive, "ticker", func() {
		ticker := time.NewTicker(time.Hour)
		for range ticker.C {
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	_ = cancel
	begin(&alive, "context.WithTimeout", func() { <-ctx.Done() })
	parent, cancelParent := context.WithCancel(context.Background())
	byContext = parent
	child, cancelChild := context.WithCancel(parent)
	_, _ = cancelParent, cancelChild
	begin(&alive, "child of a reachable context", func() { <-child.Done() })
}

// beside is a tiny object with a lock behind something else.
type beside struct {
	x    int32
	lock sync.Mutex
}

//go:noinline
func liveLocks() {
	b := &beside{}
	b.lock.Lock()
	begin(&alive, "Mutex in a struct", func() { b.lock.Lock() })
	sleeps(func() {
		b.x++
		b.lock.Unlock()
	})
	p := &padded{}
	p.lock.Lock()
	begin(&alive, "Mutex that a sleeper has", func() { p.lock.Lock() })
	sleeps(p.lock.Unlock)
	r := &padded{}
	r.other.RLock()
	begin(&alive, "RWMutex that a sleeper reads", func() { r.other.Lock() })
	sleeps(r.other.RUnlock)
	tiny := new(sync.Mutex)
	tiny.Lock()
	begin(&alive, "tiny Mutex", func() { tiny.Lock() })
	sleeps(tiny.Unlock)
	group := new(sync.WaitGroup)
	group.Add(1)
	begin(&alive, "WaitGroup of a sleeper", func() { group.Wait() })
	sleeps(group.Done)
	cond := sync.NewCond(&sync.Mutex{})
	begin(&alive, "Cond of a sleeper", func() {
		cond.L.Lock()
		cond.Wait()
	})
	sleeps(cond.Broadcast)
}

//go:noinline
func liveNet() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	h := waits("netpoll")
	go func() {
		conn, err := listener.Accept()
		h.wake()
		_, _ = conn, err
	}()
	read, _, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	piped := waits("read of a pipe")
	go func() {
		_, _ = io.ReadAll(read)
		piped.wake()
	}()
}

//go:noinline
func liveFinalizers() {
	h := waits("object with a finaliser")
	runtime.SetFinalizer(&holder{next: h}, func(h *holder) { h.next.wake() })
	closed := waits("finaliser")
	runtime.SetFinalizer(&holder{}, func(*holder) { closed.wake() })
}

// fillQueues has finalisers and cleanups wait for the first of them, which does not return.
func fillQueues() {
	begun := make(chan struct{}, 64)
	// With all goroutines blocked the runtime would take this for a deadlock before a finaliser runs.
	go time.Sleep(time.Hour)
	for i := 0; i < 3; i++ {
		finalizer(begun)
	}
	for _, more := range queued {
		more(begun)
	}
	runtime.GC()
	<-begun
}

//go:noinline
func finalizer(begun chan struct{}) {
	runtime.SetFinalizer(&holder{next: waits("queue of finalisers")}, func(h *holder) {
		begun <- struct{}{}
		<-never
		h.next.wake()
	})
}
