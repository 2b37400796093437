package main

import (
	"hash/crc32"
	"sync"
	"time"
)

// job is work for the diagnostics pool: done receives the checksum of payload.
type job struct {
	payload []byte
	done    chan<- uint32
}

// startDiagnostics starts a pool of workers and returns their queue.
func startDiagnostics() chan<- job {
	const workers = 16
	jobs := make(chan job, 64)
	for i := 0; i < workers; i++ {
		go func() {
			for j := range jobs {
				j.done <- crc32.ChecksumIEEE(j.payload)
			}
		}()
	}
	return jobs
}

// startServices starts what such a program has besides its requests: goroutines that live as long as it
// does, in the various waits of healthy ones.
func startServices() {
	const pollers, subscribers = 8, 12
	updates := make(chan int)
	for i := 0; i < pollers; i++ {
		go poll(time.Duration(100+50*i)*time.Millisecond, updates)
	}
	state := &vehicleState{}
	state.changed = sync.NewCond(&state.mu)
	go state.apply(updates)
	for i := 0; i < subscribers; i++ {
		go state.follow()
	}
	go housekeeping()
}

// poll reads a sensor now and then.
func poll(every time.Duration, updates chan<- int) {
	for value := 0; ; value++ {
		time.Sleep(every)
		updates <- value
	}
}

// vehicleState is what the sensors said last.
type vehicleState struct {
	mu      sync.Mutex
	changed *sync.Cond
	value   int
}

func (s *vehicleState) apply(updates <-chan int) {
	for value := range updates {
		s.mu.Lock()
		s.value = value
		s.mu.Unlock()
		s.changed.Broadcast()
	}
}

func (s *vehicleState) follow() {
	s.mu.Lock()
	for {
		s.changed.Wait()
	}
}

// housekeeping waits for whichever of its timers comes first.
func housekeeping() {
	second, minute := time.NewTicker(time.Second), time.NewTicker(time.Minute)
	for {
		select {
		case <-second.C:
		case <-minute.C:
		}
	}
}
