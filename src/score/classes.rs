//! Class scores: where they lie in an output, and what is lost on them.

use std::borrow::Cow;

use crate::tensor::Tensor;
use crate::tokens::Tokens;

/// Smallest probability that is told from zero: a class the model excludes costs 87 nats, not
/// infinitely many.
const LEAST_PROBABILITY: f64 = f32::MIN_POSITIVE as f64;
/// How far the sum of a row of probabilities may be from 1.
const SUM_TOLERANCE: f64 = 1e-3;

/// How class scores lie in an output `[samples, before.., classes, after..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClassLayout {
    pub classes: usize,
    before: usize,
    after: usize,
}

impl ClassLayout {
    /// The layout of an output with the classes along `axis`; negative axes count from the end.
    pub fn new(shape: &[usize], axis: isize) -> Option<Self> {
        let axis = if axis < 0 { shape.len().checked_add_signed(axis)? } else { axis as usize };
        let classes = *shape.get(axis).filter(|_| axis > 0)?;
        let product = |dims: &[usize]| dims.iter().product();
        Some(Self { classes, before: product(&shape[1..axis]), after: product(&shape[axis + 1..]) })
    }

    /// The axes that classes may lie along where nothing is said, the likelier first: `[N, C]` and
    /// `[N, C, 1, 1]` along 1, sequences `[N, T, C]` along the last, maps `[N, C, H, W]` along 1.
    pub fn likely_axes(shape: &[usize]) -> Vec<isize> {
        match shape {
            [] | [_] => Vec::new(),
            [_, _] => vec![1],
            [_, _, rest @ ..] if rest.iter().all(|&d| d == 1) => vec![1],
            [_, ones @ .., _] if ones.iter().all(|&d| d == 1) => vec![-1],
            [_, _, _] => vec![2, 1],
            _ => vec![1, -1],
        }
    }

    /// Positions that are classified in each sample.
    pub fn positions(&self) -> usize {
        self.before * self.after
    }

    /// The positions of a sample that count.
    pub fn counted<'t>(&self, tokens: Option<&'t Tokens>, sample: usize) -> Cow<'t, [usize]> {
        let kept = tokens.and_then(|tokens| tokens.kept(sample, self.positions()));
        kept.map_or_else(|| (0..self.positions()).collect(), Cow::Borrowed)
    }

    /// Where the scores at one position lie within a sample.
    pub fn indices(&self, position: usize) -> impl Iterator<Item = usize> {
        let start = position / self.after * self.classes * self.after + position % self.after;
        (start..).step_by(self.after).take(self.classes)
    }

    /// Copies the scores at one position of a sample into `row`.
    pub fn gather(&self, sample: &[f64], position: usize, row: &mut Vec<f64>) {
        row.clear();
        row.extend(self.indices(position).map(|index| sample[index]));
    }
}

/// Whether every row of scores is a probability distribution.
pub(super) fn are_probabilities(output: &Tensor, layout: ClassLayout) -> bool {
    let values = output.to_f64_vec();
    let per_sample = layout.positions() * layout.classes;
    let mut row = Vec::new();
    per_sample > 0
        && values.iter().all(|&v| v >= 0.0)
        && values.chunks_exact(per_sample).all(|sample| {
            (0..layout.positions()).all(|position| {
                layout.gather(sample, position, &mut row);
                (row.iter().sum::<f64>() - 1.0).abs() <= SUM_TOLERANCE
            })
        })
}

/// Turns scores into log probabilities.
pub(super) fn to_log_probabilities(row: &mut [f64], are_probabilities: bool) {
    if are_probabilities {
        for p in row {
            // `max` would hide NaN.
            *p = if *p < LEAST_PROBABILITY { LEAST_PROBABILITY.ln() } else { p.ln() };
        }
        return;
    }
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|z| (z - largest).exp()).sum();
    let log_sum = largest + sum.ln();
    for z in row {
        *z -= log_sum;
    }
}

/// Kullback-Leibler divergence of `q` from `p`, both given as log probabilities.
pub(super) fn divergence(p: impl Iterator<Item = f64>, q: &[f64]) -> f64 {
    let terms = p.zip(q).map(|(p, q)| match p.exp() {
        0.0 if !q.is_nan() => 0.0,
        weight => weight * (p - q),
    });
    // Rounding can leave a negative dust.
    let sum: f64 = terms.sum();
    if sum < 0.0 { 0.0 } else { sum }
}

/// The class with the highest score, the first among equals; none where scores are not numbers.
pub(super) fn best(row: &[f64]) -> Option<usize> {
    let mut best = None;
    for (class, &score) in row.iter().enumerate() {
        if score.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, top)| score > top) {
            best = Some((class, score));
        }
    }
    best.map(|(class, _)| class)
}

/// Whether `class` is among the `k` highest scores; of equal scores the first counts as higher.
pub(super) fn is_among_best(row: &[f64], class: usize, k: usize) -> bool {
    let Some(&score) = row.get(class) else { return false };
    if row.iter().any(|s| s.is_nan()) {
        return false;
    }
    let higher = |(other, &s): (usize, &f64)| s > score || (s == score && other < class);
    row.iter().enumerate().filter(|&entry| higher(entry)).count() < k
}
