//! `cargo +nightly fuzz run --features libfuzzer expand`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::expand::check(data));
