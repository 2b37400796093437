//go:build cgo

package main

// #include <stdlib.h>
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
}
