package main

import (
	"context"
	"io"
	"math/rand"
	"net/http"
	"time"
)

const (
	clients = 12
	// pauseMost is the longest that a client waits before its next request.
	pauseMost = 10 * time.Millisecond
)

// visit begins the clients, and returns when every one of them has been answered.
func visit(server string) {
	answered := make(chan struct{})
	for i := 0; i < clients; i++ {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%4 == 0}}
		go func(i int) {
			for nth := i; ; nth++ {
				// Some lose patience.
				request(client, server, nth, i%3 == 0)
				if nth == i {
					answered <- struct{}{}
				}
				time.Sleep(time.Duration(rand.Int63n(int64(pauseMost))))
			}
		}(i)
	}
	for i := 0; i < clients; i++ {
		<-answered
	}
}

func request(client *http.Client, server string, nth int, hasty bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if hasty {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, time.Duration(rand.Int63n(int64(4*time.Millisecond))))
		defer stop()
	}
	paths := []string{"/pool", "/race", "/stream", "/gather"}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server+paths[nth%len(paths)], nil)
	if err != nil {
		panic(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
}
