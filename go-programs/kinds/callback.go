//go:build cgo

package main

import "C"

var never = make(chan int)

//export blockInGo
func blockInGo(from *C.int, n C.int) {
	receive(never)
}

//export returnFromGo
func returnFromGo() {}
