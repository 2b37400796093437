//! `cargo +nightly fuzz run --features libfuzzer parts`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::parts::check(data));
