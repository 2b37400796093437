//! `cargo +nightly fuzz run --features libfuzzer probe_point`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::probe_point::check(data));
