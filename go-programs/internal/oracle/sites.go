package oracle

import (
	"bytes"
	"fmt"
	"os"
	"runtime/pprof"
	"sort"
	"strconv"
	"strings"
)

// Site is a creation point and a state, with the goroutines that share them.
type Site struct {
	Count int `json:"count"`
	// CreatedBy is the function that holds the go statement; empty for goroutines that the runtime created: the
	// main one, those that run finalisers and cleanups, and those of threads of C.
	CreatedBy string `json:"created_by"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	// State is Go's own word, without minutes and without "locked to thread".
	State string `json:"state"`
}

// Sites groups the goroutines of this program by what pprof says of them, the largest group first.
func Sites() []Site {
	counts := make(map[Site]int)
	for _, block := range strings.Split(Traceback(2), "\n\n") {
		if strings.HasPrefix(block, "goroutine ") {
			counts[parse(block)]++
		}
	}
	sites := make([]Site, 0, len(counts))
	for site, n := range counts {
		site.Count = n
		sites = append(sites, site)
	}
	sort.Slice(sites, func(i, j int) bool {
		a, b := sites[i], sites[j]
		if a.Count != b.Count {
			return a.Count > b.Count
		}
		if a.File != b.File {
			return a.File < b.File
		}
		return a.Line < b.Line || a.Line == b.Line && a.State < b.State
	})
	return sites
}

// Traceback is what pprof prints of all goroutines with this value of debug.
func Traceback(debug int) string {
	var text bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&text, debug); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return text.String()
}

// parse reads one goroutine of a traceback (runtime/traceback.go, goroutineheader and printcreatedby):
//
//	goroutine 7 [chan receive, 2 minutes, locked to thread]:
//	main.wait(...)
//		/src/main.go:7 +0x1d
//	created by main.start in goroutine 1
//		/src/main.go:12 +0x5c
func parse(block string) Site {
	lines := strings.Split(strings.TrimRight(block, "\n"), "\n")
	var site Site
	if open := strings.IndexByte(lines[0], '['); open >= 0 {
		state := lines[0][open+1:]
		if end := strings.IndexAny(state, ",]"); end >= 0 {
			state = state[:end]
		}
		site.State = strings.TrimSuffix(state, " (scan)")
	}
	const created = "created by "
	for i, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, created) {
			continue
		}
		// Since Go 1.21 the creator's number follows.
		site.CreatedBy, _, _ = strings.Cut(line[len(created):], " in goroutine ")
		place, _, _ := strings.Cut(strings.TrimSpace(lines[i+1]), " ")
		if colon := strings.LastIndexByte(place, ':'); colon >= 0 {
			site.File = place[:colon]
			site.Line, _ = strconv.Atoi(place[colon+1:])
		}
	}
	return site
}
