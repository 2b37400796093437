// Program plug is a plugin: a second module in a running program, with goroutines of its own.
package main

import "goleakguard.test/programs/internal/oracle"

// Parked is how many goroutines Park leaves behind.
const Parked = 12

// Park blocks goroutines in this module.
func Park() {
	from := make(chan int)
	for i := 0; i < Parked; i++ {
		go receive(from)
	}
	oracle.AwaitParked([]oracle.Parked{{Creator: "Park", Count: Parked, States: []string{"chan receive"}}})
}

//go:noinline
func receive(from chan int) {
	<-from
}

func main() {}
