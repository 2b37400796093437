//! `cargo +nightly fuzz run --features libfuzzer buildinfo`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::buildinfo::check(data));
