//! Weights that are trained as they will be rounded.
//!
//! An element w with the step s counts as s clamp(round(w / s)). Going back, the gradient passes to w as if
//! nothing were rounded wherever w is within the grid (the straight-through estimator: Bengio, Leonard and
//! Courville 2013). The step has that of a learned one (LSQ: Esser et al. 2020): round(w / s) - w / s
//! within the grid, the end of the grid beyond. Steps are trained by the logarithm of what they are
//! multiplied by: they stay positive, and a rate means the same for all of them.

use super::Settings;
use super::grid::Levels;
use super::select::Quantized;
use super::stored::{Quantization, Storage, StoredWeight, checksum};
use crate::elements::Elements;
use crate::error::{Error, Result};
use crate::graph;
use crate::onnx::{Model, TensorProto};
use crate::tensor::Tensor;

/// Share of a step that an element begins next to its level at most: a little more, and it would be
/// nearer to another one.
const WITHIN: f32 = 0.45;

/// The largest logarithm of what a step may be multiplied by.
const FURTHEST: f32 = 4.0;

/// A weight with the grid that it is rounded to while it is trained.
#[derive(Clone, Debug)]
pub struct Grid {
    stored: StoredWeight,
    levels: Levels,
    start: Vec<f32>,
}

impl Grid {
    /// For each weight of a quantization that has one its grid: weights of half floats have none.
    #[must_use]
    pub fn all(found: &Quantized, settings: &Settings) -> Vec<Self> {
        let weights = found.quantization.weights.iter().zip(&found.elements);
        let grid = |(stored, elements): (&StoredWeight, &Vec<f32>)| {
            let levels = stored.storage.levels(settings)?;
            let near = |(at, (&v, &code)): (usize, (&f32, &i8))| {
                let step = stored.scales.0[stored.scale_of(at)];
                let code = f32::from(code);
                v.clamp((code - WITHIN) * step, (code + WITHIN) * step)
            };
            let start = elements.iter().zip(&stored.codes.0).enumerate().map(near).collect();
            Some(Self { stored: stored.clone(), levels, start })
        };
        weights.filter_map(grid).collect()
    }

    /// The weight's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.stored.name
    }

    /// Elements to begin with: as before they were rounded, as far as that leaves each at its level.
    #[must_use]
    pub fn start(&self) -> &[f32] {
        &self.start
    }

    /// The number of steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.stored.scales.0.len()
    }

    /// The steps, multiplied by the exponentials of `moved`.
    fn moved(&self, moved: &[f32]) -> Vec<f32> {
        let step = |(&scale, &by): (&f32, &f32)| {
            let step = scale * by.clamp(-FURTHEST, FURTHEST).exp();
            // A step that is no number makes elements that are none, and the loss shows it.
            if step < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { step }
        };
        self.stored.scales.0.iter().zip(moved).map(step).collect()
    }

    /// What elements count as. Elements that are no number stay so.
    #[must_use]
    pub fn rounded(&self, elements: &[f32], moved: &[f32]) -> Vec<f32> {
        let steps = self.moved(moved);
        let one = |(at, &v): (usize, &f32)| {
            let step = steps[self.stored.scale_of(at)];
            let code = self.levels.nearest(f64::from(v), step);
            if v.is_finite() { code as f32 * step } else { f32::NAN }
        };
        elements.iter().enumerate().map(one).collect()
    }

    /// From the gradient of what elements count as those of the elements and of `moved`.
    #[must_use]
    pub fn slopes(
        &self,
        elements: &[f32],
        moved: &[f32],
        gradient: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let steps = self.moved(moved);
        let mut of_steps = vec![0.0f64; steps.len()];
        // An element beyond the ends may still come back from where it is rounded to the last level.
        let (low, high) = (f64::from(self.levels.low) - 0.5, f64::from(self.levels.high) + 0.5);
        let one = |(at, (&v, &g)): (usize, (&f32, &f32))| {
            let k = self.stored.scale_of(at);
            let place = f64::from(v) / f64::from(steps[k]);
            let code = f64::from(self.levels.nearest(f64::from(v), steps[k]));
            let within = (low..=high).contains(&place);
            let by_step = if within { code - place } else { code };
            of_steps[k] += f64::from(g) * by_step * f64::from(steps[k]);
            if within { g } else { 0.0 }
        };
        let slopes = elements.iter().zip(gradient).enumerate().map(one).collect();
        (slopes, of_steps.into_iter().map(|v| v as f32).collect())
    }

    /// The weight as it is stored after training.
    #[must_use]
    pub fn stored(&self, elements: &[f32], moved: &[f32]) -> StoredWeight {
        let steps = self.moved(moved);
        let code = |(at, &v): (usize, &f32)| {
            self.levels.nearest(f64::from(v), steps[self.stored.scale_of(at)]) as i8
        };
        let mut stored = self.stored.clone();
        stored.codes.0 = elements.iter().enumerate().map(code).collect();
        stored.scales = Elements(steps);
        stored
    }
}

