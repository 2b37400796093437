// Program kinds parks a known number of goroutines of every kind, each from a creation site of its own.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"goleakguard.test/programs/internal/oracle"
)

// kind is a way to be blocked: who creates the goroutines, how many, in which states they come to rest.
type kind struct {
	creator string
	count   int
	states  []string
	start   func(n int)
}

// Up to Go 1.19 a lock, and up to Go 1.23 a WaitGroup, waits as "semacquire".
var kinds = []kind{
	{"startSelectNoCases", 1, []string{"select (no cases)"}, startSelectNoCases},
	{"startReceiveNil", 2, []string{"chan receive (nil chan)"}, startReceiveNil},
	{"startSendNil", 3, []string{"chan send (nil chan)"}, startSendNil},
	{"startSyscall", 4, []string{"syscall"}, startSyscall},
	{"startSelect", 5, []string{"select"}, startSelect},
	{"startMutex", 6, []string{"sync.Mutex.Lock", "semacquire"}, startMutex},
	{"startSend", 7, []string{"chan send"}, startSend},
	{"startReader", 8, []string{"sync.RWMutex.RLock", "semacquire"}, startReader},
	{"startWriter", 9, []string{"sync.RWMutex.Lock", "semacquire"}, startWriter},
	{"startWaitGroup", 10, []string{"sync.WaitGroup.Wait", "semacquire"}, startWaitGroup},
	{"startReceive", 11, []string{"chan receive"}, startReceive},
	{"startCond", 12, []string{"sync.Cond.Wait"}, startCond},
	{"startSleep", 13, []string{"sleep"}, startSleep},
	{"startIO", 14, []string{"IO wait"}, startIO},
	{"startTimer", 15, []string{"chan receive"}, startTimer},
	{"startLocked", 16, []string{"chan receive"}, startLocked},
	{"startInlined", 17, []string{"chan receive"}, startInlined},
	{"startInClosure", 18, []string{"chan receive"}, startInClosure},
	{"startMethod", 19, []string{"select"}, func(n int) { newDock().startMethod(n) }},
	{"goFunc", 2, []string{"chan receive"}, startAfterFunc},
	{"", 1, []string{"sleep"}, startFinaliser},
}

func main() {
	var want []oracle.Parked
	for _, k := range kinds {
		k.start(k.count)
		want = append(want, oracle.Parked{Creator: k.creator, Count: k.count, States: k.states})
	}
	oracle.AwaitParked(want)
	oracle.Serve(nil)
}

func startSelectNoCases(n int) {
	for i := 0; i < n; i++ {
		go func() {
			select {}
		}()
	}
}

func startReceiveNil(n int) {
	var nothing chan int
	for i := 0; i < n; i++ {
		go receive(nothing)
	}
}

func startSendNil(n int) {
	var nothing chan int
	for i := 0; i < n; i++ {
		go send(nothing)
	}
}

// startSyscall blocks threads in read(2) on descriptors that the runtime's poller does not know.
func startSyscall(n int) {
	var ends [2]int
	must(syscall.Pipe(ends[:]))
	for i := 0; i < n; i++ {
		go func() {
			var one [1]byte
			_, err := syscall.Read(ends[0], one[:])
			must(err)
		}()
	}
}

func startSelect(n int) {
	a, b := make(chan int), make(chan string)
	for i := 0; i < n; i++ {
		go func() {
			select {
			case <-a:
			case <-b:
			}
		}()
	}
}

func startMutex(n int) {
	lock := new(sync.Mutex)
	lock.Lock()
	for i := 0; i < n; i++ {
		go lock.Lock()
	}
}

func startSend(n int) {
	to := make(chan int)
	for i := 0; i < n; i++ {
		go send(to)
	}
}

func startReader(n int) {
	lock := new(sync.RWMutex)
	lock.Lock()
	for i := 0; i < n; i++ {
		go lock.RLock()
	}
}

// startWriter gives each writer a lock of its own: a second writer would wait for the first one's mutex.
func startWriter(n int) {
	for i := 0; i < n; i++ {
		lock := new(sync.RWMutex)
		lock.RLock()
		go lock.Lock()
	}
}

func startWaitGroup(n int) {
	group := new(sync.WaitGroup)
	group.Add(1)
	for i := 0; i < n; i++ {
		go group.Wait()
	}
}

func startReceive(n int) {
	from := make(chan int)
	for i := 0; i < n; i++ {
		go receive(from)
	}
}

func startCond(n int) {
	cond := sync.NewCond(new(sync.Mutex))
	for i := 0; i < n; i++ {
		go func() {
			cond.L.Lock()
			cond.Wait()
		}()
	}
}

func startSleep(n int) {
	for i := 0; i < n; i++ {
		go time.Sleep(1000 * time.Hour)
	}
}

// startIO gives each reader a pipe of its own: a second reader would wait for the first one's lock.
func startIO(n int) {
	for i := 0; i < n; i++ {
		from, to, err := os.Pipe()
		must(err)
		go func() {
			var one [1]byte
			_, err := from.Read(one[:])
			must(err)
			must(to.Close())
		}()
	}
}

func startTimer(n int) {
	for i := 0; i < n; i++ {
		go func() {
			<-time.After(1000 * time.Hour)
		}()
	}
}

// startAfterFunc blocks in what timers call.
func startAfterFunc(n int) {
	from := make(chan int)
	for i := 0; i < n; i++ {
		time.AfterFunc(0, func() { receive(from) })
	}
}

// startFinaliser makes the runtime's own goroutine for finalisers call one that does not return.
func startFinaliser(int) {
	begun := make(chan struct{})
	abandon(func(_ *[64]byte) {
		close(begun)
		time.Sleep(1000 * time.Hour)
	})
	collectUntil(begun)
}

//go:noinline
func abandon(finaliser func(*[64]byte)) {
	runtime.SetFinalizer(new([64]byte), finaliser)
}

func collectUntil(begun chan struct{}) {
	for {
		runtime.GC()
		select {
		case <-begun:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func startLocked(n int) {
	from := make(chan int)
	for i := 0; i < n; i++ {
		go func() {
			runtime.LockOSThread()
			<-from
		}()
	}
}

// startInlined blocks in a function that the compiler puts into the goroutine's own.
func startInlined(n int) {
	from := make(chan int)
	for i := 0; i < n; i++ {
		go func() {
			inlinedReceive(from)
		}()
	}
}

func startInClosure(n int) {
	from := make(chan int)
	create := func() {
		go receive(from)
	}
	for i := 0; i < n; i++ {
		create()
	}
}

type dock struct {
	in, out chan int
}

func newDock() *dock {
	return &dock{in: make(chan int), out: make(chan int)}
}

func (d *dock) startMethod(n int) {
	for i := 0; i < n; i++ {
		go d.serve()
	}
}

func (d *dock) serve() {
	for {
		select {
		case x := <-d.in:
			d.out <- x
		case x := <-d.out:
			d.in <- x
		}
	}
}

//go:noinline
func receive(from chan int) {
	<-from
}

//go:noinline
func send(to chan int) {
	to <- 1
}

func inlinedReceive(from chan int) {
	<-from
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
