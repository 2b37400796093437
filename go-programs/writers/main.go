// Program writers goes in and out of system calls all the time, by two ways that lie equally deep on the stack:
// up1, up2, up3 and down1, down2, down3. No stack ever holds parts of both.
package main

import (
	"os"
	"syscall"

	"goleakguard.test/programs/internal/oracle"
)

const writers = 8

func main() {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	fd := int(null.Fd())
	begun := make(chan bool)
	for i := 0; i < writers; i++ {
		go both(fd, begun)
	}
	for i := 0; i < writers; i++ {
		<-begun
	}
	oracle.Serve(nil)
}

func both(fd int, begun chan<- bool) {
	up1(fd)
	begun <- true
	for {
		up1(fd)
		down1(fd)
	}
}

//go:noinline
func up1(fd int) int { return up2(fd) + 1 }

//go:noinline
func up2(fd int) int { return up3(fd) + 1 }

//go:noinline
func up3(fd int) int { return write(fd) + 1 }

//go:noinline
func down1(fd int) int { return down2(fd) + 1 }

//go:noinline
func down2(fd int) int { return down3(fd) + 1 }

//go:noinline
func down3(fd int) int { return write(fd) + 1 }

//go:noinline
func write(fd int) int {
	n, _ := syscall.Write(fd, []byte{0})
	return n
}
