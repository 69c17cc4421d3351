//! Loss and metric of a model's outputs: one definition for search, tuning and report.
//!
//! A [`Scorer`] is made once from the original model's outputs, and the labels where there are any.
//! It then scores what other models give for the same samples:
//!
//! | given | loss | metric |
//! |---|---|---|
//! | labels, outputs `[N, C]`, `[N, C, 1, 1]`, `[N, T, C]`, `[N, C, H, W]` | cross entropy | top-1 accuracy |
//! | no labels, one output of floats `[N, C]` (or `[N, C, 1, 1]`), C > 1, or probabilities | divergence from the original's probabilities | top-1 agreement with the original |
//! | no labels, other outputs, or rows of norm 1 (embeddings) | relative squared error | cosine |
//! | outputs of integers only | share of differing elements | agreement |
//!
//! Scores whose rows are probabilities in the original (not negative, sum 1) are taken for
//! probabilities, others for logits. A metric that is asked for chooses its row of the table:
//! `top1` and `top5` the first, `agreement` the second, the others the third.
//!
//! Lower losses are better. They are finite: outputs that are no numbers cost [`WORST_LOSS`].

mod classes;
mod detect;
mod difference;
mod metric;
mod objective;
#[cfg(test)]
mod tests;

use std::ops::Range;

use classes::ClassLayout;
use difference::Difference;

use crate::error::{Error, Result};
use crate::tensor::{DataType, Tensor};
use crate::tokens::Tokens;

pub use metric::MetricKind;
pub use objective::{Gradients, Objective, squared_errors};

/// The loss of a sample whose outputs are no numbers, and the bound of all losses.
pub const WORST_LOSS: f64 = 1e9;
/// What outputs are compared with, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The scores of one output with labels.
    Classification,
    /// The scores of one output with the original's.
    Imitation,
    /// All outputs with the original's, as vectors.
    Regression,
}

/// Scores models on a set of samples.
#[derive(Debug)]
pub struct Scorer {
    reference: Vec<Tensor>,
    labels: Vec<i64>,
    samples: usize,
    task: Task,
    metric: MetricKind,
    scores: Option<ClassScores>,
    /// Mean squared norm of each output per sample; none for outputs that are left out.
    energies: Vec<Option<f64>>,
    /// The positions of the samples' sequences that count; `None` where all do.
    tokens: Option<Tokens>,
}

/// The output with the class scores.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ClassScores {
    output: usize,
    layout: ClassLayout,
    probabilities: bool,
}

/// Loss and metric per sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Loss of each sample, at most [`WORST_LOSS`]; lower is better.
    pub losses: Vec<f64>,
    /// The metric's value for each sample.
    pub metrics: Vec<f64>,
}

impl Score {
    /// Mean loss over the samples; 0 without samples.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        mean(&self.losses)
    }

    /// The metric over the samples, in its unit; 0 without samples.
    #[must_use]
    pub fn metric(&self) -> f64 {
        mean(&self.metrics)
    }

    /// The number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.losses.len()
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    /// Adds the scores of further samples.
    pub fn extend(&mut self, other: Self) {
        self.losses.extend(other.losses);
        self.metrics.extend(other.metrics);
    }
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

impl Scorer {
    /// A scorer for samples on which the original model gives `reference`: one tensor per output of
    /// the graph, axis 0 = samples.
    ///
    /// `labels` has one class index per sample, or one per classified position, sample by sample.
    /// `class_axis` is the axis of the class scores, negative from the end; it is found where it is
    /// not given.
    ///
    /// # Errors
    /// [`Error::DataMismatch`] when labels fit no output or lie beyond its classes, when the metric
    /// needs what there is not, or when no output has an axis of samples.
    pub fn new(
        reference: Vec<Tensor>,
        labels: Option<Vec<i64>>,
        metric: Option<MetricKind>,
        class_axis: Option<isize>,
    ) -> Result<Self> {
        Self::masked(reference, labels, metric, class_axis, None)
    }

