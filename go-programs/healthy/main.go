// Command healthy creates as many goroutines per second as leaky does, in noise, waves and bursts, and
// leaks none: the program that must never be reported.
//
// It prints "READY <pid>" when it is up. Its goroutine count swings between about 40 and 400.
package main

import (
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	workers = 36
	tick    = 10 * time.Millisecond
	// wavePeriod is one slow rise and fall of the requests' duration, between the two values below.
	wavePeriod = 40 * time.Second
	waveLow    = 10 * time.Millisecond
	waveHigh   = 600 * time.Millisecond
)

func main() {
	requests := flag.Float64("requests", 220, "goroutines created per second, on the average")
	exitAtEOF := flag.Bool("stdin", false, "exit when standard input ends")
	flag.Parse()

	// Registered before READY, so that a SIGTERM sent on seeing it is never lost.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)

	jobs := make(chan time.Duration)
	for i := 0; i < workers; i++ {
		go work(jobs)
	}
	go serve(*requests, jobs)
	if *exitAtEOF {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop <- syscall.SIGTERM
		}()
	}

	fmt.Printf("READY %d\n", os.Getpid())
	<-stop
}

// work is one of the goroutines that live as long as the program.
func work(jobs <-chan time.Duration) {
	for pause := range jobs {
		time.Sleep(pause / 100)
	}
}

// serve creates request goroutines: a noisy stream whose requests take longer and shorter in a slow wave,
// and now and then a burst, which is taken out of the stream again so that the average rate holds.
func serve(requests float64, jobs chan<- time.Duration) {
	start := time.Now()
	nextBurst := burstPause()
	created := 0.0
	for range time.Tick(tick) {
		elapsed := time.Since(start)
		if elapsed > nextBurst {
			nextBurst = elapsed + burstPause()
			burst := 100 + rand.Intn(150)
			for i := 0; i < burst; i++ {
				go handle(500*time.Millisecond+noise(1500*time.Millisecond), jobs)
			}
			created += float64(burst)
		}
		phase := 2 * math.Pi * float64(elapsed) / float64(wavePeriod)
		typical := waveLow + time.Duration(float64(waveHigh-waveLow)*(1-math.Cos(phase))/2)
		for ; created < requests*elapsed.Seconds(); created++ {
			go handle(noise(2*typical), jobs)
		}
	}
}

// burstPause is the time to the next burst.
func burstPause() time.Duration {
	return 4*time.Second + noise(8*time.Second)
}

// noise is evenly spread between nothing and most.
func noise(most time.Duration) time.Duration {
	return time.Duration(rand.Int63n(int64(most)))
}

// handle serves one request, which takes so long, and ends.
func handle(takes time.Duration, jobs chan<- time.Duration) {
	_ = crc32.ChecksumIEEE(make([]byte, 1024))
	time.Sleep(takes)
	select {
	case jobs <- takes:
	default:
	}
}
