//! Quantization to and from integers.

use super::Decoding;
use super::args::{Decoded, bad_type, element_type, elements, many, one, peek, peek_optional};
use super::backward::{Backward, Reads, single};
use super::layout::{around, axis, extent};
use super::number::Number;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, DataType, Element, Tensor};

/// For each element, which scale applies to it.
struct Blocks {
    /// Elements after the quantized axis.
    inner: usize,
    /// Extent of the quantized axis.
    n: usize,
    /// Elements of the axis that share a scale.
    block: usize,
    /// Scales along the axis; 0 where a single scale holds for all.
    scales: usize,
    /// Whether a scale has its own value for every position after the axis.
    blocked: bool,
}

impl Blocks {
    fn new(shape: &[usize], scale: &[usize], at: i64, block: usize) -> Result<Self, OpError> {
        if scale.iter().product::<usize>() == 1 && block == 0 && scale.len() < 2 {
            return Ok(Self { inner: 1, n: 1, block: 1, scales: 0, blocked: false });
        }
        let fault = || OpError::shape(format!("scale {scale:?} doesn't fit {shape:?}"));
        let at = axis(at, shape.len())?;
        let (_, n, inner) = around(shape, at);
        if block == 0 {
            return match scale {
                [scales] if *scales == n => {
                    Ok(Self { inner, n, block: 1, scales: n, blocked: false })
                }
                _ => Err(fault()),
            };
        }
        let fits = scale.len() == shape.len()
            && (0..shape.len()).all(|i| {
                let expected = if i == at { shape[i].div_ceil(block) } else { shape[i] };
                scale[i] == expected
            });
        if !fits {
            return Err(fault());
        }
        Ok(Self { inner, n, block, scales: scale[at], blocked: true })
    }

    fn of(&self, index: usize) -> usize {
        if self.scales == 0 {
            return 0;
        }
        let along = index / self.inner % self.n / self.block;
        if self.blocked {
            let outer = index / self.inner / self.n;
            (outer * self.scales + along) * self.inner + index % self.inner
        } else {
            along
        }
    }
}

/// Axis and block size attributes.
fn layout(d: &Decoding<'_>) -> Result<(i64, usize), OpError> {
    let block = extent(d.node.int("block_size").unwrap_or(0))?;
    Ok((d.node.int("axis").unwrap_or(1), block))
}

/// Zero points as integers, checked against the scales.
fn zero_points(tensor: Option<&Tensor>, scale: &Tensor) -> Result<Vec<i64>, OpError> {
    match tensor {
        Some(tensor) if tensor.len() == scale.len() => tensor.to_i64_vec("a zero point"),
        Some(_) => Err(OpError::shape("zero points and scales differ in number")),
        None => Ok(vec![0; scale.len()]),
    }
}

/// Rounds to the nearest integer, ties to even, by a sum whose last digit is one: exact for magnitudes
/// up to 2^16, beyond which every byte is saturated.
struct ByAddition(f32);

const ROUNDING: ByAddition = ByAddition(12_582_912.0);

impl ByAddition {
    fn round(&self, value: f32) -> f32 {
        (value.clamp(-65_536.0, 65_536.0) + self.0) - self.0
    }
}

fn quantized<T: Number>(
    x: &Tensor,
    scale: &[f32],
    zero: &[i64],
    blocks: &Blocks,
) -> Result<Tensor, OpError> {
    let (low, high) = (T::LOWEST.to_f64(), T::HIGHEST.to_f64());
    let one = |(i, x): (usize, f32)| {
        let k = blocks.of(i);
        // Adding after rounding: the zero point is an integer.
        let value = f64::from((x / scale[k]).round_ties_even()) + zero[k] as f64;
        T::of_f64(value.clamp(low, high))
    };
    let values = match x {
        // Common, and worth a loop that the compiler can vectorize.
        Tensor::F32(a) if blocks.scales == 0 && size_of::<T>() == 1 => {
            let (scale, zero) = (scale[0], zero[0] as f32);
            let (low, high) = (low as f32, high as f32);
            let code = |&x: &f32| ROUNDING.round(x / scale) + zero;
            elements(a).iter().map(|x| T::of_f64(code(x).clamp(low, high).into())).collect()
        }
        Tensor::F32(a) => elements(a).iter().copied().enumerate().map(one).collect(),
        Tensor::I32(a) => elements(a).iter().map(|&v| v as f32).enumerate().map(one).collect(),
        other => return Err(bad_type(other, "an input of QuantizeLinear")),
    };
    Tensor::from_vec::<T>(x.shape(), values)
}