    /// [`Scorer::new`] for samples with sequences of which only `tokens` count: outputs
    /// `[samples, length, ..]` are compared at those alone, and other labels are not read.
    ///
    /// # Errors
    /// As [`Scorer::new`].
    pub fn masked(
        reference: Vec<Tensor>,
        labels: Option<Vec<i64>>,
        metric: Option<MetricKind>,
        class_axis: Option<isize>,
        tokens: Option<Tokens>,
    ) -> Result<Self> {
        let samples = reference.iter().find_map(|t| t.shape().first().copied()).unwrap_or(0);
        let usable: Vec<bool> = reference
            .iter()
            .map(|t| t.shape().first() == Some(&samples) && !t.is_empty())
            .collect();
        if samples == 0 || !usable.contains(&true) {
            return Err(mismatch("no output of the model has an axis of samples".to_owned()));
        }
        let task = match metric {
            Some(MetricKind::Top1 | MetricKind::Top5) => Some(Task::Classification),
            Some(MetricKind::Agreement) => Some(Task::Imitation),
            Some(_) => Some(Task::Regression),
            None => labels.is_some().then_some(Task::Classification),
        };
        let mut scorer = Self {
            energies: energies(&reference, &usable, samples, tokens.as_ref()),
            tokens,
            reference,
            labels: Vec::new(),
            samples,
            task: Task::Regression,
            metric: metric.unwrap_or(MetricKind::Cosine),
            scores: None,
        };
        let compared = task == Some(Task::Regression);
        if let Some(axis) = class_axis
            && !compared
            && scorer.first_scores(class_axis).is_none()
        {
            return Err(mismatch(format!(
                "no output (shapes {}) has the scores of classes on axis {axis}",
                scorer.shapes()
            )));
        }
        match task {
            Some(Task::Classification) => {
                scorer.labels = labels
                    .ok_or_else(|| mismatch(format!("metric `{}` needs labels", scorer.metric)))?;
                scorer.scores = Some(scorer.labelled_scores(class_axis)?);
                scorer.task = Task::Classification;
                scorer.metric = metric.unwrap_or(MetricKind::Top1);
            }
            Some(Task::Imitation) => scorer.imitate(scorer.first_scores(class_axis)),
            Some(Task::Regression) => {}
            None => {
                let scores = scorer.only_scores(class_axis);
                if scores.is_some() || !scorer.has_floats() {
                    scorer.imitate(scores);
                }
            }
        }
        Ok(scorer)
    }

    fn imitate(&mut self, scores: Option<ClassScores>) {
        self.scores = scores;
        // Without class scores agreement is equality of outputs, which regression measures.
        self.task = if scores.is_some() { Task::Imitation } else { Task::Regression };
        self.metric = MetricKind::Agreement;
    }

    /// What is compared with what.
    #[must_use]
    pub fn task(&self) -> Task {
        self.task
    }

    /// The metric.
    #[must_use]
    pub fn metric(&self) -> MetricKind {
        self.metric
    }

    /// The number of samples.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The labels, empty where there are none or the metric has no use for them.
    #[must_use]
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The original model's outputs.
    #[must_use]
    pub fn reference(&self) -> &[Tensor] {
        &self.reference
    }

    /// Position of the output with the class scores, and whether these are probabilities; none
    /// where all outputs are compared.
    #[must_use]
    pub fn class_output(&self) -> Option<(usize, bool)> {
        self.scores.map(|scores| (scores.output, scores.probabilities))
    }

    /// Loss and metric for a person to read.
    #[must_use]
    pub fn description(&self) -> String {
        let loss = match self.task {
            Task::Classification => "cross entropy with the labels",
            Task::Imitation => "divergence from the original's outputs",
            Task::Regression => "relative squared error to the original's outputs",
        };
        format!("{} (loss: {loss})", self.metric)
    }

    /// The score of the original model itself.
    ///
    /// # Errors
    /// None are known; see [`Self::score`].
    pub fn reference_score(&self) -> Result<Score> {
        self.score(&self.reference, 0..self.samples)
    }

    /// Scores the outputs of a model for samples `rows`; axis 0 of every output counts these.
    ///
    /// # Errors
    /// [`Error::DataMismatch`] when outputs differ from the original's in number or shape, or there
    /// are no such samples.
    pub fn score(&self, outputs: &[Tensor], rows: Range<usize>) -> Result<Score> {
        if rows.start > rows.end || rows.end > self.samples {
            return Err(mismatch(format!("there are no samples {rows:?}, only {}", self.samples)));
        }
        if outputs.len() != self.reference.len() {
            return Err(mismatch(format!(
                "{} outputs, the original has {}",
                outputs.len(),
                self.reference.len()
            )));
        }
        for (position, (output, energy)) in outputs.iter().zip(&self.energies).enumerate() {
            let expected = self.reference[position].shape();
            let same = output.shape().split_first().map(|(n, rest)| (*n, rest))
                == expected.split_first().map(|(_, rest)| (rows.len(), rest));
            if energy.is_some() && !same {
                return Err(mismatch(format!(
                    "output {position} has shape {:?} for {} samples, the original {expected:?} \
                     for {}",
                    output.shape(),
                    rows.len(),
                    self.samples
                )));
            }
        }
        let mut score = match self.scores {
            Some(scores) => self.score_classes(scores, &outputs[scores.output], rows),
            None => self.score_outputs(outputs, rows),
        };
        for loss in &mut score.losses {
            *loss = if loss.is_nan() { WORST_LOSS } else { loss.min(WORST_LOSS) };
        }
        Ok(score)
    }

