//! Reading of plans and what they do to a model.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use onnx_bsr::onnx::Model;
use onnx_bsr_fuzz::{exercise, watched};

fuzz_target!(|text: &str| {
    static MODEL: OnceLock<Model> = OnceLock::new();
    let model = MODEL.get_or_init(exercise::planned);
    watched(|| exercise::plan(text, model));
});
