//! Operators that make tensors, or keep part of one: Constant, ranges, masks, running sums.

use super::Decoding;
use super::args::{
    Decoded, bad_type, element_type, elements, numbers, one, peek, peek_optional, scalar_i64, take,
    update,
};
use super::backward::{Reads, flat, single};
use super::cast::{cast, zeros};
use super::layout::{around, axis, count, extent};
use super::number::Number;
use crate::error::OpError;
use crate::onnx::{NodeAttributes, TensorProto};
use crate::tensor::{Array, Element, Tensor};
use crate::with_array;

/// A tensor in an attribute.
fn stored(proto: &TensorProto) -> Result<Tensor, OpError> {
    proto.to_tensor().map_err(|error| OpError::unsupported(error.to_string()))
}

pub(super) fn constant(d: &Decoding<'_>) -> Decoded {
    let node = d.node;
    let value = if let Some(proto) = node.tensor("value") {
        stored(proto)?
    } else if let Some(value) = node.float("value_float") {
        Tensor::scalar(value)
    } else if let Some(value) = node.int("value_int") {
        Tensor::scalar(value)
    } else if let Some(values) = node.floats("value_floats") {
        Tensor::from_vec(&[values.len()], values.to_vec())?
    } else if let Some(values) = node.ints("value_ints") {
        Tensor::from_vec(&[values.len()], values.to_vec())?
    } else {
        return Err(OpError::unsupported("a Constant that is not a dense numeric tensor"));
    };
    flat(one(move |_| Ok(value.clone())))
}

pub(super) fn constant_of_shape(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(value: &Array<T>, shape: &[usize]) -> Result<Tensor, OpError> {
        let [value] = *elements(value) else {
            return Err(OpError::value("ConstantOfShape needs one value"));
        };
        Tensor::from_vec(shape, vec![value; count(shape)?])
    }
    let value = match d.node.tensor("value") {
        Some(proto) => stored(proto)?,
        None => Tensor::scalar(0f32),
    };
    flat(one(move |inputs| {
        let shape = peek(inputs, 0)?.to_i64_vec("a shape")?;
        let shape = shape.into_iter().map(extent).collect::<Result<Vec<_>, _>>()?;
        with_array!(&value, v => go(v, &shape))
    }))
}

pub(super) fn range(_: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(start: &Array<T>, limit: &Tensor, delta: &Tensor) -> Result<Tensor, OpError> {
        let only = |array: &Array<T>| match *elements(array) {
            [value] => Ok(value),
            _ => Err(OpError::value("Range needs scalars")),
        };
        let start = only(start)?;
        let (limit, delta) = (only(limit.typed("a limit")?)?, only(delta.typed("a step")?)?);
        let steps = ((limit.to_f64() - start.to_f64()) / delta.to_f64()).ceil();
        if !steps.is_finite() {
            return Err(OpError::value("a Range without end"));
        }
        let n = count(&[steps.max(0.0) as usize])?;
        let (first, step) = (start.to_f64(), delta.to_f64());
        let values = (0..n).map(|i| {
            if T::IS_FLOAT {
                T::of_f64(first + i as f64 * step)
            } else {
                start.plus(T::of_f64(i as f64).times(delta))
            }
        });
        Tensor::from_vec(&[n], values.collect())
    }
    one(
        |inputs| numbers!(take(inputs, 0)?, "a start", a => go(&a, peek(inputs, 1)?, peek(inputs, 2)?)),
    )
}

pub(super) fn eye_like(d: &Decoding<'_>) -> Decoded {
    let kind = d.node.int("dtype").map(element_type).transpose()?;
    let offset = d.node.int("k").unwrap_or(0);
    flat(one(move |inputs| {
        let like = peek(inputs, 0)?;
        let [rows, columns] = *like.shape() else {
            return Err(OpError::shape("EyeLike needs a matrix"));
        };
        let mut values = vec![0u8; count(&[rows, columns])?];
        for row in 0..rows {
            let column = usize::try_from((row as i64).saturating_add(offset));
            if let Some(column) = column.ok().filter(|c| *c < columns) {
                values[row * columns + column] = 1;
            }
        }
        cast(&Tensor::from_vec(&[rows, columns], values)?, kind.unwrap_or(like.data_type()))
    }))
}

pub(super) fn trilu(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element>(array: Array<T>, zero: T, k: i64, upper: bool) -> Result<Tensor, OpError> {
        let [.., rows, columns] = *array.shape() else {
            return Err(OpError::shape("Trilu needs matrices"));
        };
        Ok(T::wrap(update(array, |slice| {
            for (i, row) in slice.chunks_exact_mut(columns.max(1)).enumerate() {
                // The diagonal stands at this column.
                let at = ((i % rows.max(1)) as i64).saturating_add(k);
                let columns = columns as i64;
                if upper {
                    row[..at.clamp(0, columns) as usize].fill(zero);
                } else {
                    row[at.saturating_add(1).clamp(0, columns) as usize..].fill(zero);
                }
            }
        })))
    }
    fn keep(tensor: Tensor, k: i64, upper: bool) -> Result<Tensor, OpError> {
        let zero = zeros(tensor.data_type());
        macro_rules! each {
            ($($variant:ident),*) => {
                match (tensor, zero) {
                    $((Tensor::$variant(a), Tensor::$variant(z)) => go(a, elements(&z)[0], k, upper),)*
                    (other, _) => Err(bad_type(&other, "matrices")),
                }
            };
        }
        each!(F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, Bool)
    }
    let upper = d.node.int("upper").unwrap_or(1) != 0;
    let run = one(move |inputs| {
        let k = peek_optional(inputs, 1).map_or(Ok(0), |t| scalar_i64(t, "k"))?;
        keep(take(inputs, 0)?, k, upper)
    });
    single(run, Reads::NOTHING, move |pass, gradient| {
        let k = if pass.has(1) { scalar_i64(pass.input(1)?, "k")? } else { 0 };
        keep(gradient, k, upper)
    })
}

pub(super) fn cum_sum(d: &Decoding<'_>) -> Decoded {
    fn go<T: Number>(
        array: Array<T>,
        at: i64,
        exclusive: bool,
        reverse: bool,
    ) -> Result<Tensor, OpError> {
        let (_, n, inner) = around(array.shape(), axis(at, array.ndim())?);
        Ok(T::wrap(update(array, |slice| {
            let mut sums = vec![T::ZERO; inner];
            for block in slice.chunks_exact_mut((n * inner).max(1)) {
                sums.fill(T::ZERO);
                for step in 0..n {
                    let k = if reverse { n - 1 - step } else { step };
                    for (x, sum) in block[k * inner..(k + 1) * inner].iter_mut().zip(&mut sums) {
                        let before = *sum;
                        *sum = sum.plus(*x);
                        *x = if exclusive { before } else { *sum };
                    }
                }
            }
        })))
    }
    let exclusive = d.node.int("exclusive").unwrap_or(0) != 0;
    let reverse = d.node.int("reverse").unwrap_or(0) != 0;
    let run = one(move |inputs| {
        let at = scalar_i64(peek(inputs, 1)?, "an axis")?;
        numbers!(take(inputs, 0)?, "an operand", a => go(a, at, exclusive, reverse))
    });
    // What an element adds to is what comes after it, in the order of the sum.
    single(run, Reads::NOTHING, move |pass, gradient| {
        let at = scalar_i64(pass.input(1)?, "an axis")?;
        numbers!(gradient, "a gradient", a => go(a, at, exclusive, !reverse))
    })
}
