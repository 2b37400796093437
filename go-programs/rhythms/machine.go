package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// leaf is one of many objects on the heap; some lead to a goroutine that waits.
type leaf struct {
	next *leaf
	wake chan struct{}
	data [14]uintptr
}

// churn collects garbage all the time, of a heap in which every object is replaced by a copy every few seconds.
func churn(r *roll, me *member) {
	const leaves, waiting = 200_000, 50
	first := &leaf{}
	first.next = first
	for i := 1; i < leaves; i++ {
		l := &leaf{next: first.next}
		first.next = l
		if i%(leaves/waiting) == 0 {
			l.wake = make(chan struct{})
			wake := l.wake
			r.start("heap", func(m *member) {
				for range wake {
					m.here()
				}
			})
		}
	}
	replace, collect := time.NewTicker(20*time.Millisecond), time.NewTicker(250*time.Millisecond)
	for at := first; ; me.here() {
		select {
		case <-replace.C:
			for i := 0; i < 1000; i++ {
				copied := *at.next
				at.next = &copied
				at = at.next
			}
		case <-collect.C:
			runtime.GC()
		case <-r.calls:
			for i := 0; i < leaves; i++ {
				at = at.next
				if at.wake != nil {
					at.wake <- struct{}{}
				}
			}
		}
	}
}

// hub lets many wait for one event.
type hub struct {
	lock sync.Mutex
	next chan struct{}
}

func (h *hub) event() <-chan struct{} {
	h.lock.Lock()
	defer h.lock.Unlock()
	return h.next
}

func (h *hub) publish() {
	h.lock.Lock()
	defer h.lock.Unlock()
	close(h.next)
	h.next = make(chan struct{})
}

// longPoll has connections on both ends of which somebody waits for an event that seldom comes.
func longPoll(r *roll, me *member) {
	h := &hub{next: make(chan struct{})}
	listener := listen()
	r.start("accepts", func(m *member) {
		for ; ; m.here() {
			conn := must(listener.Accept())
			r.start("serves", func(m *member) { serve(m, conn, h) })
		}
	})
	for i := 0; i < 60; i++ {
		r.start("polls", func(m *member) { poll(m, listener.Addr()) })
	}
	seldom := time.NewTicker(4 * time.Second)
	for ; ; me.here() {
		select {
		case <-seldom.C:
			h.publish()
		case <-r.calls:
			h.publish()
			_ = dial(listener.Addr()).Close()
		}
	}
}

// serve answers each request when there is an event, or after a while.
func serve(m *member, conn net.Conn, h *hub) {
	defer conn.Close()
	request := make([]byte, 1)
	for {
		if _, err := conn.Read(request); err != nil {
			return
		}
		select {
		case <-h.event():
		case <-time.After(25 * time.Second):
		}
		m.here()
		if _, err := conn.Write(request); err != nil {
			return
		}
	}
}

func poll(m *member, to net.Addr) {
	conn := dial(to)
	message := []byte{'?'}
	for ; ; m.here() {
		check(write(conn, message))
		check(read(conn, message))
	}
}

// idle is a daemon with nothing to do.
func idle(r *roll, me *member) {
	r.expect(1) // os/signal's
	hangUp, lines, flush := make(chan os.Signal, 1), make(chan string), make(chan struct{})
	signal.Notify(hangUp, syscall.SIGHUP)
	r.start("signals", func(m *member) {
		for range hangUp {
			m.here()
		}
	})
	listener := listen()
	r.start("accepts", func(m *member) {
		for ; ; m.here() {
			_ = must(listener.Accept()).Close()
		}
	})
	r.start("writes lines", func(m *member) {
		for range lines {
			m.here()
		}
	})
	r.start("ticks", func(m *member) {
		now := time.NewTicker(30 * time.Second)
		for ; ; m.here() {
			select {
			case <-now.C:
			case <-flush:
			}
		}
	})
	out, in, err := os.Pipe()
	check(err)
	r.start("reads", func(m *member) {
		for line := make([]byte, 1); ; m.here() {
			check(read(out, line))
		}
	})
	cancel := shutDown(r)
	for range r.calls {
		check(syscall.Kill(os.Getpid(), syscall.SIGHUP))
		_ = dial(listener.Addr()).Close()
		lines <- ""
		flush <- struct{}{}
		check(write(in, []byte("\n")))
		cancel()
		cancel = shutDown(r)
		me.here()
	}
}

// shutDown waits for the end; it ends with it.
func shutDown(r *roll) context.CancelFunc {
	ctx, cancel := context.WithCancel(context.Background())
	r.start("shuts down", func(*member) { <-ctx.Done() })
	return cancel
}
