//! Half precision floats, for operators that compute in `f32`.

use super::cast::cast;
use super::{Backward, Derivative, Epilogue, Gradients, Kept, Operator};
use crate::error::OpError;
use crate::tensor::{DataType, Tensor};

/// Runs an operator on half precision inputs where it takes them as they are, else in `f32` with
/// the results rounded back.
pub(super) struct Widened(pub(super) Box<dyn Operator>);

fn is_half(kind: DataType) -> bool {
    matches!(kind, DataType::F16 | DataType::BF16)
}

/// `kept` in `f32` where it is of half precision.
fn widened(kept: Kept) -> Result<Kept, OpError> {
    if !is_half(kept.data_type) {
        return Ok(kept);
    }
    let value = kept.value.map(|value| cast(&value, DataType::F32)).transpose()?;
    Ok(Kept { data_type: DataType::F32, shape: kept.shape, value })
}

impl Operator for Widened {
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
        let kinds = inputs.iter().flatten().map(Tensor::data_type);
        let Some(half) = kinds.into_iter().find(|kind| is_half(*kind)) else {
            return self.0.run(inputs);
        };
        let mut wide = inputs.to_vec();
        match self.0.run(inputs) {
            Err(OpError::DataType { .. }) => {}
            result => return result,
        }
        for tensor in wide.iter_mut().flatten().filter(|t| is_half(t.data_type())) {
            *tensor = cast(tensor, DataType::F32)?;
        }
        let narrow = |tensor: Tensor| match tensor.data_type() {
            DataType::F32 => cast(&tensor, half),
            _ => Ok(tensor),
        };
        self.0.run(&mut wide)?.into_iter().map(narrow).collect()
    }

    fn derivative(&self, wanted: &[bool]) -> Derivative {
        self.0.derivative(wanted)
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Gradients {
        let half = |kept: &Option<Kept>| kept.as_ref().is_some_and(|k| is_half(k.data_type));
        if !pass.inputs.iter().chain(pass.outputs).any(half) {
            return self.0.backward(pass);
        }
        let widened = |list: &[Option<Kept>]| -> Result<Vec<Option<Kept>>, OpError> {
            list.iter().map(|kept| kept.clone().map(widened).transpose()).collect()
        };
        let wide = |gradient: Tensor| match is_half(gradient.data_type()) {
            true => cast(&gradient, DataType::F32),
            false => Ok(gradient),
        };
        let gradients = std::mem::take(&mut pass.gradients).into_iter();
        let mut inner = Backward {
            inputs: &widened(pass.inputs)?,
            outputs: &widened(pass.outputs)?,
            gradients: gradients.map(|g| g.map(wide).transpose()).collect::<Result<_, _>>()?,
            wanted: pass.wanted,
            so_far: Vec::new(),
        };
        let results = self.0.backward(&mut inner)?.into_iter().zip(pass.inputs);
        let narrow = |(gradient, kept): (Option<Tensor>, &Option<Kept>)| match (gradient, kept) {
            (Some(gradient), Some(kept)) => cast(&gradient, kept.data_type).map(Some),
            _ => Ok(None),
        };
        results.map(narrow).collect()
    }

    fn prepared(&self, constants: &[Option<Tensor>]) -> Option<Box<dyn Operator>> {
        if constants.iter().flatten().any(|t| is_half(t.data_type())) {
            return None;
        }
        Some(Box::new(Self(self.0.prepared(constants)?)))
    }

    fn with_epilogue(&self, epilogue: &Epilogue) -> Option<Box<dyn Operator>> {
        Some(Box::new(Self(self.0.with_epilogue(epilogue)?)))
    }

    fn with_padding(&self, amounts: &[usize]) -> Option<Box<dyn Operator>> {
        Some(Box::new(Self(self.0.with_padding(amounts)?)))
    }
}
