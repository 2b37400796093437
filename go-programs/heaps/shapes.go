package main

import (
	"fmt"
	"math/rand"
	"runtime"
	"sync"
	"sync/atomic"
)

// node is a small object, mostly of data.
type node struct {
	left, right *node
	_           [6]uint64
}

const nodeBytes = 64

var (
	root *node
	data [][]byte
)

// fill makes a heap of a shape.
func fill(shape string, bytes int) error {
	switch shape {
	case "tree":
		all := shuffled(bytes / nodeBytes)
		for i, n := range all {
			if left := 2*i + 1; left < len(all) {
				n.left = all[left]
			}
			if right := 2*i + 2; right < len(all) {
				n.right = all[right]
			}
		}
		root = all[0]
	case "list":
		all := shuffled(bytes / nodeBytes)
		for i, n := range all[1:] {
			all[i].left = n
		}
		root = all[0]
	case "data":
		const piece = 1 << 20
		for ; bytes > 0; bytes -= piece {
			data = append(data, make([]byte, piece))
		}
	default:
		return fmt.Errorf("shape %q", shape)
	}
	return nil
}

// shuffled are new nodes in any order.
func shuffled(number int) []*node {
	all := make([]*node, number)
	for i := range all {
		all[i] = new(node)
	}
	random := rand.New(rand.NewSource(1))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// wait is what a goroutine waits for.
type wait struct {
	c, done chan int
	lock    sync.Mutex
}

var (
	// reachable are the waits that somebody could end.
	reachable []*wait
	arrived   atomic.Int64
)

// block begins goroutines; nobody knows what every other one waits for.
func block(number int) {
	for i := 0; i < number; i++ {
		w := &wait{c: make(chan int), done: make(chan int)}
		w.lock.Lock()
		if i%2 == 0 {
			reachable = append(reachable, w)
		}
		switch i / 2 % 4 {
		case 0:
			go receive(w)
		case 1:
			go send(w)
		case 2:
			go choose(w)
		default:
			go lock(w)
		}
	}
	for arrived.Load() < int64(number) {
		runtime.Gosched()
	}
}

func receive(w *wait) {
	arrived.Add(1)
	<-w.c
}

func send(w *wait) {
	arrived.Add(1)
	w.c <- 1
}

func choose(w *wait) {
	arrived.Add(1)
	select {
	case <-w.c:
	case <-w.done:
	}
}

func lock(w *wait) {
	arrived.Add(1)
	w.lock.Lock()
}
