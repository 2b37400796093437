//! `cargo +nightly fuzz run --features libfuzzer pclntab`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::pclntab::check(data));
