//go:build cgo

package main

import "C"

import "time"

//export sleepInGo
func sleepInGo() { time.Sleep(time.Hour) }
