package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

// check ends the program when something failed that cannot.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must(conn net.Conn, err error) net.Conn {
	check(err)
	return conn
}

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	return listener
}

func dial(to net.Addr) net.Conn {
	return must(net.Dial("tcp", to.String()))
}

func read(from io.Reader, into []byte) error {
	_, err := io.ReadFull(from, into)
	return err
}

func write(to io.Writer, text []byte) error {
	_, err := to.Write(text)
	return err
}
