//! `cargo +nightly fuzz run --features libfuzzer reach`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::reach::check(data));
