//! The way into tract and out of it: tensors across, faults and panics as errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use tract_onnx::prelude::{Datum, DatumType, Tensor as TractTensor, TractResult};

use crate::error::OpError;
use crate::tensor::{Array, Element, Tensor};

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, with any fault or panic in it as [`OpError::Unsupported`]. Panics print nothing.
///
/// # Errors
/// When `work` fails or panics.
pub fn guarded<R>(work: impl FnOnce() -> TractResult<R>) -> Result<R, OpError> {
    silence_panics();
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match result {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(OpError::unsupported(one_line(&format!("{error:#}")))),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            Err(OpError::unsupported(one_line(&format!("panic: {}", text.unwrap_or("no message")))))
        }
    }
}

/// Puts a hook before the present one that keeps quiet on threads that are inside [`guarded`].
fn silence_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                others(info);
            }
        }));
    });
}

/// Messages become part of one line, and of bounded length: tract prints whole shapes and facts.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 600;
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match joined.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ..", &joined[..end]),
        None => joined,
    }
}

/// A copy for tract.
///
/// # Errors
/// For element types that tract doesn't have.
pub fn to_tract(tensor: &Tensor) -> Result<TractTensor, OpError> {
    fn go<T: Element + Datum>(array: &Array<T>) -> Result<TractTensor, OpError> {
        let rows = array.as_standard_layout();
        let elements = rows.as_slice().unwrap_or_default();
        TractTensor::from_shape(array.shape(), elements)
            .map_err(|e| OpError::unsupported(e.to_string()))
    }
    match tensor {
        Tensor::F32(a) => go(a),
        Tensor::F64(a) => go(a),
        Tensor::F16(a) => go(a),
        Tensor::I8(a) => go(a),
        Tensor::I16(a) => go(a),
        Tensor::I32(a) => go(a),
        Tensor::I64(a) => go(a),
        Tensor::U8(a) => go(a),
        Tensor::U16(a) => go(a),
        Tensor::U32(a) => go(a),
        Tensor::U64(a) => go(a),
        Tensor::Bool(a) => go(a),
        Tensor::BF16(_) => {
            Err(OpError::DataType { dtype: tensor.data_type(), role: "an input of tract" })
        }
    }
}

/// A copy of what tract gave.
///
/// # Errors
/// For element types that [`Tensor`] doesn't have.
pub fn from_tract(tensor: &TractTensor) -> Result<Tensor, OpError> {
    fn go<T: Element + Datum>(tensor: &TractTensor) -> Result<Tensor, OpError> {
        let view =
            tensor.to_plain_array_view::<T>().map_err(|e| OpError::unsupported(e.to_string()))?;
        Ok(T::wrap(view.to_owned().into_shared()))
    }
    match tensor.datum_type() {
        DatumType::F32 => go::<f32>(tensor),
        DatumType::F64 => go::<f64>(tensor),
        DatumType::F16 => go::<half::f16>(tensor),
        DatumType::I8 => go::<i8>(tensor),
        DatumType::I16 => go::<i16>(tensor),
        DatumType::I32 => go::<i32>(tensor),
        DatumType::I64 => go::<i64>(tensor),
        DatumType::U8 => go::<u8>(tensor),
        DatumType::U16 => go::<u16>(tensor),
        DatumType::U32 => go::<u32>(tensor),
        DatumType::U64 => go::<u64>(tensor),
        DatumType::Bool => go::<bool>(tensor),
        // Symbolic dimensions, which are integers once every shape is known.
        DatumType::TDim => {
            let integers = tensor
                .cast_to_dt(DatumType::I64)
                .map_err(|e| OpError::unsupported(e.to_string()))?;
            go::<i64>(&integers)
        }
        other => Err(OpError::unsupported(format!("tract's element type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_and_panics_are_errors() {
        assert_eq!(guarded(|| Ok(3)).expect("a value"), 3);
        let panic = guarded(|| -> TractResult<()> { panic!("two\nlines") }).expect_err("a panic");
        assert_eq!(panic.to_string(), "not supported: panic: two lines");
        let long = guarded(|| -> TractResult<()> { panic!("{}", "x ".repeat(5000)) });
        assert!(long.expect_err("a panic").to_string().len() < 700);
    }

    #[test]
    fn tensors_come_back_equal() {
        let tensors = [
            Tensor::from_vec(&[2, 3], vec![1f32, 2., 3., 4., 5., f32::INFINITY]),
            Tensor::from_vec(&[0, 3], Vec::<i64>::new()),
            Tensor::from_vec(&[], vec![true]),
            Tensor::from_vec(&[2], vec![half::f16::ONE, half::f16::MIN]),
        ];
        for tensor in tensors {
            let tensor = tensor.expect("a tensor");
            assert_eq!(from_tract(&to_tract(&tensor).expect("there")).expect("back"), tensor);
        }
    }
}
