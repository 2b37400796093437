// Command sites creates goroutines at two `go` statements, as many as it is told, so that counts per
// creation site can be compared with what was asked for.
//
// It prints "READY <pid>", then answers each line on standard input:
//
//	go SHORT LONG   SHORT goroutines at startShort, which end, and LONG at startLong, which stay;
//	                "DONE <nanoseconds>" when they are created and the short ones are gone
//
// It ends when standard input does.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"time"
)

// batch bounds how many short goroutines live at once.
const batch = 256

var forever = make(chan struct{})

func main() {
	fmt.Println("READY", os.Getpid())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var short, long int
		if _, err := fmt.Sscanf(in.Text(), "go %d %d", &short, &long); err != nil {
			fmt.Println("ERROR", err)
			continue
		}
		start := time.Now()
		for ; short > 0; short -= batch {
			n := batch
			if short < n {
				n = short
			}
			before := runtime.NumGoroutine()
			startShort(n)
			// The count falls in goexit0 itself, so no exit is still to come after this.
			for runtime.NumGoroutine() > before {
				runtime.Gosched()
			}
		}
		startLong(long)
		fmt.Println("DONE", time.Since(start).Nanoseconds())
	}
}

//go:noinline
func startShort(n int) {
	for i := 0; i < n; i++ {
		go func() {}()
	}
}

//go:noinline
func startLong(n int) {
	for i := 0; i < n; i++ {
		go func() { <-forever }()
	}
}
