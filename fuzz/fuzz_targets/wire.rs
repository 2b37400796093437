//! `cargo +nightly fuzz run --features libfuzzer wire`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::wire::check(data));
