//! The metric of a model file.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use super::{DataSource, warnings_of};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::report::{EvalMetric, EvalReport, SCHEMA_VERSION};
use crate::score::{MetricKind, Scorer};
use crate::tensor::Tensor;
use crate::validate::Session;

/// What runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Runtime {
    /// tract, from the file on disk.
    #[default]
    Tract,
    /// This crate's evaluator.
    Native,
}

impl Runtime {
    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tract => "tract",
            Self::Native => "native",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Runtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Tract, Self::Native]
            .into_iter()
            .find(|runtime| runtime.name() == text)
            .ok_or_else(|| format!("`{text}` is neither `tract` nor `native`"))
    }
}

/// A model to be judged.
#[derive(Clone, Debug)]
pub struct Eval<'a> {
    /// The model.
    pub model: &'a Path,
    /// The samples.
    pub data: &'a DataSource,
    /// The model that it is compared with where there are no labels.
    pub reference: Option<&'a Path>,
    /// The metric; chosen by [`Scorer::new`] where none is given.
    pub metric: Option<MetricKind>,
    /// What runs the models.
    pub runtime: Runtime,
}

/// The metric of a model on all samples of its data.
///
/// # Errors
/// When the model or the data can't be read or don't fit, and when there is nothing to compare the
/// outputs with.
pub fn eval(request: &Eval<'_>, progress: &dyn Progress) -> Result<EvalReport> {
    let begin = Instant::now();
    if request.runtime == Runtime::Native {
        return Err(Error::UnsupportedModel { reason: "no native runtime yet".to_owned() });
    }
    let (data, session) = request.data.open_with_session(request.model)?;
    let all: Vec<usize> = (0..data.len()).collect();
    let labels = data.labels(&all)?.filter(|_| request.metric.is_none_or(MetricKind::needs_labels));
    let expected = match request.reference {
        Some(reference) => {
            let (data, reference) = request.data.open_with_session(reference)?;
            Some(run(&reference, &data, "reference", progress)?)
        }
        None => data.expected_outputs(&all)?,
    };
    if labels.is_none() && expected.is_none() {
        return Err(nothing_to_compare(request.metric));
    }
    let outputs = run(&session, &data, "eval", progress)?;
    // With labels the reference only tells the shapes of outputs.
    let reference = expected.unwrap_or_else(|| outputs.clone());
    let scorer = Scorer::new(reference, labels, request.metric, None)?;
    let score = scorer.score(&outputs, 0..data.len())?;
    let metric = scorer.metric();
    Ok(EvalReport {
        schema_version: SCHEMA_VERSION,
        metric: EvalMetric {
            name: metric.name().to_owned(),
            unit: metric.unit().trim().to_owned(),
            samples: score.len(),
            value: score.metric(),
        },
        runtime: request.runtime.name().to_owned(),
        seconds: begin.elapsed().as_secs_f64(),
        warnings: warnings_of(&session, request.model).collect(),
    })
}

fn run(
    session: &Session,
    data: &Dataset,
    phase: &str,
    progress: &dyn Progress,
) -> Result<Vec<Tensor>> {
    progress.phase(phase, Some(data.len() as u64));
    session.run_samples(|rows| data.batch(rows), data.len(), progress)
}

fn nothing_to_compare(metric: Option<MetricKind>) -> Error {
    let reason = match metric.filter(|m| m.needs_labels()) {
        Some(metric) => format!("metric `{metric}` needs labels, the data has none"),
        None => "the data has neither labels nor expected outputs; give labels, or --reference \
                 with the original model to compare with"
            .to_owned(),
    };
    Error::Option { option: "--labels".to_owned(), reason }
}
