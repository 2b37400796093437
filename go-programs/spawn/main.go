// Program spawn creates goroutines that end at once, as quickly as it can, in batches: the load for which the
// cost of creation probes is measured. Eight more goroutines stay alive.
//
// It prints `RATE <goroutines per second>` every second, unless -quiet is given, and answers `rate` with the
// rate since the last answer.
package main

import (
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"goleakguard.test/programs/internal/oracle"
)

// spawned counts goroutines created since the start.
var spawned atomic.Int64

func main() {
	batch := flag.Int("batch", 64, "goroutines per batch")
	quiet := flag.Bool("quiet", false, "print no rate on its own")
	flag.Parse()

	idle := make(chan int)
	for i := 0; i < 8; i++ {
		go wait(idle)
	}
	go spawn(*batch)
	if !*quiet {
		go report()
	}
	for spawned.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	asked := newMeter()
	oracle.Serve(map[string]oracle.Command{
		"rate": func() any { return asked.read() },
	})
}

func spawn(batch int) {
	var alive sync.WaitGroup
	for {
		alive.Add(batch)
		for i := 0; i < batch; i++ {
			go brief(&alive)
		}
		alive.Wait()
		spawned.Add(int64(batch))
	}
}

func brief(alive *sync.WaitGroup) {
	alive.Done()
}

func wait(idle chan int) {
	<-idle
}

func report() {
	each := newMeter()
	for range time.Tick(time.Second) {
		fmt.Printf("RATE %.0f\n", each.read().Rate)
	}
}

// reading is the answer to `rate`.
type reading struct {
	// Rate is in goroutines per second, over Seconds.
	Rate    float64 `json:"rate"`
	Seconds float64 `json:"seconds"`
	Total   int64   `json:"total"`
}

// meter measures from one reading to the next.
type meter struct {
	at    time.Time
	total int64
}

func newMeter() *meter {
	return &meter{at: time.Now(), total: spawned.Load()}
}

func (m *meter) read() reading {
	now, total := time.Now(), spawned.Load()
	seconds := now.Sub(m.at).Seconds()
	r := reading{Rate: float64(total-m.total) / seconds, Seconds: seconds, Total: total}
	m.at, m.total = now, total
	return r
}
