//! `cargo +nightly fuzz run --features libfuzzer age`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::age::check(data));
