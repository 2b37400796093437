//! `cargo +nightly fuzz run --features libfuzzer elf`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::elf::check(data));
