//! What a network is trained towards: the scorer's loss as a weighted sum of terms, with its
//! gradient.

use super::classes::{self, ClassLayout};
use super::difference::LEAST_ENERGY;
use super::{ClassScores, Scorer, Task, counted, is_float, mismatch};
use crate::error::Result;
use crate::tensor::Tensor;
use crate::tokens::Tokens;

/// Smallest probability that gradients are divided by.
const LEAST_DIVISOR: f64 = 1e-30;

/// Weights of the terms of a training loss; every term is a mean over samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Cross entropy with the labels, a mean over classified positions.
    pub labels: f64,
    /// Divergence from the original's class probabilities at `temperature`, times its square so that
    /// gradients keep their size (Hinton, Vinyals and Dean 2015, section 2.1).
    pub distill: f64,
    /// Temperature of the divergence.
    pub temperature: f64,
    /// Squared error of all float outputs, relative to the original's norm, a mean over outputs.
    pub outputs: f64,
    /// One minus the cosine between outputs and the original's, a mean over outputs.
    pub cosine: f64,
}

/// A training loss and its gradient.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The loss of every sample.
    pub losses: Vec<f64>,
    /// The gradient of the sum of the losses with respect to every output; `None` for outputs that
    /// have no part in it.
    pub outputs: Vec<Option<Tensor>>,
}

impl Scorer {
    /// The objective that fits the scorer's loss: labels and the original's class scores together
    /// where there are both, the original's outputs otherwise.
    #[must_use]
    pub fn objective(&self) -> Objective {
        let none =
            Objective { labels: 0.0, distill: 0.0, temperature: 1.0, outputs: 0.0, cosine: 0.0 };
        match self.task {
            Task::Classification => {
                Objective { labels: 0.5, distill: 0.5, temperature: 2.0, ..none }
            }
            Task::Imitation => Objective { distill: 1.0, temperature: 2.0, ..none },
            Task::Regression => Objective { outputs: 1.0, ..none },
        }
    }

    /// Random gradients with respect to the output of class scores, `None` for all others, whose second
    /// moment is that of the gradients of cross entropy with labels drawn from what `outputs` say at
    /// `temperature`: diag(q) - q q^T in scores. The outputs are of samples from number `first` on. `normal` gives standard normal numbers.
    ///
    /// Labels that are really drawn are those of other classes rarely where the model is confident, and
    /// then all of a sample's gradient: their mean over few samples is that of even fewer.
    ///
    /// # Errors
    /// When there is no output of class scores.
    pub fn random_gradients(
        &self,
        outputs: &[Tensor],
        first: usize,
        temperature: f64,
        normal: &mut dyn FnMut() -> f64,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut gradients = vec![None; outputs.len()];
        let ClassScores { output, layout, probabilities } = self
            .scores
            .filter(|scores| scores.output < outputs.len())
            .ok_or_else(|| mismatch("the output of class scores is missing".to_owned()))?;
        let values = outputs[output].to_f64_vec();
        let mut slopes = vec![0.0; values.len()];
        let per_sample = (layout.positions() * layout.classes).max(1);
        let mut row = Vec::new();
        let samples = values.chunks_exact(per_sample).zip(slopes.chunks_exact_mut(per_sample));
        for (sample, (given, out)) in samples.enumerate() {
            let counted = layout.counted(self.tokens.as_ref(), first + sample);
            let share = 1.0 / counted.len().max(1) as f64;
            for &position in counted.iter() {
                layout.gather(given, position, &mut row);
                let divisors: Vec<f64> = row.iter().map(|p| p.max(LEAST_DIVISOR)).collect();
                classes::to_log_probabilities(&mut row, probabilities);
                row.iter_mut().for_each(|v| *v /= temperature);
                classes::to_log_probabilities(&mut row, false);
                // A root of the covariance: D (1 - s s^T) with s = D 1 = sqrt(q), of norm 1.
                let roots: Vec<f64> = row.iter().map(|log_q| (0.5 * log_q).exp()).collect();
                let draws: Vec<f64> = roots.iter().map(|_| normal()).collect();
                let along: f64 = roots.iter().zip(&draws).map(|(s, n)| s * n).sum();
                let root = roots.iter().zip(&draws).map(|(s, n)| s * (n - along * s));
                let mut slope: Vec<f64> = root.collect();
                if probabilities {
                    slope.iter_mut().zip(&divisors).for_each(|(s, p)| *s /= p);
                }
                scatter(layout, out, position, &slope, share);
            }
        }
        let elements: Vec<f32> = slopes.into_iter().map(|v| v as f32).collect();
        gradients[output] = Some(
            Tensor::from_vec(outputs[output].shape(), elements)
                .map_err(|source| mismatch(format!("a gradient can't be formed: {source}")))?,
        );
        Ok(gradients)
    }

