package main

import (
	"math"
	"math/rand"
	"time"
)

// work is a worker of a pool, until there is no more work.
func work(m *member, jobs <-chan time.Duration) {
	for pause := range jobs {
		m.here()
		time.Sleep(pause)
	}
}

// handOut gives each of so many idle workers something to do; the channel serves them in turn.
func handOut(jobs chan<- time.Duration, workers int) {
	for i := 0; i < workers; i++ {
		jobs <- 0
	}
}

// ramp starts its workers one after the other and then has little for them to do.
func ramp(r *roll, me *member) {
	const workers = 400
	jobs := make(chan time.Duration)
	start := time.NewTicker(over / workers)
	now := time.NewTicker(15 * time.Second)
	begin := time.Now()
	for begun := 0; ; me.here() {
		select {
		case <-start.C:
			for ; begun < due(begin, workers); begun++ {
				r.start("ramp", func(m *member) { work(m, jobs) })
			}
			if begun == workers {
				start.Stop()
			}
		case <-now.C:
			handOut(jobs, begun/10)
		case <-r.calls:
			handOut(jobs, begun)
		}
	}
}

// due is how many of `most` there should be by now, so that they are there in time: a ticker leaves out what a busy
// machine is late for.
func due(begin time.Time, most int) int {
	if since := time.Since(begin); since < over {
		return int(float64(most) * since.Seconds() / over.Seconds())
	}
	return most
}

// pool begins a worker when there is work and none is idle, up to its size. Demand rises to that, and then there is
// none for long.
func pool(r *roll, me *member) {
	const size, takes = 200, 50 * time.Millisecond
	jobs := make(chan time.Duration)
	workers := 0
	submit := func() {
		select {
		case jobs <- takes:
			return
		default:
		}
		if workers < size {
			workers++
			r.start("pool", func(m *member) { work(m, jobs) })
		}
		jobs <- takes
	}
	demand := time.NewTicker(takes)
	begin := time.Now()
	for ; ; me.here() {
		select {
		case <-demand.C:
			wanted := int(float64(size) * time.Since(begin).Seconds() / over.Seconds())
			if wanted > size {
				wanted = size
				demand.Reset(9 * time.Second)
			}
			for i := 0; i < wanted; i++ {
				submit()
			}
		case <-r.calls:
			handOut(jobs, workers)
		}
	}
}

// burst has thousands of goroutines for a moment, again and again, which all wait for one gate.
func burst(r *roll, me *member) {
	const many = 3000
	jobs := make(chan time.Duration)
	for i := 0; i < 20; i++ {
		r.start("between bursts", func(m *member) { work(m, jobs) })
	}
	begin := time.NewTicker(1500 * time.Millisecond)
	var gate chan struct{}
	var open <-chan time.Time
	release := func() {
		if gate != nil {
			close(gate)
		}
		gate, open = nil, nil
	}
	for ; ; me.here() {
		select {
		case <-begin.C:
			release()
			opens := make(chan struct{})
			gate, open = opens, time.After(100*time.Millisecond)
			for i := 0; i < many; i++ {
				r.start("burst", func(*member) { <-opens })
			}
		case <-open:
			release()
		case <-r.calls:
			release()
			handOut(jobs, 20)
		}
	}
}

// daily has more and fewer goroutines in a swing; its day has some seconds.
func daily(r *roll, me *member) {
	const low, high, day = 40, 340, 6 * time.Second
	jobs, retire := make(chan struct{}), make(chan struct{})
	count := 0
	tick := time.NewTicker(20 * time.Millisecond)
	begin := time.Now()
	for ; ; me.here() {
		select {
		case <-tick.C:
			phase := 2 * math.Pi * float64(time.Since(begin)) / float64(day)
			// It begins at its highest.
			wanted := low + int((high-low)*(1+math.Cos(phase))/2)
			for ; count < wanted; count++ {
				r.start("daily", func(m *member) { shift(m, jobs, retire) })
			}
			for ; count > wanted; count-- {
				retire <- struct{}{}
			}
		case <-r.calls:
			for i := 0; i < count; i++ {
				jobs <- struct{}{}
			}
		}
	}
}

func shift(m *member, jobs, retire <-chan struct{}) {
	for {
		select {
		case <-jobs:
			m.here()
		case <-retire:
			return
		}
	}
}

// lazy is a worker of a key, which ends when there is nothing for it for a while.
type lazy struct {
	key  int
	jobs chan struct{}
}

// lazyWorkers has one worker for each key that something was asked of lately.
func lazyWorkers(r *roll, me *member) {
	const keys, idle = 120, 2 * time.Second
	workers, gone := map[int]*lazy{}, make(chan *lazy)
	// ask gives a worker something to do, or is told that it goes.
	ask := func(w *lazy) bool {
		for {
			select {
			case w.jobs <- struct{}{}:
				return true
			case other := <-gone:
				delete(workers, other.key)
				if other == w {
					return false
				}
			}
		}
	}
	tick := time.NewTicker(15 * time.Millisecond)
	for ; ; me.here() {
		select {
		case <-tick.C:
			// Some keys are wanted often, most now and then.
			key := rand.Intn(keys) * rand.Intn(keys) / keys
			if w := workers[key]; w == nil || !ask(w) {
				w := &lazy{key, make(chan struct{})}
				workers[key] = w
				r.start("lazy", func(m *member) { w.serve(m, idle, gone) })
			}
		case w := <-gone:
			delete(workers, w.key)
		case <-r.calls:
			for _, w := range workers {
				ask(w)
			}
		}
	}
}

func (w *lazy) serve(m *member, idle time.Duration, gone chan<- *lazy) {
	for {
		select {
		case <-w.jobs:
			m.here()
		case <-time.After(idle):
			gone <- w
			return
		}
	}
}
