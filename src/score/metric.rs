//! The metrics that a model can be judged by.

use std::fmt;
use std::str::FromStr;

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

impl MetricKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Top1, Self::Top5, Self::Agreement, Self::Cosine, Self::RelativeError, Self::Mse];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Top1 => "top1",
            Self::Top5 => "top5",
            Self::Agreement => "agreement",
            Self::Cosine => "cosine",
            Self::RelativeError => "relative-error",
            Self::Mse => "mse",
        }
    }

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

impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MetricKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase().replace('_', "-");
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}
