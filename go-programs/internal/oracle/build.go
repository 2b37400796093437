package oracle

import (
	"runtime"
	"runtime/debug"
)

// Build is what the program was built from, in Go's own words.
type Build struct {
	Go      string `json:"go"`
	Package string `json:"package"`
	Module  string `json:"module"`
	Version string `json:"version"`
}

func build() Build {
	build := Build{Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		build.Package, build.Module, build.Version = info.Path, info.Main.Path, info.Main.Version
	}
	return build
}
