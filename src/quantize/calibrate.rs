//! What layers see on samples: second moments of their inputs, ranges of values.

use std::ops;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::eval::moments::{Moments, Sums};
use crate::eval::{Evaluator, ValueId, first_samples};
use crate::layer::{Batch, LinearMap, Positions};
use crate::onnx::Model;
use crate::tensor::Tensor;
use crate::tokens::Tokens;

use super::range::{self, Histogram};

/// Samples in runs.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    /// Number of runs.
    pub runs: usize,
    /// Number of samples.
    pub samples: usize,
    /// The positions of their sequences that count; `None` where all do.
    pub tokens: Option<&'a Tokens>,
    /// The inputs of a run in the batch size that an evaluator demands, and which samples they are.
    pub inputs: &'a (dyn Fn(usize, &Evaluator) -> Result<(Vec<Tensor>, ops::Range<usize>)> + Sync),
}

/// Lanes that accumulate independently; a constant, so that sums don't depend on the number of
/// threads.
const LANES: usize = 4;

/// Rows per input of a map that its moments are taken over, and at least so many.
const ROWS: (usize, usize) = (12, 4096);

/// Maps of more inputs than this would need too large a matrix.
const WIDE: usize = 5120;

/// A map whose inputs are to be known.
pub(super) struct Observed {
    /// Name of the value it is applied to.
    pub value: String,
    /// The map.
    pub map: LinearMap,
}

impl Calibration<'_> {
    /// Runs of every lane, consecutive.
    fn lanes(&self) -> Vec<ops::Range<usize>> {
        (0..LANES).map(|l| l * self.runs / LANES..(l + 1) * self.runs / LANES).collect()
    }

    /// Moments of the inputs of every map's groups; `None` for a map whose input is constant, too
    /// wide, no float, or not finite.
    ///
    /// # Errors
    /// When the model can't be run.
    pub(super) fn moments(
        &self,
        model: &Model,
        observed: &[Observed],
        seed: u64,
    ) -> Result<Vec<Option<Vec<Moments>>>> {
        let names: Vec<&str> = observed.iter().map(|o| o.value.as_str()).collect();
        let evaluator = Evaluator::observing(model, &names)?;
        let ids: Vec<Option<ValueId>> = observed
            .iter()
            .map(|o| evaluator.value(&o.value).filter(|_| o.map.columns <= WIDE))
            .collect();
        let positions = |index: usize| {
            let rows = (ROWS.0 * observed[index].map.columns).max(ROWS.1);
            Positions {
                per_sample: rows.div_ceil(self.samples.max(1)).max(1),
                seed: seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            }
        };
        let empty = || -> Vec<Vec<Sums>> {
            let sums = |o: &Observed| vec![Sums::new(o.map.columns, 1); o.map.groups];
            observed.iter().map(sums).collect()
        };
        let lanes: Vec<Vec<Vec<Sums>>> = self
            .lanes()
            .into_par_iter()
            .map(|runs| {
                let mut sums = empty();
                for run in runs {
                    let (inputs, range) = (self.inputs)(run, &evaluator)?;
                    let (first, tokens) = (range.start as u64, self.tokens);
                    let batch = Batch { first, samples: range.len(), tokens };
                    let mut state = evaluator.start(inputs)?;
                    evaluator.advance(&mut state, usize::MAX)?;
                    for (index, id) in ids.iter().enumerate() {
                        let Some(x) = id.and_then(|id| evaluator.get(&state, id)) else { continue };
                        let x = own(&x, range.len(), &evaluator);
                        let wrap = |source| fault(&observed[index], source);
                        let at = positions(index);
                        let rows = observed[index].map.input_rows(&x, &batch, &at);
                        // Values of another type or layout than the map's leave it without moments.
                        let Ok(rows) = rows else { continue };
                        for (sums, x) in sums[index].iter_mut().zip(&rows.groups) {
                            let none = vec![0.0; x.len() / observed[index].map.columns.max(1)];
                            sums.add(x, &none).map_err(wrap)?;
                        }
                    }
                }
                Ok(sums)
            })
            .collect::<Result<_>>()?;
        let mut totals = empty();
        for lane in &lanes {
            for (index, groups) in lane.iter().enumerate() {
                for (total, sums) in totals[index].iter_mut().zip(groups) {
                    total.merge(sums).map_err(|source| fault(&observed[index], source))?;
                }
            }
        }
        totals
            .into_iter()
            .zip(observed)
            .map(|(groups, o)| {
                let moments = groups.into_iter().map(Sums::moments);
                let moments = moments.collect::<std::result::Result<Vec<_>, _>>();
                let moments: Option<Vec<Moments>> =
                    moments.map_err(|source| fault(o, source))?.into_iter().collect();
                Ok(moments.filter(|groups| {
                    groups.iter().all(|m| {
                        m.xx.mean_variance().is_finite() && m.x_mean.iter().all(|v| v.is_finite())
                    })
                }))
            })
            .collect()
    }
}

