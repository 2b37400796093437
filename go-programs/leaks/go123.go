//go:build go1.23

package main

import "time"

func init() {
	otherFrames = append(otherFrames, func() {
		held("deferred call of a loop over a function", func(h *holder) {
			for i := range once {
				if i == 0 {
					defer h.wake()
					defer func() {}()
				}
			}
			h = nil
			time.Sleep(time.Hour)
		})
		held("loop over a function", func(h *holder) {
			for range once {
				time.Sleep(time.Hour)
				h.wake()
			}
		})
	})
}

//go:noinline
func once(yield func(int) bool) { yield(0) }
