//! `cargo +nightly fuzz run --features libfuzzer command`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::command::check(data));