    /// The training loss of `outputs` and its gradient, for samples on which the original gives
    /// `reference` and whose labels are `labels` (one per classified position; read only where the
    /// objective weighs them). `tokens` are the positions of these samples that count.
    ///
    /// # Errors
    /// When outputs differ from the reference in number or shape, labels are missing, or the
    /// objective needs class scores and there are none.
    pub fn gradients(
        &self,
        objective: &Objective,
        outputs: &[Tensor],
        reference: &[Tensor],
        labels: &[i64],
        tokens: Option<&Tokens>,
    ) -> Result<Gradients> {
        let same = outputs.len() == reference.len()
            && outputs.iter().zip(reference).all(|(a, b)| a.shape() == b.shape());
        if !same {
            return Err(mismatch("the outputs are not of the original's shapes".to_owned()));
        }
        let samples = outputs.iter().find_map(|t| t.shape().first().copied()).unwrap_or(0);
        let mut result =
            Gradients { losses: vec![0.0; samples], outputs: vec![None; outputs.len()] };
        let mut sums: Vec<Option<Vec<f64>>> = vec![None; outputs.len()];
        if objective.labels != 0.0 || objective.distill != 0.0 {
            let scores = self.scores.ok_or_else(|| {
                mismatch("labels and distillation need an output of class scores".to_owned())
            })?;
            let (given, original) = (&outputs[scores.output], &reference[scores.output]);
            sums[scores.output] = Some(classify(
                objective,
                scores,
                given,
                original,
                labels,
                tokens,
                &mut result.losses,
            )?);
        }
        if objective.outputs != 0.0 || objective.cosine != 0.0 {
            let compared: Vec<usize> = (0..outputs.len())
                .filter(|&i| self.energies[i].is_some() && is_float(outputs[i].data_type()))
                .collect();
            let share = 1.0 / compared.len().max(1) as f64;
            for i in compared {
                let sum = sums[i].get_or_insert_with(|| vec![0.0; outputs[i].len()]);
                let energy = self.energies[i].unwrap_or(0.0);
                let pair = [&outputs[i], &reference[i]].map(|t| counted(t, tokens, 0));
                imitate(objective, pair, energy, share, sum, &mut result.losses);
            }
        }
        for ((gradient, sum), output) in result.outputs.iter_mut().zip(sums).zip(outputs) {
            let Some(sum) = sum else { continue };
            let elements: Vec<f32> = sum.into_iter().map(|v| v as f32).collect();
            *gradient = Some(
                Tensor::from_vec(output.shape(), elements)
                    .map_err(|source| mismatch(format!("a gradient can't be formed: {source}")))?,
            );
        }
        Ok(result)
    }
}

