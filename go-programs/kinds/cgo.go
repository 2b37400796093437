//go:build cgo

package main

// static int answer(void) { return 42; }
import "C"

// Built with C in it, the program is linked by the C compiler and started by its library. That is all that is
// wanted of it.
func init() {
	if C.answer() != 42 {
		panic("C answers wrong")
	}
}
