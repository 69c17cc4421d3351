//! Reading and writing of models, external data included.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_bsr_fuzz::{exercise, folder, watched};

fuzz_target!(|bytes: &[u8]| {
    watched(|| exercise::model(bytes, folder()));
});
