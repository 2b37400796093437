package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
)

var (
	address string
	// Connections of the server, which needs no goroutines for them.
	connections []net.Conn
	// A server of HTTP/2, whose handlers wait for the end of the program.
	second *httptest.Server
)

// listen serves /whole with a response, /half with the first half of one, and /none with nothing, and never ends a
// connection.
func listen() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	address = listener.Addr().String()
	go func() {
		for {
			connection, err := listener.Accept()
			must(err)
			connections = append(connections, connection)
			request, err := http.ReadRequest(bufio.NewReader(connection))
			must(err)
			switch strings.Split(request.URL.Path, "/")[1] {
			case "whole":
				_, err = io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
			case "half":
				_, err = io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbody")
			}
			must(err)
		}
	}()
	second = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.WriteString(w, "body")
		must(err)
		w.(http.Flusher).Flush()
		if r.URL.Path == "/half" {
			<-r.Context().Done()
		}
	}))
	second.EnableHTTP2 = true
	second.StartTLS()
}

// get asks with a transport of its own, as programs do that make a client for each request.
//
//go:noinline
func get(url string) (*http.Response, *http.Transport) {
	transport := &http.Transport{}
	response, err := (&http.Client{Transport: transport}).Get(url)
	must(err)
	return response, transport
}

// leaveBody does not read a response to its end, and does not close it.
func leaveBody(n int) {
	get(path("half", n))
}

// keepConnection reads and closes the response; the connection waits for another request.
func keepConnection(n int) *http.Transport {
	response, transport := get(path("whole", n))
	_, err := io.ReadAll(response.Body)
	must(err)
	must(response.Body.Close())
	return transport
}

// ask waits for a response that never comes.
func ask(n int) {
	go func() {
		_, err := http.DefaultTransport.RoundTrip(request(path("none", n)))
		must(err)
	}()
}

func request(url string) *http.Request {
	request, err := http.NewRequest("GET", url, nil)
	must(err)
	return request
}

// over2 asks by HTTP/2.
func over2(file string) (*http.Response, *http.Transport) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	response, err := (&http.Client{Transport: transport}).Get(second.URL + file)
	must(err)
	if response.ProtoMajor != 2 {
		must(io.ErrUnexpectedEOF)
	}
	return response, transport
}

func leaveBody2(int) {
	over2("/half")
}
