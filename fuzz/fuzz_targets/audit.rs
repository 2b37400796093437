//! `cargo +nightly fuzz run --features libfuzzer audit`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::audit::check(data));
