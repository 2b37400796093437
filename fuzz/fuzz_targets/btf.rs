//! `cargo +nightly fuzz run --features libfuzzer btf`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| glg_fuzz::btf::check(data));
