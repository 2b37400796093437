package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/pool", newPool(4))
	mux.HandleFunc("/race", race)
	mux.HandleFunc("/stream", stream)
	mux.Handle("/gather", new(gatherer))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer served.Add(1)
		mux.ServeHTTP(w, r)
	})
}

// job carries the only reference to where its answer goes.
type job struct {
	text   string
	answer chan string
}

// pool has workers for all requests.
type pool struct{ jobs chan job }

func newPool(workers int) *pool {
	p := &pool{make(chan job, 8)}
	for i := 0; i < workers; i++ {
		go func() {
			for job := range p.jobs {
				job.answer <- fmt.Sprintf("%s, %d", job.text, len(job.text))
			}
		}()
	}
	return p
}

func (p *pool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	job := job{r.URL.String(), make(chan string)}
	p.jobs <- job
	_, _ = io.WriteString(w, <-job.answer)
}

// race takes the first of several answers; the others find out that nobody wants them.
func race(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Millisecond)
	defer cancel()
	answers := make(chan int)
	for i := 0; i < 3; i++ {
		go func(i int) {
			time.Sleep(time.Duration(i) * 300 * time.Microsecond)
			select {
			case answers <- i:
			case <-ctx.Done():
			}
		}(i)
	}
	select {
	case i := <-answers:
		_, _ = fmt.Fprintln(w, i)
	case <-ctx.Done():
	}
}

// stream sends what another goroutine makes, for as long as the client listens.
func stream(w http.ResponseWriter, r *http.Request) {
	pieces := make(chan []byte)
	go func() {
		defer close(pieces)
		for i := 0; i < 8; i++ {
			select {
			case pieces <- make([]byte, 512):
			case <-r.Context().Done():
				return
			}
		}
	}()
	for piece := range pieces {
		if _, err := w.Write(piece); err == nil {
			w.(http.Flusher).Flush()
		}
	}
}

// gatherer has the goroutines of a request meet at locks.
type gatherer struct {
	lock sync.RWMutex
	seen map[string]int
}

func (g *gatherer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var group sync.WaitGroup
	own, sum := new(sync.Mutex), 0
	cond := sync.NewCond(own)
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			n := g.count(fmt.Sprint(r.URL.Path, i))
			own.Lock()
			defer own.Unlock()
			sum += n
			cond.Broadcast()
		}(i)
	}
	own.Lock()
	for sum == 0 {
		cond.Wait()
	}
	own.Unlock()
	group.Wait()
	_, _ = fmt.Fprintln(w, sum)
}

func (g *gatherer) count(key string) int {
	g.lock.RLock()
	n := g.seen[key]
	g.lock.RUnlock()
	g.lock.Lock()
	defer g.lock.Unlock()
	if g.seen == nil {
		g.seen = map[string]int{}
	}
	g.seen[key] = n + 1
	return n + 1
}
