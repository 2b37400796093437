package main

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// forwardTimeout is how long a request waits for the cloud. Generous, so that an emulated processor
	// under load keeps it as long as the cloud is well.
	forwardTimeout = 250 * time.Millisecond
	cloudWell      = 2 * time.Millisecond
	// leakedMax bounds the damage when nobody stops the program.
	leakedMax = 200_000
)

var errTimeout = errors.New("the cloud did not answer in time")

// Gateway takes requests from the vehicle, answers most by itself and forwards some to the cloud.
type Gateway struct {
	jobs   chan<- job
	late   int32 // atomic: 1 once the cloud answers too late
	leaked int32 // atomic
	once   sync.Once

	subscribes bool // whether requests subscribe to answers instead of waiting for one
	keep       bool // whether it remembers what it waits for: then nobody can tell that it never looks there again
	mu         sync.Mutex
	answers    []chan uint32
}

// beginLeak makes the cloud late from now on.
func (g *Gateway) beginLeak() {
	g.once.Do(func() {
		atomic.StoreInt32(&g.late, 1)
		fmt.Printf("LEAKING %d\n", time.Now().UnixMilli())
	})
}

// serve creates request goroutines at a steady rate, so many of them forwarding.
func (g *Gateway) serve(requests, forwards float64) {
	const tick = 10 * time.Millisecond
	start := time.Now()
	handled, forwarded := 0.0, 0.0
	for range time.Tick(tick) {
		elapsed := time.Since(start).Seconds()
		for ; handled < requests*elapsed; handled++ {
			forward := forwarded < forwards*elapsed && atomic.LoadInt32(&g.leaked) < leakedMax
			if forward {
				forwarded++
			}
			go g.handle(forward)
		}
	}
}

// handle serves one request and ends.
func (g *Gateway) handle(forward bool) {
	payload := make([]byte, 256+rand.Intn(768))
	done := make(chan uint32, 1)
	g.jobs <- job{payload, done}
	sum := <-done
	time.Sleep(time.Duration(rand.Intn(20)) * time.Millisecond)
	if !forward {
		return
	}
	if g.subscribes && atomic.LoadInt32(&g.late) == 1 {
		g.subscribe()
	} else if _, err := g.forward(sum); err != nil {
		atomic.AddInt32(&g.leaked, 1)
	}
}

// forward asks the cloud and gives up after forwardTimeout. The channel has no buffer: whoever answers
// after that waits for a receiver that has gone.
func (g *Gateway) forward(sum uint32) (uint32, error) {
	answer, gone := make(chan uint32), make(chan struct{})
	g.remember(answer)
	go func() { // LEAK
		answer <- g.askCloud(sum, gone)
	}()
	select {
	case a := <-answer:
		return a, nil
	case <-time.After(forwardTimeout):
		close(gone)
		return 0, errTimeout
	}
}

// remember keeps a way to what is waited for.
func (g *Gateway) remember(answer chan uint32) {
	if g.keep {
		g.mu.Lock()
		g.answers = append(g.answers, answer)
		g.mu.Unlock()
	}
}

// subscribe begins to listen and is never told to stop: what it listens to is remembered, but nothing comes.
func (g *Gateway) subscribe() {
	answers := make(chan uint32)
	g.mu.Lock()
	g.answers = append(g.answers, answers)
	g.mu.Unlock()
	go func() {
		for range answers {
		}
	}()
	atomic.AddInt32(&g.leaked, 1)
}

// askCloud stands for a call over the mobile network. A late one comes after whoever asked has gone, however slow the
// machine is.
func (g *Gateway) askCloud(sum uint32, gone <-chan struct{}) uint32 {
	if atomic.LoadInt32(&g.late) == 1 {
		<-gone
	} else {
		time.Sleep(cloudWell)
	}
	return sum ^ crc32.IEEE
}
