//! The nodes, and the rule: what an element was interpolated from gets its share of the gradient.

use super::{Axis, Coordinates, Mode, Resize};
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::ops::Decoding;
use crate::ops::args::{Decoded, Inputs, bad_type, elements, floats, one, peek, peek_optional};
use crate::ops::backward::{Reads, single};
use crate::ops::layout::{around, count};
use crate::ops::number::Number;
use crate::tensor::{Array, Tensor};
use crate::with_array;

/// What a node gives besides the data.
#[derive(Default)]
struct Request {
    scales: Option<Vec<f64>>,
    sizes: Option<Vec<i64>>,
    region: Vec<f64>,
}

impl Resize {
    fn run(&self, tensor: &Tensor, request: Request) -> Result<Tensor, OpError> {
        let plan = self.plan(tensor.shape(), request.scales, request.sizes, &request.region)?;
        let crops = self.coordinates == Coordinates::TfCropAndResize;
        match (tensor, self.mode) {
            (_, Mode::Nearest(_)) if !crops => with_array!(tensor, a => self.pick(a, &plan)),
            (Tensor::F32(a), _) => self.interpolate(a, &plan),
            (Tensor::F64(a), _) => self.interpolate(a, &plan),
            _ => Err(bad_type(tensor, "an input of Resize")),
        }
    }

    /// The gradient of the input, of shape `shape`.
    fn backward(
        &self,
        gradient: Tensor,
        shape: &[usize],
        request: Request,
    ) -> Result<Tensor, OpError> {
        let plan = self.plan(shape, request.scales, request.sizes, &request.region)?;
        floats!(gradient, "a gradient", g => self.spread(&g, &plan))
    }

    /// The adjoint of interpolating along the axes of `plan`.
    fn spread<T: Number>(&self, g: &Array<T>, plan: &[Axis]) -> Result<Tensor, OpError> {
        let mut shape = g.shape().to_vec();
        let mut data = elements(g).into_owned();
        for (at, axis) in plan.iter().enumerate() {
            if self.is_identity(axis) {
                continue;
            }
            let (outer, n, inner) = around(&shape, at);
            let taps = axis.taps(self);
            let mut result = vec![T::ZERO; count(&[outer, axis.input, inner])?];
            for block in 0..outer {
                let source = &data[block * n * inner..(block + 1) * n * inner];
                let target = &mut result[block * axis.input * inner..][..axis.input * inner];
                for (position, taps) in taps.iter().enumerate() {
                    let row = &source[position * inner..(position + 1) * inner];
                    for &(from, weight) in taps.iter().flatten() {
                        let weight = T::of_f64(weight);
                        let target = &mut target[from * inner..(from + 1) * inner];
                        target.iter_mut().zip(row).for_each(|(t, &g)| *t = t.plus(g.times(weight)));
                    }
                }
            }
            data = result;
            shape[at] = axis.input;
        }
        Tensor::from_vec(&shape, data)
    }
}

/// The decoded node, with a way to find its request among the inputs.
fn node<F>(resize: Resize, request: F) -> Decoded
where
    F: Fn(&Inputs) -> Result<Request, OpError> + Clone + Send + Sync + 'static,
{
    let (same, again) = (resize.clone(), request.clone());
    let run = one(move |inputs| resize.run(peek(inputs, 0)?, request(inputs)?));
    // Scales are floats: they are read, and get no gradient.
    let reads = (1..4).fold(Reads::NOTHING, |reads, index| reads.with_input(index, true));
    single(run, reads, move |pass, gradient| {
        same.backward(gradient, pass.shape(0)?, again(&pass.values())?)
    })
}

/// A list input; absent where it is omitted or empty.
fn list(inputs: &Inputs, index: usize) -> Option<&Tensor> {
    peek_optional(inputs, index).filter(|t| !t.is_empty())
}

pub(in crate::ops) fn resize(d: &Decoding<'_>) -> Decoded {
    let with_region = d.opset >= 11;
    node(Resize::of(d)?, move |inputs| {
        if !with_region {
            let scales = Some(peek(inputs, 1)?.to_f64_vec());
            return Ok(Request { scales, ..Request::default() });
        }
        let region = list(inputs, 1).map(Tensor::to_f64_vec).unwrap_or_default();
        let scales = list(inputs, 2).map(Tensor::to_f64_vec);
        let sizes = list(inputs, 3).map(|t| t.to_i64_vec("sizes")).transpose()?;
        if scales.is_none() == sizes.is_none() {
            return Err(OpError::value("Resize needs scales or sizes, not both"));
        }
        Ok(Request { scales, sizes, region })
    })
}

pub(in crate::ops) fn upsample(d: &Decoding<'_>) -> Decoded {
    let attribute =
        d.node.floats("scales").map(|s| s.iter().map(|&v| v.into()).collect::<Vec<_>>());
    node(Resize::of(d)?, move |inputs| {
        let scales = match &attribute {
            Some(scales) => scales.clone(),
            None => peek(inputs, 1)?.to_f64_vec(),
        };
        Ok(Request { scales: Some(scales), ..Request::default() })
    })
}
