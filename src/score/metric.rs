//! The metrics that a model can be judged by.

use crate::named::named;

/// A metric: the mean of a value per sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Percent of labels that have the highest score.
    Top1,
    /// Percent of labels among the five highest scores.
    Top5,
    /// Percent of positions where the highest score is the original model's, or, for outputs of
    /// integers, the whole output.
    Agreement,
    /// Cosine between the outputs and the original's, in percent.
    Cosine,
    /// Distance to the original's outputs in percent of their norm.
    RelativeError,
    /// Mean squared difference to the original's outputs.
    Mse,
}

named!(MetricKind {
    Top1 = "top1",
    Top5 = "top5",
    Agreement = "agreement",
    Cosine = "cosine",
    RelativeError = "relative-error",
    Mse = "mse",
});

impl MetricKind {
    /// Its unit, to be put after a value.
    #[must_use]
    pub fn unit(self) -> &'static str {
        if self == Self::Mse { "" } else { " %" }
    }

    /// Whether a higher value is a better one.
    #[must_use]
    pub fn higher_is_better(self) -> bool {
        !matches!(self, Self::RelativeError | Self::Mse)
    }

    /// Whether it needs labels.
    #[must_use]
    pub fn needs_labels(self) -> bool {
        matches!(self, Self::Top1 | Self::Top5)
    }
}
