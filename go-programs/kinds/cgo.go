//go:build cgo

package main

// #cgo LDFLAGS: -lpthread
// #include <pthread.h>
// #include <unistd.h>
//
// // Written in Go.
// extern void blockInGo(int *from, int n);
//
// static int block_in_c(int from, int n) {
//     char one;
//     return read(from, &one, 1) + n;
// }
//
// static void block_through_c(int n) {
//     blockInGo(&n, n + 1);
// }
//
// static void *thread(void *unused) {
//     block_through_c(7);
//     return unused;
// }
//
// static int start_thread(void) {
//     pthread_t id;
//     return pthread_create(&id, 0, thread, 0);
// }
import "C"
import "syscall"

func init() {
	kinds = append(kinds,
		kind{"startInC", 3, []string{"syscall"}, startInC},
		kind{"startThroughC", 4, []string{"chan receive"}, startThroughC},
		kind{"", 2, []string{"chan receive"}, startThreads},
	)
}

// startInC blocks threads in C.
func startInC(n int) {
	var ends [2]int
	must(syscall.Pipe(ends[:]))
	for i := 0; i < n; i++ {
		go func() {
			C.block_in_c(C.int(ends[0]), 3)
		}()
	}
}

// startThroughC blocks in Go, called from C, called from Go.
func startThroughC(n int) {
	for i := 0; i < n; i++ {
		go func() {
			C.block_through_c(5)
		}()
	}
}

// startThreads blocks threads of C in Go: their goroutines have no creation site.
func startThreads(n int) {
	for i := 0; i < n; i++ {
		mustStart(C.start_thread())
	}
}

func mustStart(code C.int) {
	if code != 0 {
		panic("no thread")
	}
}
