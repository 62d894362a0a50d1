#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| edge_fuzz::name_addr(data));
