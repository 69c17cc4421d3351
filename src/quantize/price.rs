//! Bytes that weights take in a file, for a search that has to keep a budget.

use std::collections::BTreeSet;

use super::refuse::check;
use super::round::Chosen;
use super::stored::Storage;
use super::weights::{Weight, weights};
use super::{Form, Settings, Settled};
use crate::error::Result;
use crate::onnx::Model;

/// Bytes of the node, the header of the scales and the names that a weight in fewer bits comes with,
/// its own name apart.
pub(super) const OVERHEAD: usize = 72;

/// The same for one that a table of levels is looked up for: four nodes, and the shape, with numbers of up to
/// four digits in their names.
pub(super) const PACKED: usize = 232;

/// Bytes of the table of levels, which all such weights share.
pub const TABLE: u64 = 560;

/// Bytes of all that comes with a weight of so many outputs.
pub(super) fn comes(form: Form, storage: Storage, outputs: usize) -> usize {
    let own = if storage == Storage::Int4Packed { PACKED } else { OVERHEAD };
    own + around(form, outputs)
}

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

/// What a weight is to the node that reads it, as far as that decides how it can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The matrix of a MatMul, or of a Gemm that does no more than one.
    Product,
    /// Another matrix, or a kernel.
    Other,
}

impl Price {
    /// How a weight can be stored where that is to choose, by falling bytes.
    #[must_use]
    pub fn storages(&self, kind: Kind) -> Vec<Option<Storage>> {
        let Some((form, _)) = self.form else { return vec![None] };
        let four = match (form, kind) {
            (Form::Fp16, _) => return vec![Some(Storage::Fp16)],
            (Form::Int4 | Form::Auto, Kind::Product) => Some(Storage::Int4),
            (Form::Int4 | Form::Auto, Kind::Other) => Some(Storage::Int4Packed),
            (Form::Int4Dq, Kind::Product) => Some(Storage::Int4Dq),
            _ => None,
        };
        [None, Some(Storage::Int8)].into_iter().chain(four.map(Some)).collect()
    }

    /// How a weight is stored where nothing else is said.
    #[must_use]
    pub fn usual(&self, kind: Kind) -> Option<Storage> {
        Some(match (self.form?.0, kind) {
            (Form::Fp16, _) => Storage::Fp16,
            (Form::Int4, Kind::Product) => Storage::Int4,
            (Form::Int4Dq, Kind::Product) => Storage::Int4Dq,
            // Where the bits are chosen by what they cost in quality, eight are counted on.
            _ => Storage::Int8,
        })
    }

    /// Whether weights may need the table of levels.
    #[must_use]
    pub fn may_pack(&self) -> bool {
        self.storages(Kind::Other).contains(&Some(Storage::Int4Packed))
    }

    /// Bytes of a matrix of so many outputs and inputs, with what comes with it, stored in a way; less
    /// than what plain floats take in any case, as they are left where bits gain nothing.
    #[must_use]
    pub fn weight(&self, outputs: usize, inputs: usize, storage: Option<Storage>) -> u64 {
        let plain = 4 * outputs * inputs;
        let (Some(storage), Some((form, block))) = (storage, self.form) else {
            return plain as u64;
        };
        let bytes = |storage| {
            let stored = stored_bytes(&[outputs, inputs], 0, storage, block);
            stored + comes(form, storage, outputs)
        };
        // Narrow matrices fill no block, small ones gain less than comes with them.
        let fits = storage != Storage::Int4Packed || (outputs * inputs).is_multiple_of(2);
        let least = if !fits {
            bytes(Storage::Int8)
        } else if storage.is_coarse() {
            bytes(storage).min(bytes(Storage::Int8))
        } else {
            bytes(storage)
        };
        least.min(plain) as u64
    }

    /// Bytes that a whole model would take, where the weights named in `floats` stay float.
    ///
    /// # Errors
    /// When the model is quantized already or a weight can't be read.
    pub fn model(&self, model: &Model, floats: &BTreeSet<String>) -> Result<u64> {
        let mut total = model.encoded_len();
        let Some((form, block)) = self.form else { return Ok(total) };
        check(model)?;
        for weight in weights(model) {
            let form = if form == Form::Auto { Form::Int8 } else { form };
            let settings = Settings { form, block, ..Settings::default() };
            if floats.contains(&weight.name) {
                continue;
            }
            if let Ok(chosen) = Chosen::of(model, weight, &settings, &Settled::default())? {
                let Weight { shape, .. } = &chosen.weight;
                let stored = stored_bytes(shape, chosen.weight.axis(), chosen.storage, block);
                let comes = comes(form, chosen.storage, shape[chosen.weight.axis()]);
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
        Storage::Int4Packed => elements.div_ceil(2) + 4 * rows,
        Storage::Fp16 => 2 * elements,
    }
}
