// Command rhythms has goroutines as healthy programs do, in one of many rhythms: nothing of it may ever be called
// leaked or stuck.
//
// `rhythms [-over DURATION] RHYTHM` prints "READY <pid>" at once and begins; what grows at the beginning does so over
// that time. Asked `alive?` it makes every single goroutine that it has run, and answers how many those are and which
// did not: what can be made to run is not leaked.
package main

import (
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"goleakguard.test/programs/internal/oracle"
)

// over is the time that a beginning takes.
var over time.Duration

// rhythms are what there is, by name. Each is run by a goroutine of its own, which never returns.
var rhythms = map[string]func(*roll, *member){
	// workers.go
	"ramp":        ramp,
	"pool":        pool,
	"burst":       burst,
	"daily":       daily,
	"lazyworkers": lazyWorkers,
	// waits.go
	"fanout": fanOut,
	"locks":  locks,
	"cond":   cond,
	"group":  group,
	"pubsub": pubSub,
	// machine.go
	"gc":       churn,
	"longpoll": longPoll,
	"idle":     idle,
}

func main() {
	flag.DurationVar(&over, "over", 3*time.Second, "time that a beginning takes")
	flag.Parse()
	rhythm, known := rhythms[flag.Arg(0)]
	if !known || flag.NArg() != 1 {
		names := make([]string, 0, len(rhythms))
		for name := range rhythms {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintln(os.Stderr, "rhythms [-over DURATION]", strings.Join(names, "|"))
		os.Exit(2)
	}
	all := newRoll()
	all.start("driver", func(me *member) { rhythm(all, me) })
	oracle.Serve(map[string]oracle.Command{"alive?": all.call})
}
