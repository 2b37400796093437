package main

type pair struct {
	n    int32
	text string
}

type inner struct {
	x [80]struct{ y, z struct{ v int16 } }
}

type outer struct {
	a int
	b struct{ c struct{ d struct{ e inner } } }
}

//go:noinline
func small(a int8, b uint8, c uint16, d bool, e float32, f float64) {
	rest()
}

//go:noinline
func many(a, b, c, d, e, f, g, h, i, j, k, l int) {
	rest()
}

//go:noinline
func composed(a string, b []int, c struct{}, d pair, e [2]uint16, f complex128, g any, h func()) {
	rest()
}

// nested has one that is nested too deeply, and behind it one that is too far away.
//
//go:noinline
func nested(a outer, b [0]int, c int) {
	rest()
}

//go:noinline
func broad(a [40]uint64, b int) {
	rest()
}

//go:noinline
func variadic(a string, b ...int) {
	rest()
}

// used has arguments that are needed after the wait, and one that is not.
//
//go:noinline
func used(a int, b string, from chan int) int {
	rest()
	return a + len(b)
}

//go:noinline
func (p pair) wait(n int) {
	rest()
}

//go:noinline
func results(n int) (a int, b string) {
	rest()
	return n, ""
}
