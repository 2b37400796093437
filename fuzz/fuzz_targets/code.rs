//! `cargo +nightly fuzz run --features libfuzzer code`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::code::check(data));