/// Adds the terms on class scores to `losses`; returns the gradient.
fn classify(
    objective: &Objective,
    scores: ClassScores,
    given: &Tensor,
    original: &Tensor,
    labels: &[i64],
    tokens: Option<&Tokens>,
    losses: &mut [f64],
) -> Result<Vec<f64>> {
    let ClassScores { layout, probabilities, .. } = scores;
    let positions = layout.positions();
    let per_sample = positions * layout.classes;
    let (values, originals) = (given.to_f64_vec(), original.to_f64_vec());
    let mut gradient = vec![0.0; values.len()];
    if objective.labels != 0.0 && labels.len() != losses.len() * positions {
        return Err(mismatch(format!(
            "{} labels for {} samples of {positions} positions",
            labels.len(),
            losses.len()
        )));
    }
    let (mut row, mut soft, mut target) = (Vec::new(), Vec::new(), Vec::new());
    for (sample, loss) in losses.iter_mut().enumerate() {
        let range = sample * per_sample..(sample + 1) * per_sample;
        let (given, original) = (&values[range.clone()], &originals[range.clone()]);
        let out = &mut gradient[range];
        let counted = layout.counted(tokens, sample);
        let share = 1.0 / counted.len().max(1) as f64;
        for &position in counted.iter() {
            layout.gather(given, position, &mut row);
            let divisors: Vec<f64> = row.iter().map(|p| p.max(LEAST_DIVISOR)).collect();
            classes::to_log_probabilities(&mut row, probabilities);
            let mut slope = vec![0.0; layout.classes];
            if objective.labels != 0.0 {
                let label = labels[sample * positions + position];
                let class = usize::try_from(label).ok().filter(|&c| c < layout.classes);
                let class = class.ok_or_else(|| mismatch(format!("no class has label {label}")))?;
                *loss -= objective.labels * share * row[class];
                for (c, (slope, log_p)) in slope.iter_mut().zip(&row).enumerate() {
                    let one = if c == class { 1.0 } else { 0.0 };
                    *slope += objective.labels * (log_p.exp() - one);
                }
            }
            if objective.distill != 0.0 {
                let t = objective.temperature;
                layout.gather(original, position, &mut target);
                classes::to_log_probabilities(&mut target, probabilities);
                let tempered = |row: &[f64], out: &mut Vec<f64>| {
                    out.clear();
                    out.extend(row.iter().map(|v| v / t));
                    classes::to_log_probabilities(out, false);
                };
                tempered(&row, &mut soft);
                let own = std::mem::take(&mut target);
                tempered(&own, &mut target);
                let divergence = classes::divergence(target.iter().copied(), &soft);
                *loss += objective.distill * t * t * share * divergence;
                for (slope, (q, p)) in slope.iter_mut().zip(soft.iter().zip(&target)) {
                    *slope += objective.distill * t * (q.exp() - p.exp());
                }
            }
            if probabilities {
                slope.iter_mut().zip(&divisors).for_each(|(s, p)| *s /= p);
            }
            scatter(layout, out, position, &slope, share);
        }
    }
    Ok(gradient)
}

fn scatter(layout: ClassLayout, out: &mut [f64], position: usize, row: &[f64], share: f64) {
    for (index, value) in layout.indices(position).zip(row) {
        out[index] += share * value;
    }
}

/// For every sample `weight` times the squared distance of a value to what it is to be, as a share of
/// `energy`, and the gradient of the sum over samples. Axis 0 of both counts samples.
///
/// # Errors
/// When the two differ in shape or are not of `f32`.
pub fn squared_errors(
    value: &Tensor,
    target: &Tensor,
    energy: f64,
    weight: f64,
) -> Result<(Vec<f64>, Tensor)> {
    let fault = |source| mismatch(format!("a value can't be compared: {source}"));
    if value.shape() != target.shape() {
        let shapes = (value.shape(), target.shape());
        return Err(mismatch(format!("a value {:?} is {:?} in the original", shapes.0, shapes.1)));
    }
    let samples = value.shape().first().copied().unwrap_or(1).max(1);
    let (own, wanted) =
        (value.f32("a value").map_err(fault)?, target.f32("a value").map_err(fault)?);
    let scale = weight / energy.max(f64::MIN_POSITIVE);
    let mut losses = vec![0.0; samples];
    let per_sample = (value.len() / samples).max(1);
    let mut gradient = Vec::with_capacity(value.len());
    for (at, (a, b)) in own.iter().zip(wanted.iter()).enumerate() {
        let error = f64::from(*a) - f64::from(*b);
        losses[at / per_sample] += scale * error * error;
        gradient.push((2.0 * scale * error) as f32);
    }
    Ok((losses, Tensor::from_vec(value.shape(), gradient).map_err(fault)?))
}

/// Adds the terms that compare an output as a vector.
fn imitate(
    objective: &Objective,
    [values, originals]: [Vec<f64>; 2],
    energy: f64,
    share: f64,
    gradient: &mut [f64],
    losses: &mut [f64],
) {
    let length = (values.len() / losses.len().max(1)).max(1);
    let samples = values.chunks_exact(length).zip(originals.chunks_exact(length));
    for ((loss, out), (a, b)) in
        losses.iter_mut().zip(gradient.chunks_exact_mut(length)).zip(samples)
    {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let norm = dot(b, b).max(LEAST_ENERGY * energy).max(f64::MIN_POSITIVE);
        if objective.outputs != 0.0 {
            let weight = share * objective.outputs / norm;
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *loss += weight * (a - b) * (a - b);
                *out += 2.0 * weight * (a - b);
            }
        }
        if objective.cosine != 0.0 {
            let own = dot(a, a).max(f64::MIN_POSITIVE);
            let cosine = dot(a, b) / (own.sqrt() * norm.sqrt());
            let weight = share * objective.cosine;
            *loss += weight * (1.0 - cosine);
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out -= weight * (b / (own.sqrt() * norm.sqrt()) - cosine * a / own);
            }
        }
    }
}

#[cfg(test)]
mod tests;
