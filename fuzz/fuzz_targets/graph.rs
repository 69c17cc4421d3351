//! Finding layers, preparing, rounding and running of small models.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_bsr_fuzz::{exercise, watched};

fuzz_target!(|bytes: &[u8]| {
    watched(|| exercise::graph(bytes.to_vec()));
});
