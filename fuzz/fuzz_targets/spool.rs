//! `cargo +nightly fuzz run --features libfuzzer spool`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::spool::check(data));