    fn score_classes(&self, scores: ClassScores, output: &Tensor, rows: Range<usize>) -> Score {
        let ClassScores { layout, probabilities, .. } = scores;
        let positions = layout.positions();
        let per_sample = positions * layout.classes;
        let reference = self.reference[scores.output].slice_batch(rows.start, rows.end);
        let (values, originals) = (output.to_f64_vec(), reference.to_f64_vec());
        let top = if self.metric == MetricKind::Top5 { 5 } else { 1 };
        let mut score = Score::default();
        let (mut row, mut original) = (Vec::new(), Vec::new());
        let samples = values.chunks_exact(per_sample).zip(originals.chunks_exact(per_sample));
        for (sample, (given, expected)) in rows.zip(samples) {
            let (mut loss, mut hits) = (0.0, 0usize);
            let counted = layout.counted(self.tokens.as_ref(), sample);
            for &position in counted.iter() {
                layout.gather(given, position, &mut row);
                layout.gather(expected, position, &mut original);
                let class = match self.task {
                    Task::Classification => {
                        // Checked against the classes when the scorer was made.
                        self.labels.get(sample * positions + position).map(|&label| label as usize)
                    }
                    _ => classes::best(&original),
                };
                hits += usize::from(class.is_some_and(|c| classes::is_among_best(&row, c, top)));
                classes::to_log_probabilities(&mut row, probabilities);
                loss += if self.task == Task::Classification {
                    class.and_then(|c| row.get(c)).map_or(WORST_LOSS, |log_p| -log_p)
                } else {
                    classes::to_log_probabilities(&mut original, probabilities);
                    classes::divergence(original.iter().copied(), &row)
                };
            }
            score.losses.push(loss / counted.len() as f64);
            score.metrics.push(100.0 * hits as f64 / counted.len() as f64);
        }
        score
    }

    fn score_outputs(&self, outputs: &[Tensor], rows: Range<usize>) -> Score {
        let mut sums = vec![Difference::default(); rows.len()];
        let mut compared = 0usize;
        for ((output, reference), energy) in outputs.iter().zip(&self.reference).zip(&self.energies)
        {
            let Some(energy) = *energy else { continue };
            compared += 1;
            let reference = reference.slice_batch(rows.start, rows.end);
            let tokens = self.tokens.as_ref();
            let values = counted(output, tokens, rows.start);
            let originals = counted(&reference, tokens, rows.start);
            let length = values.len() / rows.len().max(1);
            let samples =
                values.chunks_exact(length.max(1)).zip(originals.chunks_exact(length.max(1)));
            for (sum, (given, expected)) in sums.iter_mut().zip(samples) {
                sum.add(given, expected, is_float(reference.data_type()), energy);
            }
        }
        let outputs = compared.max(1) as f64;
        Score {
            losses: sums.iter().map(|sum| sum.loss / outputs).collect(),
            metrics: sums.iter().map(|sum| sum.metric(self.metric) / outputs).collect(),
        }
    }

    fn has_floats(&self) -> bool {
        self.usable_floats().next().is_some()
    }

    /// Outputs of floats with an axis of samples.
    fn usable_floats(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.reference
            .iter()
            .enumerate()
            .filter(|&(i, t)| self.energies[i].is_some() && is_float(t.data_type()))
    }
}

fn energies(
    reference: &[Tensor],
    usable: &[bool],
    samples: usize,
    tokens: Option<&Tokens>,
) -> Vec<Option<f64>> {
    let square = |t: &Tensor| counted(t, tokens, 0).iter().map(|v| v * v).sum::<f64>();
    let energy = |t: &Tensor| square(t) / samples as f64;
    reference.iter().zip(usable).map(|(t, &usable)| usable.then(|| energy(t))).collect()
}

/// An output of samples from number `first` on, with zeros where it doesn't count.
fn counted(output: &Tensor, tokens: Option<&Tokens>, first: usize) -> Vec<f64> {
    let mut values = output.to_f64_vec();
    if let Some(tokens) = tokens {
        tokens.clear(first, output.shape(), &mut values);
    }
    values
}

fn is_float(data_type: DataType) -> bool {
    matches!(data_type, DataType::F32 | DataType::F64 | DataType::F16 | DataType::BF16)
}

fn mismatch(reason: String) -> Error {
    Error::DataMismatch { reason }
}
