//! Bytes that weights take in a file, for a search that has to keep a budget.

use super::refuse::check;
use super::round::Chosen;
use super::stored::Storage;
use super::weights::{Weight, weights};
use super::{Form, Settings};
use crate::error::Result;
use crate::onnx::Model;

/// Bytes of the node, the header of the scales and the names that a weight in fewer bits comes with,
/// its own name apart.
pub(super) const OVERHEAD: usize = 72;

/// Bytes of what else a form adds around a weight of so many outputs: nodes that round values, scales
/// of biases.
fn around(form: Form, outputs: usize) -> usize {
    match form {
        Form::Int8Qdq => 260 + 4 * outputs,
        Form::Int8Dynamic => 240,
        _ => 0,
    }
}

/// Bytes that weights take in a file, for a search that has to keep a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// The form they will be stored in, with its block; none is plain float.
    pub form: Option<(Form, usize)>,
}

impl Price {
    /// Bytes of a matrix of so many outputs and inputs, with what comes with it; `product` says that
    /// its node is a MatMul, or a Gemm that does no more than one.
    #[must_use]
    pub fn weight(&self, outputs: usize, inputs: usize, product: bool) -> u64 {
        let plain = 4 * outputs * inputs;
        let Some((form, block)) = self.form else { return plain as u64 };
        let comes = OVERHEAD + around(form, outputs);
        let bytes = |storage| stored_bytes(&[outputs, inputs], 0, storage, block) + comes;
        let least = match form {
            Form::Fp16 => bytes(Storage::Fp16),
            Form::Int4 if product => bytes(Storage::Int4).min(bytes(Storage::Int8)),
            Form::Int4Dq if product => bytes(Storage::Int4Dq).min(bytes(Storage::Int8)),
            _ => bytes(Storage::Int8),
        };
        least.min(plain) as u64
    }

    /// Bytes that a whole model would take.
    ///
    /// # Errors
    /// When the model is quantized already or a weight can't be read.
    pub fn model(&self, model: &Model) -> Result<u64> {
        let mut total = model.encoded_len();
        let Some((form, block)) = self.form else { return Ok(total) };
        check(model)?;
        for weight in weights(model) {
            // Where the bits are chosen by what they cost in quality, eight are counted on.
            let form = if form == Form::Auto { Form::Int8 } else { form };
            let settings = Settings { form, block, ..Settings::default() };
            if let Ok(chosen) = Chosen::of(model, weight, &settings)? {
                let Weight { shape, .. } = &chosen.weight;
                let stored = stored_bytes(shape, chosen.weight.axis(), chosen.storage, block);
                let comes = OVERHEAD + around(form, shape[chosen.weight.axis()]);
                total = total.saturating_sub(4 * chosen.elements.len() as u64);
                total += (stored + comes) as u64;
            }
        }
        Ok(total)
    }
}

/// Bytes of codes and scales.
pub(super) fn stored_bytes(shape: &[usize], axis: usize, storage: Storage, block: usize) -> usize {
    let elements: usize = shape.iter().product();
    let rows = shape.get(axis).copied().unwrap_or(1).max(1);
    let blocks = (elements / rows).div_ceil(block.max(1));
    match storage {
        Storage::Int8 | Storage::Int8Dynamic => elements + 4 * rows,
        // A block is stored whole.
        Storage::Int4 => rows * blocks * (block / 2 + 4),
        Storage::Int4Dq => elements.div_ceil(2) + 4 * rows * blocks,
        Storage::Fp16 => 2 * elements,
    }
}
