// Program minimal does nothing. Its DWARF describes the runtime: `cargo xtask layouts` reads it.
package main

func main() {}