impl Storage {
    /// The codes that a weight stored so may have; none for half floats.
    pub(super) fn levels(self, settings: &Settings) -> Option<Levels> {
        match self {
            Self::Fp16 => None,
            Self::Int4 | Self::Int4Dq | Self::Int4Packed => Some(Levels::INT4),
            Self::Int8 | Self::Int8Dynamic if settings.has_seven_bits() => Some(Levels::INT7),
            Self::Int8 | Self::Int8Dynamic => Some(Levels::INT8),
        }
    }
}

impl StoredWeight {
    /// Which scale the element at an index has.
    pub(super) fn scale_of(&self, at: usize) -> usize {
        let inner: usize = self.shape[self.axis + 1..].iter().product();
        let extent = self.shape[self.axis];
        let place = at / inner % extent;
        match self.block {
            0 => place,
            block => {
                let blocks = extent.div_ceil(block);
                (at / inner / extent * blocks + place / block) * inner + at % inner
            }
        }
    }

    /// What the codes stand for; none for half floats.
    fn elements(&self) -> Option<Vec<f32>> {
        let one = |(at, &code): (usize, &i8)| f32::from(code) * self.scales.0[self.scale_of(at)];
        (self.storage != Storage::Fp16).then(|| self.codes.0.iter().enumerate().map(one).collect())
    }
}

impl Quantization {
    /// The model with the numbers that its weights in fewer bits stand for, and with the biases that
    /// make up for the rounding: what is written computes the same, but for values that are rounded.
    ///
    /// # Errors
    /// When the model lacks one of the constants.
    pub fn stands_for(&self, model: &Model) -> Result<Model> {
        let mut result = model.clone();
        let weights = self.weights.iter().filter_map(|w| Some((&w.name, w.elements()?)));
        let biases = self.constants.iter().map(|c| (&c.name, c.data.0.clone()));
        for (name, elements) in weights.chain(biases) {
            set(&mut result, name, elements)?;
        }
        Ok(result)
    }

    /// What rounds values alone: weights and biases stay as they are.
    #[must_use]
    pub fn of_values(&self) -> Self {
        let values = self.values.clone();
        Self { form: self.form, weights: Vec::new(), constants: Vec::new(), values }
    }

    /// The quantization of a model whose weights are what these codes stand for, those of `trained` in the
    /// place of weights of the same name. Biases stay as the model has them.
    ///
    /// # Errors
    /// When the model lacks one of the weights.
    pub fn with(mut self, model: &Model, trained: Vec<StoredWeight>) -> Result<Self> {
        for stored in trained {
            if let Some(old) = self.weights.iter_mut().find(|w| w.name == stored.name) {
                *old = stored;
            }
        }
        for stored in &mut self.weights {
            let Some(Tensor::F32(array)) = graph::constant_tensor(model, &stored.name)? else {
                return Err(lacks(&stored.name));
            };
            let elements: Vec<f32> = array.iter().copied().collect();
            stored.checksum = checksum(&elements);
        }
        self.constants.clear();
        Ok(self)
    }
}

/// Gives a constant of a model other elements.
fn set(model: &mut Model, name: &str, elements: Vec<f32>) -> Result<()> {
    let old = graph::constant_tensor(model, name)?.ok_or_else(|| lacks(name))?;
    let new = Tensor::from_vec(old.shape(), elements)
        .map_err(|e| Error::Plan { reason: format!("quantized `{name}`: {e}") })?;
    graph::set_constant(model.graph_mut(), TensorProto::from_tensor(name, &new));
    Ok(())
}

