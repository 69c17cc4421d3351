//! Conversion between element types.

use half::{bf16, f16};

use super::Decoding;
use super::args::{Decoded, element_type, one, peek, take};
use super::backward::{Backward, Gradients, Reads, flat, rule};
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, DataType, Element, Tensor};

/// An element type on its way to another: floats go through `f64`, integers through `i128`.
trait Convert: Element {
    fn float(self) -> f64;
    fn integer(self) -> i128;
}

macro_rules! convert {
    ($($type:ty),*) => {$(
        impl Convert for $type {
            fn float(self) -> f64 {
                self as f64
            }
            fn integer(self) -> i128 {
                self as i128
            }
        }
    )*};
}

convert!(f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);

impl Convert for f16 {
    fn float(self) -> f64 {
        self.to_f64()
    }
    fn integer(self) -> i128 {
        self.to_f64() as i128
    }
}

impl Convert for bf16 {
    fn float(self) -> f64 {
        self.to_f64()
    }
    fn integer(self) -> i128 {
        self.to_f64() as i128
    }
}

impl Convert for bool {
    fn float(self) -> f64 {
        f64::from(u8::from(self))
    }
    fn integer(self) -> i128 {
        i128::from(self)
    }
}

/// A scalar zero (or false) of type `kind`.
pub(super) fn zeros(kind: DataType) -> Tensor {
    match kind {
        DataType::F32 => Tensor::scalar(0f32),
        DataType::F64 => Tensor::scalar(0f64),
        DataType::F16 => Tensor::scalar(f16::ZERO),
        DataType::BF16 => Tensor::scalar(bf16::ZERO),
        DataType::I8 => Tensor::scalar(0i8),
        DataType::I16 => Tensor::scalar(0i16),
        DataType::I32 => Tensor::scalar(0i32),
        DataType::I64 => Tensor::scalar(0i64),
        DataType::U8 => Tensor::scalar(0u8),
        DataType::U16 => Tensor::scalar(0u16),
        DataType::U32 => Tensor::scalar(0u32),
        DataType::U64 => Tensor::scalar(0u64),
        DataType::Bool => Tensor::scalar(false),
    }
}

/// `tensor` with elements of type `kind`. Floats lose their fraction on the way to integers, and
/// integers that don't fit wrap around.
pub(super) fn cast(tensor: &Tensor, kind: DataType) -> Result<Tensor, OpError> {
    fn go<T: Convert>(array: &Array<T>, kind: DataType) -> Result<Tensor, OpError> {
        macro_rules! integers {
            ($type:ty) => {
                Tensor::from(array.mapv(|v| v.integer() as $type).into_shared())
            };
        }
        Ok(match kind {
            DataType::F32 => Tensor::F32(array.mapv(|v| v.float() as f32).into_shared()),
            DataType::F64 => Tensor::F64(array.mapv(Convert::float).into_shared()),
            DataType::F16 => Tensor::F16(array.mapv(|v| to_f16(v.float())).into_shared()),
            DataType::BF16 => Tensor::BF16(array.mapv(|v| to_bf16(v.float())).into_shared()),
            DataType::I8 => integers!(i8),
            DataType::I16 => integers!(i16),
            DataType::I32 => integers!(i32),
            DataType::I64 => integers!(i64),
            DataType::U8 => integers!(u8),
            DataType::U16 => integers!(u16),
            DataType::U32 => integers!(u32),
            DataType::U64 => integers!(u64),
            // NaN differs from zero, so it is true.
            DataType::Bool => Tensor::Bool(array.mapv(|v| v.float() != 0.0).into_shared()),
        })
    }
    crate::with_array!(tensor, a => go(a, kind))
}

/// Rounds once where the value is an `f32`, as all but `f64` sources are.
fn to_f16(value: f64) -> f16 {
    let narrow = value as f32;
    if f64::from(narrow) == value { f16::from_f32(narrow) } else { f16::from_f64(value) }
}

fn to_bf16(value: f64) -> bf16 {
    let narrow = value as f32;
    if f64::from(narrow) == value { bf16::from_f32(narrow) } else { bf16::from_f64(value) }
}

fn converted(tensor: Tensor, kind: DataType) -> Result<Tensor, OpError> {
    if tensor.data_type() == kind { Ok(tensor) } else { cast(&tensor, kind) }
}

fn is_float(kind: DataType) -> bool {
    matches!(kind, DataType::F32 | DataType::F64 | DataType::F16 | DataType::BF16)
}

/// A gradient in the element type of the first input, where that is a float.
fn cast_back(pass: &mut Backward<'_>) -> Gradients {
    let kind = pass.inputs.first().and_then(Option::as_ref).map(|kept| kept.data_type);
    match kind {
        Some(kind) if is_float(kind) => Ok(vec![Some(converted(pass.gradient(0)?, kind)?)]),
        _ => Ok(vec![None]),
    }
}

pub(super) fn cast_node(d: &Decoding<'_>) -> Decoded {
    let kind = element_type(d.node.int("to").unwrap_or(0))?;
    let run = one(move |inputs| converted(take(inputs, 0)?, kind));
    if is_float(kind) { rule(run, Reads::NOTHING, cast_back) } else { flat(run) }
}

pub(super) fn cast_like(_: &Decoding<'_>) -> Decoded {
    let run = one(|inputs| {
        let kind = peek(inputs, 1)?.data_type();
        converted(take(inputs, 0)?, kind)
    });
    rule(run, Reads::NOTHING, cast_back)
}
