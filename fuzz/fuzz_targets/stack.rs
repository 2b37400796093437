//! `cargo +nightly fuzz run --features libfuzzer stack`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::stack::check(data));