fn lacks(name: &str) -> Error {
    Error::Plan { reason: format!("quantized `{name}`: the model has no such float constant") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::stored::Codes;
    use crate::quantize::{Form, Kept};

    /// A 6 x 5 matrix whose steps are those of rows, or of blocks of 4 down its columns.
    fn grid(blocks: bool) -> (Grid, Vec<f32>) {
        let shape = vec![6, 5];
        let elements: Vec<f32> = (0..30).map(|i| ((i * 7 % 13) as f32 - 6.0) * 0.11).collect();
        let (storage, axis, block, count) =
            if blocks { (Storage::Int4, 0, 4, 10) } else { (Storage::Int8, 0, 0, 6) };
        let scales: Vec<f32> = (0..count).map(|k| 0.05 + 0.01 * k as f32).collect();
        let stored = StoredWeight {
            name: "w".into(),
            shape,
            checksum: 0,
            storage,
            axis,
            block,
            codes: Codes(vec![0; 30]),
            scales: Elements(scales),
        };
        let levels = storage.levels(&Settings::default()).unwrap();
        let mut grid = Grid { stored, levels, start: Vec::new() };
        grid.stored = grid.stored(&elements, &vec![0.0; count]);
        (grid, elements)
    }

    /// Where each element's step is, spelled out.
    #[test]
    fn steps_are_those_of_rows_or_blocks() {
        let (rows, _) = grid(false);
        let (blocks, _) = grid(true);
        for row in 0..6 {
            for column in 0..5 {
                let at = row * 5 + column;
                assert_eq!(rows.stored.scale_of(at), row);
                assert_eq!(blocks.stored.scale_of(at), row / 4 * 5 + column);
            }
        }
    }

    /// Training begins at the codes that were found, and what is stored stands for what was counted.
    #[test]
    fn the_start_has_the_codes_found() {
        for blocks in [false, true] {
            let (grid, elements) = grid(blocks);
            let mut stored = grid.stored.clone();
            // Codes that are not the nearest ones, as compensation leaves them.
            stored.codes.0.iter_mut().step_by(3).for_each(|c| *c = (*c + 2).min(7));
            let quantization = Quantization {
                form: Form::Int8,
                weights: vec![stored.clone()],
                constants: Vec::new(),
                values: None,
            };
            let kept: Vec<Kept> = Vec::new();
            let found = Quantized { quantization, kept, elements: vec![elements] };
            let grids = Grid::all(&found, &Settings::default());
            let still = vec![0.0; grids[0].steps()];
            let again = grids[0].stored(grids[0].start(), &still);
            assert_eq!(again.codes.0, stored.codes.0);
            assert_eq!(again.elements().unwrap(), grids[0].rounded(grids[0].start(), &still));
        }
    }

    /// Gradients against differences of the smooth part in `f64`: with the rounding's own change held
    /// fixed, an element within the grid counts as itself, and as a multiple of the step beyond.
    #[test]
    fn slopes_are_those_of_the_smooth_part() {
        for blocks in [false, true] {
            let (grid, mut elements) = grid(blocks);
            elements[7] = 40.0;
            elements[8] = -40.0;
            let moved: Vec<f32> = (0..grid.steps()).map(|k| 0.03 * k as f32 - 0.1).collect();
            let gradient: Vec<f32> = (0..30).map(|i| (i as f32 * 0.7).sin()).collect();
            let (of_elements, of_moved) = grid.slopes(&elements, &moved, &gradient);
            // What rounding adds, or the end of the grid that an element beyond it is held at: neither
            // moves with the element, which may lie right where the two meet.
            let (low, high) = (f64::from(grid.levels.low), f64::from(grid.levels.high));
            let held: Vec<(f64, Option<f64>)> = (0..30)
                .map(|at| {
                    let step = f64::from(grid.moved(&moved)[grid.stored.scale_of(at)]);
                    let place = f64::from(elements[at]) / step;
                    let code = place.round_ties_even();
                    let end = if code < low { Some(low) } else { (code > high).then_some(high) };
                    (code - place, end)
                })
                .collect();
            let ends = held.iter().filter(|(_, end)| end.is_some()).count();
            assert!(ends > 1 && ends < 30, "{ends} elements beyond the grid");
            let smooth = |elements: &[f64], moved: &[f64]| -> f64 {
                (0..30)
                    .map(|at| {
                        let k = grid.stored.scale_of(at);
                        let step = f64::from(grid.stored.scales.0[k]) * moved[k].exp();
                        let (rounding, end) = held[at];
                        let level = end.unwrap_or(elements[at] / step + rounding);
                        f64::from(gradient[at]) * step * level
                    })
                    .sum()
            };
            let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let (e, m) = (wide(&elements), wide(&moved));
            let numeric = |which: usize, at: usize| {
                let at_offset = |by: f64| {
                    let (mut e, mut m) = (e.clone(), m.clone());
                    if which == 0 {
                        e[at] += by
                    } else {
                        m[at] += by
                    }
                    smooth(&e, &m)
                };
                (at_offset(1e-6) - at_offset(-1e-6)) / 2e-6
            };
            for at in 0..30 {
                let wanted = numeric(0, at);
                assert!((f64::from(of_elements[at]) - wanted).abs() < 1e-6, "{at} {wanted}");
            }
            for k in 0..grid.steps() {
                let wanted = numeric(1, k);
                assert!((f64::from(of_moved[k]) - wanted).abs() < 1e-5, "{k} {wanted}");
            }
        }
    }

    #[test]
    fn what_is_no_number_shows() {
        let (grid, mut elements) = grid(true);
        elements[3] = f32::NAN;
        elements[4] = f32::INFINITY;
        let rounded = grid.rounded(&elements, &vec![0.0; grid.steps()]);
        assert!(rounded[3].is_nan() && rounded[4].is_nan() && rounded[5].is_finite());
        let far = grid.rounded(&elements, &vec![-1e30; grid.steps()]);
        assert!(far[5].is_finite());
        let lost = grid.rounded(&elements, &vec![f32::NAN; grid.steps()]);
        assert!(lost.iter().all(|v| v.is_nan()));
    }
}
