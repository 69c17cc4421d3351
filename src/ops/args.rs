//! What every operator needs: taking its inputs, dense element slices, and a way to be a closure.

use std::borrow::Cow;

use super::Operator;
use crate::error::OpError;
use crate::onnx::data_type_from_code;
use crate::tensor::{Array, DataType, Element, Tensor};

/// The inputs of one run.
pub(super) type Inputs = [Option<Tensor>];

/// What decoding a node gives.
pub(super) type Decoded = Result<Box<dyn Operator>, OpError>;

/// An operator whose decoded attributes are what the closure has captured.
struct Closure<F>(F);

impl<F> Operator for Closure<F>
where
    F: Fn(&mut Inputs) -> Result<Vec<Tensor>, OpError> + Send + Sync,
{
    fn run(&self, inputs: &mut Inputs) -> Result<Vec<Tensor>, OpError> {
        (self.0)(inputs)
    }
}

/// An operator with any number of outputs.
pub(super) fn many<F>(run: F) -> Decoded
where
    F: Fn(&mut Inputs) -> Result<Vec<Tensor>, OpError> + Send + Sync + 'static,
{
    Ok(Box::new(Closure(run)))
}

/// An operator with one output.
pub(super) fn one<F>(run: F) -> Decoded
where
    F: Fn(&mut Inputs) -> Result<Tensor, OpError> + Send + Sync + 'static,
{
    many(move |inputs| run(inputs).map(|tensor| vec![tensor]))
}

/// The input at `index` by value, so that it can be written to when nothing else shares it.
pub(super) fn take(inputs: &mut Inputs, index: usize) -> Result<Tensor, OpError> {
    take_optional(inputs, index).ok_or(OpError::MissingInput { index })
}

/// The input at `index` by value; `None` where the node omits it.
pub(super) fn take_optional(inputs: &mut Inputs, index: usize) -> Option<Tensor> {
    inputs.get_mut(index).and_then(Option::take)
}

/// The input at `index`.
pub(super) fn peek(inputs: &Inputs, index: usize) -> Result<&Tensor, OpError> {
    peek_optional(inputs, index).ok_or(OpError::MissingInput { index })
}

/// The input at `index`; `None` where the node omits it.
pub(super) fn peek_optional(inputs: &Inputs, index: usize) -> Option<&Tensor> {
    inputs.get(index).and_then(Option::as_ref)
}

/// The element type that an attribute names by its number in files.
pub(super) fn element_type(code: i64) -> Result<DataType, OpError> {
    let known = i32::try_from(code).ok().and_then(data_type_from_code);
    known.ok_or_else(|| OpError::unsupported(format!("element type {code}")))
}

/// The fault of an element type that can't be used as `role`.
pub(super) fn bad_type(tensor: &Tensor, role: &'static str) -> OpError {
    OpError::DataType { dtype: tensor.data_type(), role }
}

/// The only element of `tensor` as an integer.
pub(super) fn scalar_i64(tensor: &Tensor, role: &'static str) -> Result<i64, OpError> {
    match tensor.to_i64_vec(role)?.as_slice() {
        [value] => Ok(*value),
        other => Err(OpError::value(format!("{role} has {} elements, not one", other.len()))),
    }
}

/// The elements in row-major order, borrowed where they already lie so.
pub(super) fn elements<T: Element>(array: &Array<T>) -> Cow<'_, [T]> {
    match array.as_slice() {
        Some(slice) => Cow::Borrowed(slice),
        None => Cow::Owned(array.iter().copied().collect()),
    }
}

/// Writes through the elements in row-major order, in place where nothing else shares them.
pub(super) fn update<T: Element>(array: Array<T>, write: impl FnOnce(&mut [T])) -> Array<T> {
    let mut array = if array.is_standard_layout() {
        array
    } else {
        array.as_standard_layout().into_owned().into_shared()
    };
    if let Some(slice) = array.as_slice_mut() {
        write(slice);
    }
    array
}

/// Runs `$body` for both float types with `$array` bound to the array and `T` to its element type;
/// other types are refused as `$role`.
macro_rules! floats {
    ($tensor:expr, $role:literal, $array:ident => $body:expr) => {
        match $tensor {
            $crate::tensor::Tensor::F32($array) => {
                #[allow(dead_code)]
                type T = f32;
                $body
            }
            $crate::tensor::Tensor::F64($array) => {
                #[allow(dead_code)]
                type T = f64;
                $body
            }
            other => Err($crate::ops::args::bad_type(&other, $role)),
        }
    };
}

/// Runs `$body` for every numeric type with a [`Number`](super::number::Number) implementation.
macro_rules! numbers {
    ($tensor:expr, $role:literal, $array:ident => $body:expr) => {
        match $tensor {
            $crate::tensor::Tensor::F32($array) => $body,
            $crate::tensor::Tensor::F64($array) => $body,
            $crate::tensor::Tensor::I8($array) => $body,
            $crate::tensor::Tensor::I16($array) => $body,
            $crate::tensor::Tensor::I32($array) => $body,
            $crate::tensor::Tensor::I64($array) => $body,
            $crate::tensor::Tensor::U8($array) => $body,
            $crate::tensor::Tensor::U16($array) => $body,
            $crate::tensor::Tensor::U32($array) => $body,
            $crate::tensor::Tensor::U64($array) => $body,
            other => Err($crate::ops::args::bad_type(&other, $role)),
        }
    };
}

/// Maps every element of a float tensor in place; `T` is the element type within `$body`.
macro_rules! map_floats {
    ($tensor:expr, $x:ident => $body:expr) => {
        floats!($tensor, "a float operand", array => {
            Ok($crate::tensor::Tensor::from($crate::ops::args::update(array, |slice| {
                $crate::kernels::share::pieces(slice, |slice| {
                    $crate::kernels::wide!(for element in slice {
                        let $x: T = *element;
                        *element = $body;
                    });
                });
            })))
        })
    };
}

/// `$run`, whose first output is a function of each element of its first input, with the rule that
/// multiplies the gradient by the function's derivative: `$slope`, in terms of the element of the
/// `input` or of the `output`; `T` is the element type within it.
macro_rules! slope {
    ($run:expr, input $v:ident => $slope:expr) => {
        $crate::ops::args::slope!($run, INPUTS, input, $v => $slope)
    };
    ($run:expr, output $v:ident => $slope:expr) => {
        $crate::ops::args::slope!($run, OUTPUTS, output, $v => $slope)
    };
    ($run:expr, $reads:ident, $side:ident, $v:ident => $slope:expr) => {
        $crate::ops::backward::single(
            $run,
            $crate::ops::backward::Reads::$reads,
            move |pass, gradient| {
                floats!(gradient, "a gradient", gradient => {
                    let values = pass.$side(0)?.typed::<T>("a value")?;
                    let values = $crate::ops::args::elements(values);
                    Ok($crate::tensor::Tensor::from($crate::ops::args::update(gradient, |slice| {
                        for (gradient, &value) in slice.iter_mut().zip(values.iter()) {
                            let $v: T = value;
                            *gradient *= $slope;
                        }
                    })))
                })
            },
        )
    };
}

pub(super) use {floats, map_floats, numbers, slope};
