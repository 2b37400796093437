package oracle

import (
	"os"
	"runtime/debug"
)

// heapDump writes a heap dump to a file that the reader is to remove, and returns its name.
func heapDump() string {
	// No collection is to move stacks behind it.
	debug.SetGCPercent(-1)
	file, err := os.CreateTemp("", "heap-")
	if err != nil {
		panic(err)
	}
	defer file.Close()
	debug.WriteHeapDump(file.Fd())
	return file.Name()
}
