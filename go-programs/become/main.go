// Program become turns into another program, in the same process: `become PROGRAM ARGUMENTS...` does so when it
// is told `exec`.
package main

import (
	"fmt"
	"os"
	"syscall"

	"goleakguard.test/programs/internal/oracle"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: become PROGRAM ARGUMENTS...")
		os.Exit(2)
	}
	oracle.Serve(map[string]oracle.Command{"exec": func() any {
		err := syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
		return map[string]string{"error": err.Error()}
	}})
}
