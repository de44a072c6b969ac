#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quoin::fuzz::run("config_file", data));
