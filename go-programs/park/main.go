// Program park keeps N goroutines blocked on a channel: `park N`.
package main

import (
	"fmt"
	"os"
	"strconv"

	"goleakguard.test/programs/internal/oracle"
)

func main() {
	n, err := count()
	if err != nil {
		fmt.Fprintln(os.Stderr, "usage: park N:", err)
		os.Exit(2)
	}
	start(n)
	oracle.AwaitParked([]oracle.Parked{{Creator: "start", Count: n, States: []string{"chan receive"}}})
	oracle.Serve(nil)
}

func count() (int, error) {
	if len(os.Args) != 2 {
		return 0, fmt.Errorf("%d arguments", len(os.Args)-1)
	}
	return strconv.Atoi(os.Args[1])
}

func start(n int) {
	from := make(chan int)
	for i := 0; i < n; i++ {
		go receive(from)
	}
}

func receive(from chan int) {
	<-from
}
