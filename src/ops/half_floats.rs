//! Half precision floats, for operators that compute in `f32`.

use super::cast::cast;
use super::{Epilogue, Operator};
use crate::error::OpError;
use crate::tensor::{DataType, Tensor};

/// Runs an operator on half precision inputs where it takes them as they are, else in `f32` with
/// the results rounded back.
pub(super) struct Widened(pub(super) Box<dyn Operator>);

fn is_half(kind: DataType) -> bool {
    matches!(kind, DataType::F16 | DataType::BF16)
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

    fn with_epilogue(&self, epilogue: Epilogue) -> Option<Box<dyn Operator>> {
        Some(Box::new(Self(self.0.with_epilogue(epilogue)?)))
    }

    fn with_padding(&self, amounts: &[usize]) -> Option<Box<dyn Operator>> {
        Some(Box::new(Self(self.0.with_padding(amounts)?)))
    }
}
