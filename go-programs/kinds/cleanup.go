//go:build go1.25

package main

import "runtime"

// Go 1.24 has cleanups, too, but calls them on the goroutine for finalisers, which is blocked already.
func init() {
	kinds = append(kinds, kind{"", 1, []string{"select (no cases)"}, startCleanup})
}

// startCleanup makes one of the runtime's own goroutines for cleanups call one that does not return.
func startCleanup(int) {
	begun := make(chan struct{})
	abandonCleanup(begun)
	collectUntil(begun)
}

//go:noinline
func abandonCleanup(begun chan struct{}) {
	runtime.AddCleanup(new([64]byte), func(begun chan struct{}) {
		close(begun)
		select {}
	}, begun)
}
