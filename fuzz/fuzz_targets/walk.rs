//! `cargo +nightly fuzz run --features libfuzzer walk`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::walk::check(data));
