//! Which output has the class scores, and along which axis.

use super::classes::{self, ClassLayout};
use super::{ClassScores, Scorer, mismatch};
use crate::error::Result;
use crate::tensor::Tensor;

impl Scorer {
    pub(super) fn class_scores(&self, output: usize, axis: isize) -> Option<ClassScores> {
        let tensor = self.reference.get(output)?;
        let layout = ClassLayout::new(tensor.shape(), axis).filter(|l| l.classes > 1)?;
        let probabilities = classes::are_probabilities(tensor, layout);
        Some(ClassScores { output, layout, probabilities })
    }

    /// The first output that has as many positions as there are labels.
    pub(super) fn labelled_scores(&self, class_axis: Option<isize>) -> Result<ClassScores> {
        let labels = self.labels.len();
        for (output, tensor) in self.usable_floats() {
            let axes =
                class_axis.map_or_else(|| ClassLayout::likely_axes(tensor.shape()), |a| vec![a]);
            for axis in axes {
                let Some(scores) = self.class_scores(output, axis) else { continue };
                if scores.layout.positions().checked_mul(self.samples) != Some(labels) {
                    continue;
                }
                let (layout, positions) = (scores.layout, scores.layout.positions());
                let classes = layout.classes;
                let beyond = |&label: &i64| usize::try_from(label).map_or(true, |l| l >= classes);
                let bad = self.labels.chunks(positions).enumerate().find_map(|(sample, labels)| {
                    let counted = layout.counted(self.tokens.as_ref(), sample);
                    counted.iter().map(|&position| labels[position]).find(beyond)
                });
                if let Some(label) = bad {
                    return Err(mismatch(format!(
                        "a label is {label}, but output {output} has {classes} classes: labels \
                         count from 0"
                    )));
                }
                return Ok(scores);
            }
        }
        Err(mismatch(format!(
            "{labels} labels for {} samples fit no output (shapes {}): labels are class indices, \
             not one-hot; leave them out to compare with the original model instead",
            self.samples,
            self.shapes()
        )))
    }

    /// The shapes of the outputs, for a person to read.
    pub(super) fn shapes(&self) -> String {
        let shapes = self.reference.iter().map(|t| format!("{:?}", t.shape()));
        shapes.collect::<Vec<_>>().join(", ")
    }

    /// The first output that may be class scores.
    pub(super) fn first_scores(&self, class_axis: Option<isize>) -> Option<ClassScores> {
        self.usable_floats().find_map(|(output, tensor)| {
            let axes =
                class_axis.map_or_else(|| ClassLayout::likely_axes(tensor.shape()), |a| vec![a]);
            axes.into_iter().find_map(|axis| self.class_scores(output, axis))
        })
    }

    /// The only output of floats, where it looks like class scores.
    pub(super) fn only_scores(&self, class_axis: Option<isize>) -> Option<ClassScores> {
        if self.usable_floats().count() != 1 {
            return None;
        }
        let scores = self.first_scores(class_axis)?;
        let one_row = scores.layout.positions() == 1;
        let accepted = class_axis.is_some()
            || scores.probabilities
            || (one_row && !has_unit_rows(&self.reference[scores.output]));
        accepted.then_some(scores)
    }
}

/// Whether all rows have norm 1, as embeddings often do and class scores do not.
fn has_unit_rows(output: &Tensor) -> bool {
    let values = output.to_f64_vec();
    let length = values.len() / output.shape().first().copied().unwrap_or(1).max(1);
    let is_unit = |row: &[f64]| (row.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-3;
    length > 0 && values.chunks_exact(length).all(is_unit)
}
