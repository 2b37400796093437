//go:build cgo && go1.22

package main

// #include <pthread.h>
// #include <unistd.h>
//
// // Written in Go.
// extern void returnFromGo(void);
//
// static void *visitor(void *unused) {
//     returnFromGo();
//     for (;;)
//         pause();
//     return unused;
// }
//
// static int start_visitor(void) {
//     pthread_t id;
//     return pthread_create(&id, 0, visitor, 0);
// }
import "C"

// Since Go 1.22 a thread of C keeps the goroutine that it got when it called into Go.
func init() {
	kinds = append(kinds, kind{"", 1, []string{"syscall"}, func(int) { mustStart(C.start_visitor()) }})
}
