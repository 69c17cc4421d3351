//! Resize and Upsample: interpolation along one axis after the other.

mod node;

pub(super) use node::{resize, upsample};

use super::Decoding;
use super::args::elements;
use super::layout::{around, axis, count, extent};
use super::number::Number;
use crate::error::OpError;
use crate::onnx::NodeAttributes;
use crate::tensor::{Array, Element, Tensor};

/// How positions of the output map to positions of the input.
#[derive(Clone, Copy, PartialEq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    TfHalfPixelForNn,
    AlignCorners,
    Asymmetric,
    TfCropAndResize,
}

/// Which neighbour is nearest.
#[derive(Clone, Copy)]
enum Nearest {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// How values between elements come about.
#[derive(Clone, Copy)]
enum Mode {
    Nearest(Nearest),
    Linear,
    Cubic { a: f64, exclude_outside: bool },
}

/// What keeps the aspect ratio when sizes are given.
#[derive(Clone, Copy, PartialEq)]
enum Aspect {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// The decoded attributes.
#[derive(Clone)]
struct Resize {
    mode: Mode,
    coordinates: Coordinates,
    aspect: Aspect,
    axes: Option<Vec<i64>>,
    extrapolation: f64,
}

/// How one axis is resampled: for each output position, taps of `(input position, weight)`, or
/// `None` where the output lies outside the cropped input.
struct Axis {
    input: usize,
    output: usize,
    scale: f64,
    /// Extent of the output before rounding.
    exact: f64,
    crop: (f64, f64),
}

type Taps = Option<Vec<(usize, f64)>>;

impl Axis {
    /// Where output position `x` lies within the input. In `f32`, as other runtimes compute it:
    /// which neighbour is nearest can hang on the last bit.
    fn position(&self, x: f32, how: Coordinates) -> f64 {
        let (input, output) = (self.input as f32, self.output as f32);
        let (scale, exact) = (self.scale as f32, self.exact as f32);
        f64::from(match how {
            Coordinates::HalfPixel => (x + 0.5) / scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                let offset = input / 2.0 * (1.0 - output / exact);
                offset + (x + 0.5) / scale - 0.5
            }
            Coordinates::PytorchHalfPixel if self.output == 1 => 0.0,
            Coordinates::PytorchHalfPixel => (x + 0.5) / scale - 0.5,
            Coordinates::TfHalfPixelForNn => (x + 0.5) / scale,
            Coordinates::AlignCorners if exact == 1.0 => 0.0,
            Coordinates::AlignCorners => x * (input - 1.0) / (exact - 1.0),
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfCropAndResize => {
                let (start, end) = (self.crop.0 as f32, self.crop.1 as f32);
                if self.output == 1 {
                    (start + end) * (input - 1.0) / 2.0
                } else {
                    let step = (end - start) * (input - 1.0) / (exact - 1.0);
                    start * (input - 1.0) + x * step
                }
            }
        })
    }

    fn taps(&self, resize: &Resize) -> Vec<Taps> {
        (0..self.output)
            .map(|x| {
                let at = self.position(x as f32, resize.coordinates);
                let crops = resize.coordinates == Coordinates::TfCropAndResize;
                if crops && !(0.0..=self.input as f64 - 1.0).contains(&at) {
                    return None;
                }
                Some(self.neighbours(at, resize.mode))
            })
            .collect()
    }

