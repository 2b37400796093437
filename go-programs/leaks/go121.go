//go:build go1.21

package main

import (
	"context"
	"time"
)

var stopAfter func() bool

func init() {
	others = append(others, func() {
		h := waits("context.AfterFunc")
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		_ = cancel
		stopAfter = context.AfterFunc(ctx, h.wake)
	})
}
