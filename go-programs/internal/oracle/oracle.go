// Package oracle lets a test program say of itself what GoLeakGuard reads from outside.
//
// A program sets its goroutines up, calls Serve, and then answers each line on its standard input with one line
// of JSON: `count`, `sites`, `stacks`, `build`, `heap`, `quit`, and whatever commands of its own it adds. It ends with its input,
// so that a test that dies leaves nothing behind.
package oracle

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
)

// Command answers one line; its result is printed as JSON.
type Command func() any

// Serve prints the readiness line `READY <pid>`, answers commands until `quit` or the end of the input, and ends
// the program.
func Serve(extra map[string]Command) {
	ServeFrom(os.Stdin, extra)
}

// ServeFrom is Serve with the lines of another input.
func ServeFrom(lines io.Reader, extra map[string]Command) {
	commands := map[string]Command{
		"count": func() any { return map[string]int{"goroutines": runtime.NumGoroutine()} },
		"sites": func() any { return Sites() },
		"build": func() any { return build() },
		// A file with a heap dump, which says of each frame which of its words the collector looks at.
		"heap": func() any { return map[string]string{"file": heapDump()} },
		// What pprof prints of all goroutines, with debug=2 and debug=1.
		"stacks": func() any { return map[string]string{"plain": Traceback(2), "grouped": Traceback(1)} },
	}
	for name, command := range extra {
		commands[name] = command
	}
	fmt.Printf("READY %d\n", os.Getpid())
	input := bufio.NewScanner(lines)
	out := json.NewEncoder(os.Stdout)
	for input.Scan() {
		line := input.Text()
		if line == "quit" {
			os.Exit(0)
		}
		command, known := commands[line]
		if !known {
			fmt.Fprintf(os.Stderr, "unknown command %q\n", line)
			os.Exit(2)
		}
		if err := out.Encode(command()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(0)
}