impl Calibration<'_> {
    /// For each named value the range of a grid for it; `None` for one that is constant, no float, or
    /// not finite.
    ///
    /// # Errors
    /// When the model can't be run.
    pub(super) fn ranges(
        &self,
        model: &Model,
        names: &[&str],
        method: range::Range,
    ) -> Result<Vec<Option<(f32, f32)>>> {
        let evaluator = Evaluator::observing(model, names)?;
        let ids: Vec<Option<ValueId>> = names.iter().map(|name| evaluator.value(name)).collect();
        let none = (f32::INFINITY, f32::NEG_INFINITY);
        let ends = self.fold(
            &evaluator,
            &ids,
            || vec![none; names.len()],
            |ends, index, values| {
                for value in values {
                    // NaN has to stay visible.
                    let (low, high) = ends[index];
                    ends[index] = if value.is_nan() {
                        (value, value)
                    } else {
                        (
                            if value < low { value } else { low },
                            if value > high { value } else { high },
                        )
                    };
                }
            },
            |a, b| {
                for (a, b) in a.iter_mut().zip(b) {
                    if b.0.is_nan() {
                        *a = b;
                    } else {
                        *a = (if b.0 < a.0 { b.0 } else { a.0 }, if b.1 > a.1 { b.1 } else { a.1 });
                    }
                }
            },
        )?;
        if method == range::Range::MinMax {
            let whole = |e: &(f32, f32)| finite(*e).then_some((e.0.min(0.0), e.1.max(0.0)));
            return Ok(ends.iter().map(whole).collect());
        }
        let empty = || -> Vec<Option<Histogram>> {
            ends.iter().map(|&e| finite(e).then(|| Histogram::new(e.0, e.1))).collect()
        };
        let histograms = self.fold(
            &evaluator,
            &ids,
            empty,
            |histograms, index, values| {
                if let Some(histogram) = &mut histograms[index] {
                    histogram.add(values);
                }
            },
            |a, b| {
                for pair in a.iter_mut().zip(b) {
                    if let (Some(a), Some(b)) = pair {
                        a.merge(&b);
                    }
                }
            },
        )?;
        Ok(histograms.par_iter().map(|h| h.as_ref().map(|h| h.range(method))).collect())
    }

    /// Runs all samples and folds over the float values of the given ids; the order doesn't matter.
    fn fold<S: Send>(
        &self,
        evaluator: &Evaluator,
        ids: &[Option<ValueId>],
        empty: impl Fn() -> S + Sync,
        add: impl Fn(&mut S, usize, &mut dyn Iterator<Item = f32>) + Sync,
        merge: impl Fn(&mut S, S),
    ) -> Result<S> {
        let parts: Vec<S> = self
            .lanes()
            .into_par_iter()
            .map(|runs| {
                let mut sums = empty();
                for run in runs {
                    let (inputs, range) = (self.inputs)(run, evaluator)?;
                    let mut state = evaluator.start(inputs)?;
                    evaluator.advance(&mut state, usize::MAX)?;
                    for (index, id) in ids.iter().enumerate() {
                        let Some(value) = id.and_then(|id| evaluator.get(&state, id)) else {
                            continue;
                        };
                        if let Tensor::F32(array) = own(&value, range.len(), evaluator) {
                            add(&mut sums, index, &mut array.iter().copied());
                        }
                    }
                }
                Ok(sums)
            })
            .collect::<Result<_>>()?;
        let mut total = empty();
        parts.into_iter().for_each(|part| merge(&mut total, part));
        Ok(total)
    }
}

fn finite(ends: (f32, f32)) -> bool {
    ends.0.is_finite() && ends.1.is_finite()
}

/// What `samples` samples have in a run's value.
fn own(value: &Tensor, samples: usize, evaluator: &Evaluator) -> Tensor {
    first_samples(value, samples, evaluator.batches().fixed.unwrap_or(samples))
}

fn fault(observed: &Observed, source: crate::error::OpError) -> Error {
    Error::Node { node: observed.value.clone(), op_type: "input of a layer".to_owned(), source }
}