pub(super) fn quantize(d: &Decoding<'_>) -> Decoded {
    let (at, block) = layout(d)?;
    let asked = match d.node.int("output_dtype").unwrap_or(0) {
        0 => None,
        tag => Some(element_type(tag)?),
    };
    if d.node.int("precision").unwrap_or(0) > 1 {
        return Err(OpError::unsupported("QuantizeLinear with a given precision"));
    }
    let run = one(move |inputs| {
        let (x, scale) = (peek(inputs, 0)?, peek(inputs, 1)?);
        let zero = peek_optional(inputs, 2);
        let kind = zero.map(Tensor::data_type).or(asked).unwrap_or(DataType::U8);
        let blocks = Blocks::new(x.shape(), scale.shape(), at, block)?;
        let zero = zero_points(zero, scale)?;
        let scale = elements(scale.f32("a scale")?);
        match kind {
            DataType::U8 => quantized::<u8>(x, &scale, &zero, &blocks),
            DataType::I8 => quantized::<i8>(x, &scale, &zero, &blocks),
            DataType::U16 => quantized::<u16>(x, &scale, &zero, &blocks),
            DataType::I16 => quantized::<i16>(x, &scale, &zero, &blocks),
            DataType::I32 => quantized::<i32>(x, &scale, &zero, &blocks),
            other => Err(OpError::DataType { dtype: other, role: "a quantized type" }),
        }
    });
    let reads = Reads::NOTHING.with_input(0, true).with_input(1, true);
    straight(run, reads, at, block, |pass, gradient, scale, blocks| {
        let x = elements(pass.input(0)?.f32("an input of QuantizeLinear")?);
        let zero = pass.inputs.get(2).and_then(Option::as_ref).and_then(|z| z.value.as_ref());
        let zero = zero.map_or(Ok(vec![0; scale.len()]), |z| z.to_i64_vec("a zero point"))?;
        let kind = pass.outputs.first().and_then(Option::as_ref).map(|kept| kept.data_type);
        let (low, high) = match kind {
            Some(DataType::I8) => (-128.0, 127.0),
            Some(DataType::U16) => (0.0, 65_535.0),
            Some(DataType::I16) => (-32_768.0, 32_767.0),
            Some(DataType::I32) => (f32::from(i16::MIN) * 65_536.0, f32::from(i16::MAX) * 65_536.0),
            _ => (0.0, 255.0),
        };
        let one = |(i, g): (usize, &f32)| {
            let k = blocks.of(i);
            let place = x[i] / scale[k] + zero[k] as f32;
            if (low - 0.5..=high + 0.5).contains(&place) { g / scale[k] } else { 0.0 }
        };
        Ok(gradient.iter().enumerate().map(one).collect())
    })
}

/// `run` with a rule for its first input that passes by the jumps of rounding (the straight-through
/// estimator: Bengio, Leonard and Courville 2013), so that weights can be trained where values are
/// rounded. `back` is given the gradient, the scales and which of them an element has.
fn straight<B>(run: Decoded, reads: Reads, at: i64, block: usize, back: B) -> Decoded
where
    B: Fn(&Backward<'_>, &[f32], &[f32], &Blocks) -> Result<Vec<f32>, OpError>
        + Send
        + Sync
        + 'static,
{
    single(run, reads, move |pass, gradient| {
        let scale = pass.input(1)?;
        let blocks = Blocks::new(gradient.shape(), scale.shape(), at, block)?;
        let scale = elements(scale.f32("a scale")?);
        let given = elements(gradient.f32("a gradient")?);
        Tensor::from_vec(gradient.shape(), back(pass, &given, &scale, &blocks)?)
    })
}

pub(super) fn dequantize(d: &Decoding<'_>) -> Decoded {
    fn go<T: Element + Into<i64>>(
        x: &Array<T>,
        scale: &[f32],
        zero: &[i64],
        blocks: &Blocks,
    ) -> Result<Tensor, OpError> {
        let x_elements = elements(x);
        if blocks.scales == 0 {
            let (scale, zero) = (scale[0], zero[0]);
            let values = x_elements.iter().map(|&x| (x.into() - zero) as f32 * scale);
            return Tensor::from_vec(x.shape(), values.collect());
        }
        let values = x_elements.iter().enumerate().map(|(i, &x)| {
            let k = blocks.of(i);
            (x.into() - zero[k]) as f32 * scale[k]
        });
        Tensor::from_vec(x.shape(), values.collect())
    }
    let (at, block) = layout(d)?;
    if !matches!(d.node.int("output_dtype").unwrap_or(0), 0 | 1) {
        return Err(OpError::unsupported("DequantizeLinear to another type than float"));
    }
    let run = one(move |inputs| {
        let (x, scale) = (peek(inputs, 0)?, peek(inputs, 1)?);
        let blocks = Blocks::new(x.shape(), scale.shape(), at, block)?;
        let zero = zero_points(peek_optional(inputs, 2), scale)?;
        let scale = elements(scale.f32("a scale")?);
        match x {
            Tensor::U8(a) => go(a, &scale, &zero, &blocks),
            Tensor::I8(a) => go(a, &scale, &zero, &blocks),
            Tensor::U16(a) => go(a, &scale, &zero, &blocks),
            Tensor::I16(a) => go(a, &scale, &zero, &blocks),
            Tensor::I32(a) => go(a, &scale, &zero, &blocks),
            other => Err(bad_type(other, "a quantized tensor")),
        }
    });
    let reads = Reads::NOTHING.with_input(1, true);
    straight(run, reads, at, block, |_, gradient, scale, blocks| {
        let one = |(i, g): (usize, &f32)| g * scale[blocks.of(i)];
        Ok(gradient.iter().enumerate().map(one).collect())
    })
}

pub(super) fn dynamic(_: &Decoding<'_>) -> Decoded {
    many(|inputs| {
        let x = peek(inputs, 0)?;
        let values = elements(x.f32("an input of DynamicQuantizeLinear")?);
        // The range always holds zero.
        let low = values.iter().fold(0f32, |low, &x| low.min(x));
        let high = values.iter().fold(0f32, |high, &x| high.max(x));
        let scale = (high - low) / 255.0;
        let zero = if scale == 0.0 { 0.0 } else { (-low / scale).round_ties_even() };
        let zero = zero.clamp(0.0, 255.0) as u8;
        let y = if scale == 0.0 {
            Tensor::from_vec(x.shape(), vec![zero; x.len()])?
        } else {
            let blocks = Blocks::new(&[], &[], 0, 0)?;
            quantized::<u8>(x, &[scale], &[zero.into()], &blocks)?
        };
        Ok(vec![y, Tensor::scalar(scale), Tensor::scalar(zero)])
    })
}
