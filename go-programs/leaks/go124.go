//go:build go1.24

package main

import (
	"iter"
	"runtime"
	"weak"
)

var (
	byWeak weak.Pointer[holder]
	byPull func() (int, bool)
)

func init() {
	others = append(others, newer)
	queued = append(queued, func(begun chan<- struct{}) {
		for i := 0; i < 8; i++ {
			cleanup(waits("queue of cleanups"), begun)
		}
	})
}

//go:noinline
func cleanup(h *holder, begun chan<- struct{}) {
	runtime.AddCleanup(&holder{}, func(h *holder) {
		begun <- struct{}{}
		<-never
		h.wake()
	}, h)
}

//go:noinline
func newer() {
	byWeak = weak.Make(&holder{next: waits("weak pointer")})
	runtime.AddCleanup(&holder{}, func(h *holder) { h.wake() }, waits("cleanup"))
	h := waits("iter.Pull")
	byPull, _ = iter.Pull(func(yield func(int) bool) {
		yield(1)
		h.wake()
	})
	byPull()
}