    /// Input positions that contribute at `at`, positions off the edge moved onto it.
    fn neighbours(&self, at: f64, mode: Mode) -> Vec<(usize, f64)> {
        let last = self.input.saturating_sub(1) as f64;
        let clamped = |v: f64| v.clamp(0.0, last) as usize;
        let base = at.floor();
        let ratio = at - base;
        match mode {
            Mode::Nearest(nearest) => {
                let chosen = match nearest {
                    Nearest::Floor => base,
                    Nearest::Ceil => at.ceil(),
                    Nearest::PreferFloor if ratio == 0.5 => base,
                    Nearest::PreferCeil if ratio == 0.5 => base + 1.0,
                    _ => at.round(),
                };
                vec![(clamped(chosen), 1.0)]
            }
            Mode::Linear if ratio == 0.0 => vec![(clamped(base), 1.0)],
            Mode::Linear => vec![(clamped(base), 1.0 - ratio), (clamped(base + 1.0), ratio)],
            Mode::Cubic { a, exclude_outside } => {
                let mut taps: Vec<(usize, f64)> = Vec::with_capacity(4);
                for offset in [-1.0, 0.0, 1.0, 2.0] {
                    let position = base + offset;
                    if !exclude_outside || (0.0..=last).contains(&position) {
                        taps.push((clamped(position), cubic((ratio - offset).abs(), a)));
                    }
                }
                if exclude_outside {
                    let sum: f64 = taps.iter().map(|t| t.1).sum();
                    taps.iter_mut().for_each(|t| t.1 /= sum);
                }
                taps
            }
        }
    }
}

/// The cubic convolution kernel with parameter `a` at distance `x`.
fn cubic(x: f64, a: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

impl Resize {
    fn of(d: &Decoding<'_>) -> Result<Self, OpError> {
        let node = d.node;
        let text = |name, default| node.string(name).unwrap_or(default);
        // Resize 10 and Upsample know no coordinate modes: both round down from x / scale.
        let old = d.opset < 11 || node.op_type() == "Upsample";
        let coordinates = match text("coordinate_transformation_mode", "half_pixel") {
            _ if old => Coordinates::Asymmetric,
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_crop_and_resize" => Coordinates::TfCropAndResize,
            other => return Err(OpError::unsupported(format!("coordinates `{other}`"))),
        };
        let nearest = match text("nearest_mode", "round_prefer_floor") {
            _ if old => Nearest::Floor,
            "round_prefer_floor" => Nearest::PreferFloor,
            "round_prefer_ceil" => Nearest::PreferCeil,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            other => return Err(OpError::unsupported(format!("nearest_mode `{other}`"))),
        };
        let mode = match text("mode", "nearest") {
            "nearest" => Mode::Nearest(nearest),
            "linear" | "bilinear" => Mode::Linear,
            "cubic" => Mode::Cubic {
                a: f64::from(node.float("cubic_coeff_a").unwrap_or(-0.75)),
                exclude_outside: node.int("exclude_outside").unwrap_or(0) != 0,
            },
            other => return Err(OpError::unsupported(format!("mode `{other}`"))),
        };
        let aspect = match text("keep_aspect_ratio_policy", "stretch") {
            "stretch" => Aspect::Stretch,
            "not_larger" => Aspect::NotLarger,
            "not_smaller" => Aspect::NotSmaller,
            other => return Err(OpError::unsupported(format!("aspect policy `{other}`"))),
        };
        if node.int("antialias").unwrap_or(0) != 0 {
            return Err(OpError::unsupported("Resize with antialiasing"));
        }
        let excludes = node.int("exclude_outside").unwrap_or(0) != 0;
        if excludes && !matches!(mode, Mode::Cubic { .. }) {
            return Err(OpError::unsupported("exclude_outside without cubic mode"));
        }
        Ok(Self {
            mode,
            coordinates,
            aspect,
            axes: node.ints("axes").map(<[i64]>::to_vec),
            extrapolation: f64::from(node.float("extrapolation_value").unwrap_or(0.0)),
        })
    }

    /// How each axis of `shape` is resampled, from scales or from sizes.
    fn plan(
        &self,
        shape: &[usize],
        scales: Option<Vec<f64>>,
        sizes: Option<Vec<i64>>,
        roi: &[f64],
    ) -> Result<Vec<Axis>, OpError> {
        let rank = shape.len();
        let axes = match &self.axes {
            Some(axes) => axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
            None => (0..rank).collect(),
        };
        let mut plan: Vec<Axis> = shape
            .iter()
            .map(|&n| Axis { input: n, output: n, scale: 1.0, exact: n as f64, crop: (0.0, 1.0) })
            .collect();
        let given = scales.as_ref().map_or(sizes.as_ref().map_or(0, Vec::len), Vec::len);
        if given != axes.len() {
            return Err(OpError::shape(format!("{given} scales or sizes for {} axes", axes.len())));
        }
        if let Some(scales) = scales {
            for (&at, &scale) in axes.iter().zip(&scales) {
                if !(scale > 0.0 && scale.is_finite()) {
                    return Err(OpError::value(format!("a scale of {scale}")));
                }
                let exact = scale * shape[at] as f64;
                let output = exact.floor() as usize;
                plan[at] = Axis { output, scale, exact, ..Axis { input: shape[at], ..unit() } };
            }
        } else if let Some(sizes) = sizes {
            let sizes = sizes.into_iter().map(extent).collect::<Result<Vec<_>, _>>()?;
            let ratios = axes.iter().zip(&sizes).map(|(&at, &s)| s as f64 / shape[at] as f64);
            let common = match self.aspect {
                Aspect::Stretch => None,
                Aspect::NotLarger => ratios.reduce(f64::min),
                Aspect::NotSmaller => ratios.reduce(f64::max),
            };
            for (&at, &size) in axes.iter().zip(&sizes) {
                let input = shape[at];
                let (output, scale) = match common {
                    Some(scale) => ((scale * input as f64 + 0.5).floor() as usize, scale),
                    None => (size, size as f64 / input as f64),
                };
                plan[at] = Axis { input, output, scale, exact: output as f64, ..unit() };
            }
        }
        if self.coordinates == Coordinates::TfCropAndResize {
            if roi.len() != 2 * axes.len() {
                return Err(OpError::shape("a region must have a start and an end for each axis"));
            }
            for (i, &at) in axes.iter().enumerate() {
                plan[at].crop = (roi[i], roi[axes.len() + i]);
            }
        }
        if plan.iter().any(|a| a.input == 0 && a.output > 0) {
            return Err(OpError::shape("nothing can't be resized to something"));
        }
        count(&plan.iter().map(|a| a.output).collect::<Vec<_>>())?;
        Ok(plan)
    }

    /// Whether resampling `axis` leaves it as it is.
    fn is_identity(&self, axis: &Axis) -> bool {
        axis.input == axis.output
            && axis.scale == 1.0
            && self.coordinates != Coordinates::TfCropAndResize
            && self.coordinates != Coordinates::TfHalfPixelForNn
    }

    fn interpolate<T: Number>(&self, array: &Array<T>, plan: &[Axis]) -> Result<Tensor, OpError> {
        let mut shape = array.shape().to_vec();
        let mut data = elements(array).into_owned();
        for (at, axis) in plan.iter().enumerate() {
            if self.is_identity(axis) {
                continue;
            }
            let (outer, n, inner) = around(&shape, at);
            let taps = axis.taps(self);
            let outside = T::of_f64(self.extrapolation);
            let mut result = vec![T::ZERO; count(&[outer, axis.output, inner])?];
            for (block, target) in result.chunks_exact_mut((axis.output * inner).max(1)).enumerate()
            {
                let source = &data[block * n * inner..(block + 1) * n * inner];
                for (row, taps) in target.chunks_exact_mut(inner.max(1)).zip(&taps) {
                    let Some(taps) = taps else {
                        row.fill(outside);
                        continue;
                    };
                    for &(from, weight) in taps {
                        let weight = T::of_f64(weight);
                        let from = &source[from * inner..(from + 1) * inner];
                        for (t, &x) in row.iter_mut().zip(from) {
                            *t = t.plus(x.times(weight));
                        }
                    }
                }
            }
            data = result;
            shape[at] = axis.output;
        }
        Tensor::from_vec(&shape, data)
    }

    /// [`Self::interpolate`] in nearest mode, for elements of any type.
    fn pick<T: Element>(&self, array: &Array<T>, plan: &[Axis]) -> Result<Tensor, OpError> {
        let mut shape = array.shape().to_vec();
        let mut data = elements(array).into_owned();
        for (at, axis) in plan.iter().enumerate() {
            if self.is_identity(axis) {
                continue;
            }
            let (outer, n, inner) = around(&shape, at);
            let places: Vec<usize> = axis
                .taps(self)
                .into_iter()
                .map(|taps| taps.and_then(|t| t.first().map(|t| t.0)))
                .collect::<Option<_>>()
                .ok_or_else(|| OpError::unsupported("extrapolation in nearest mode"))?;
            let mut result = Vec::with_capacity(count(&[outer, axis.output, inner])?);
            for block in 0..outer {
                let source = &data[block * n * inner..(block + 1) * n * inner];
                if inner == 1 {
                    result.extend(places.iter().map(|&p| source[p]));
                } else {
                    for &p in &places {
                        result.extend_from_slice(&source[p * inner..(p + 1) * inner]);
                    }
                }
            }
            data = result;
            shape[at] = axis.output;
        }
        Tensor::from_vec(&shape, data)
    }
}

fn unit() -> Axis {
    Axis { input: 1, output: 1, scale: 1.0, exact: 1.0, crop: (0.0, 1.0) }
}
