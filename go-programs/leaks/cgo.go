//go:build cgo

package main

// #include <stdlib.h>
// #include <unistd.h>
//
// extern void sleepInGo(void);
// static void sleepInC(void) { for (;;) pause(); }
// static void sleepBack(void) { sleepInGo(); }
import "C"

import "unsafe"

var inC *uintptr

func init() {
	others = append(others, func() {
		// What Go's collector does not see, and so does not keep: the waiting goroutine does.
		memory := (*uintptr)(C.malloc(64))
		*memory = uintptr(unsafe.Pointer(waits("memory of C")))
		// And the address of that is in C only.
		place := (**uintptr)(C.malloc(64))
		*place = memory
	})
	otherFrames = append(otherFrames, func() {
		held("call of C", func(h *holder) {
			C.sleepInC()
			h.wake()
		})
		held("call of C that calls back", func(h *holder) {
			C.sleepBack()
			h.wake()
		})
	})
}
