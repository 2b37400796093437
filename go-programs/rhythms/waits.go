package main

import (
	"sync"
	"time"
)

// hold is how long a slow one takes: longer than an observation when all others are before you.
const hold = 1500 * time.Millisecond

// fanOut has producers that wait long to send, because who receives is slow. Half of them were begun by a goroutine
// that has ended.
func fanOut(r *roll, me *member) {
	const producers = 8
	results := make(chan int)
	begin := func() {
		for i := 0; i < producers/2; i++ {
			r.start("fanout", func(m *member) { produce(m, results) })
		}
	}
	begin()
	r.start("setup", func(*member) { begin() })
	slowly := time.NewTicker(hold)
	for ; ; me.here() {
		select {
		case <-slowly.C:
			<-results
		case <-r.calls:
			for i := 0; i < producers; i++ {
				<-results
			}
		}
	}
}

func produce(m *member, results chan<- int) {
	for n := 0; ; n++ {
		results <- n
		m.here()
	}
}

// locked is held for long.
type locked struct {
	lock  sync.Mutex
	table sync.RWMutex
	// hurry ends a hold early.
	hurry chan struct{}
}

func (l *locked) hold(time_ time.Duration) {
	select {
	case <-time.After(time_):
	case <-l.hurry:
	}
}

// locks has locks that are held for seconds, by one after the other.
func locks(r *roll, me *member) {
	l := &locked{hurry: make(chan struct{})}
	for i := 0; i < 8; i++ {
		r.start("Mutex", func(m *member) {
			for ; ; m.here() {
				l.lock.Lock()
				l.hold(hold)
				l.lock.Unlock()
			}
		})
	}
	for i := 0; i < 2; i++ {
		r.start("writer", func(m *member) {
			for ; ; m.here() {
				l.table.Lock()
				l.hold(2 * hold)
				l.table.Unlock()
			}
		})
	}
	for i := 0; i < 6; i++ {
		r.start("reader", func(m *member) {
			for ; ; m.here() {
				l.table.RLock()
				l.hold(hold / 10)
				l.table.RUnlock()
			}
		})
	}
	for range r.calls {
		select {
		case l.hurry <- struct{}{}:
		case <-time.After(time.Millisecond):
		}
		me.here()
	}
}

// cond has waiters of which one is woken now and then.
func cond(r *roll, me *member) {
	var lock sync.Mutex
	news := sync.NewCond(&lock)
	for i := 0; i < 40; i++ {
		r.start("cond", func(m *member) {
			lock.Lock()
			defer lock.Unlock()
			for {
				news.Wait()
				m.here()
			}
		})
	}
	rarely := time.NewTicker(2 * time.Second)
	for ; ; me.here() {
		select {
		case <-rarely.C:
			news.Signal()
		case <-r.calls:
			news.Broadcast()
		}
	}
}

// batch is work that takes minutes, and somebody waits for all of it.
type batch struct {
	group    sync.WaitGroup
	end      chan struct{}
	finished chan struct{}
}

// group has batches that are never finished unless there is a call; who began one has ended.
func group(r *roll, me *member) {
	all := make([]*batch, 10)
	for i := range all {
		all[i] = newBatch(r)
	}
	for range r.calls {
		for i, b := range all {
			close(b.end)
			<-b.finished
			all[i] = newBatch(r)
		}
		me.here()
	}
}

func newBatch(r *roll) *batch {
	b := &batch{end: make(chan struct{}), finished: make(chan struct{})}
	r.start("begins a batch", func(*member) {
		for i := 0; i < 5; i++ {
			b.group.Add(1)
			r.start("works", func(*member) {
				defer b.group.Done()
				<-b.end
			})
		}
		r.start("waits for a batch", func(*member) {
			b.group.Wait()
			close(b.finished)
		})
	})
	return b
}

// pubSub has more and more subscribers, up to a bound, to whom there is seldom anything to say.
func pubSub(r *roll, me *member) {
	const most = 150
	var feeds []chan struct{}
	publish := func() {
		for _, feed := range feeds {
			select {
			case feed <- struct{}{}:
			default: // it has not read the last one yet
			}
		}
	}
	subscribe, rarely := time.NewTicker(over/most), time.NewTicker(15*time.Second)
	begin := time.Now()
	for ; ; me.here() {
		select {
		case <-subscribe.C:
			for len(feeds) < due(begin, most) {
				feed := make(chan struct{}, 1)
				feeds = append(feeds, feed)
				r.start("subscriber", func(m *member) {
					for range feed {
						m.here()
					}
				})
			}
			if len(feeds) == most {
				subscribe.Stop()
			}
		case <-rarely.C:
			publish()
		case <-r.calls:
			publish()
		}
	}
}
