// Program stacks parks goroutines with stacks that are not plain: generic functions, methods behind interfaces,
// deep recursion, deferred calls while panicking, closures compiled into each other, calls through method values,
// arguments of all kinds, one that is locked, one created by another that has ended. With the argument `held` it
// holds others in the middle of their work.
package main

import (
	"os"
	"runtime"
	"sync"
	"time"

	"goleakguard.test/programs/internal/oracle"
)

var forever = make(chan int)

// shapes are ways to come to rest in a receive from forever.
var shapes = []func(){
	func() { go generic[int](1) },
	func() { go generic(map[string]int{}) },
	func() { go box[string]{"x"}.wait(0) },
	func() { var w waiter = &box[int]{}; go w.wait(3) },
	func() { var w waiter = embedding{&box[int]{}}; go w.wait(3) },
	func() { f := (&box[int]{}).wait; go f(3) },
	func() { go recurse(3) },
	func() { go recurse(99) },
	func() { go recurse(100) },
	func() { go recurse(900) },
	func() { go large(40) },
	func() { go panics() },
	func() { go dereferences(nil) },
	func() { go once() },
	func() { go twiceInlined(forever) },
	func() { go deferred() },
	func() { go exits() },
	func() {
		go func() {
			runtime.LockOSThread()
			rest()
		}()
	},
	func() {
		go func() {
			go rest()
		}()
	},
	func() { time.AfterFunc(time.Millisecond, rest) },
	func() { startHere() },
	func() { go small(-1, 2, 0x1234, true, 1.5, 2.5) },
	func() { go many(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) },
	func() { go composed("text", []int{1}, struct{}{}, pair{3, "x"}, [2]uint16{4, 5}, 2i, recurse, rest) },
	func() { go nested(outer{a: 1}, [0]int{}, 2) },
	func() { go broad([40]uint64{7}, 8) },
	func() { go variadic("three", 1, 2, 3) },
	func() { go used(5, "kept", forever) },
	func() { go pair{6, "receiver"}.wait(7) },
	func() { go results(8) },
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "held" {
		hold()
	}
	for _, start := range shapes {
		start()
	}
	for parked() < len(shapes) {
		time.Sleep(time.Millisecond)
	}
	oracle.Serve(nil)
}

// parked counts goroutines that rest.
func parked() int {
	n := 0
	for _, site := range oracle.Sites() {
		if site.State == "chan receive" {
			n += site.Count
		}
	}
	return n
}

func rest() {
	<-forever
}

func generic[T any](T) {
	rest()
}

type waiter interface{ wait(n int) }

type box[T any] struct{ value T }

func (b box[T]) wait(n int) {
	if n > 0 {
		b.wait(n - 1)
		return
	}
	apply(b.value, func(T) { rest() })
}

type embedding struct{ waiter }

func apply[T any](value T, f func(T)) {
	f(value)
}

//go:noinline
func recurse(n int) {
	if n > 0 {
		recurse(n - 1)
		return
	}
	rest()
}

// large has frames of more than a kilobyte.
//
//go:noinline
func large(n int) byte {
	var room [1500]byte
	if n > 0 {
		room[n] = large(n - 1)
		return room[n/2]
	}
	rest()
	return room[n]
}

func panics() {
	defer func() {
		defer rest()
		_ = recover()
	}()
	panic("on purpose")
}

func dereferences(p *int) {
	defer rest()
	*p = 1
}

func once() {
	new(sync.Once).Do(rest)
}

func twiceInlined(from chan int) {
	inlinedOnce(from)
}

func inlinedOnce(from chan int) {
	inlinedTwice(from)
}

func inlinedTwice(from chan int) {
	<-from
}

func deferred() {
	defer rest()
}

func exits() {
	defer rest()
	runtime.Goexit()
}

// startHere is small enough to be compiled into its caller, with its go statement.
func startHere() {
	go rest()
}
