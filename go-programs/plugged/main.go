// Program plugged loads a plugin and blocks goroutines there and in itself: `plugged PLUGIN`.
package main

import (
	"fmt"
	"os"
	"plugin"

	"goleakguard.test/programs/internal/oracle"
)

const parked = 8

func main() {
	if err := load(); err != nil {
		fmt.Fprintln(os.Stderr, "usage: plugged PLUGIN:", err)
		os.Exit(2)
	}
	park()
	oracle.AwaitParked([]oracle.Parked{{Creator: "park", Count: parked, States: []string{"chan receive"}}})
	oracle.Serve(nil)
}

func load() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("%d arguments", len(os.Args)-1)
	}
	loaded, err := plugin.Open(os.Args[1])
	if err != nil {
		return err
	}
	start, err := loaded.Lookup("Park")
	if err != nil {
		return err
	}
	start.(func())()
	return nil
}

func park() {
	from := make(chan int)
	for i := 0; i < parked; i++ {
		go func() { <-from }()
	}
}
