//! The metric of a model file.

use std::path::Path;
use std::time::Instant;

use super::{DataSource, FileMetric, warnings_of};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::eval::{Evaluator, join};
use crate::graph;
use crate::named::named;
use crate::onnx::Model;
use crate::progress::Progress;
use crate::report::{EvalMetric, EvalReport, SCHEMA_VERSION};
use crate::score::{MetricKind, Scorer};
use crate::search;
use crate::tensor::Tensor;
use crate::validate::Session;

/// Samples that the evaluator is given at once: their inputs are in memory together.
const CHUNK: usize = 256;

/// What runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Runtime {
    /// tract, from the file on disk.
    #[default]
    Tract,
    /// This crate's evaluator.
    Native,
}

named!(Runtime { Tract = "tract", Native = "native" });

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
    let (data, runner) = request.open(request.model)?;
    let all: Vec<usize> = (0..data.len()).collect();
    let labels = data.labels(&all)?.filter(|_| request.metric.is_none_or(MetricKind::needs_labels));
    let expected = match request.reference {
        Some(reference) => {
            let (data, reference) = request.open(reference)?;
            Some(reference.run(&data, "reference", progress)?)
        }
        None => data.expected_outputs(&all)?,
    };
    if labels.is_none() && expected.is_none() {
        return Err(nothing_to_compare(request.metric));
    }
    let outputs = runner.run(&data, "eval", progress)?;
    // With labels the reference only tells the shapes of outputs.
    let reference = expected.unwrap_or_else(|| outputs.clone());
    let tokens = search::tokens(&data, &all, runner.mask())?;
    let scorer = Scorer::masked(reference, labels, request.metric, data.class_axis(), tokens)?;
    let score = scorer.score(&outputs, 0..data.len())?;
    let metric = scorer.metric();
    Ok(EvalReport {
        schema_version: SCHEMA_VERSION,
        metric: EvalMetric {
            name: metric.name().to_owned(),
            unit: metric.unit().trim().to_owned(),
            samples: Some(score.len()),
            value: score.metric(),
        },
        runtime: request.runtime.name().to_owned(),
        seconds: begin.elapsed().as_secs_f64(),
        warnings: match &runner {
            Runner::Tract(session) => warnings_of(session, request.model).collect(),
            Runner::Native(_) => Vec::new(),
        },
    })
}

/// The user's metric of a model file.
///
/// # Errors
/// As [`FileMetric::value`].
pub fn eval_file(
    model: &Path,
    metric: &dyn FileMetric,
    progress: &dyn Progress,
) -> Result<EvalReport> {
    let begin = Instant::now();
    let value = metric.value(model, progress)?;
    Ok(EvalReport {
        schema_version: SCHEMA_VERSION,
        metric: EvalMetric {
            name: metric.name().to_owned(),
            unit: String::new(),
            samples: None,
            value,
        },
        runtime: "program".to_owned(),
        seconds: begin.elapsed().as_secs_f64(),
        warnings: Vec::new(),
    })
}

impl Eval<'_> {
    /// The data for the model at `path`, and that model ready to run.
    fn open(&self, path: &Path) -> Result<(Dataset, Runner)> {
        match self.runtime {
            Runtime::Tract => {
                let (data, session) = self.data.open_with_session(path)?;
                Ok((data, Runner::Tract(session)))
            }
            Runtime::Native => {
                let model = Model::read(path)?;
                let data = self.data.open(&graph::inputs(&model)?)?;
                Ok((data, Runner::Native(Box::new(Evaluator::new(&model)?))))
            }
        }
    }
}

/// A model in one of the runtimes.
enum Runner {
    Tract(Session),
    Native(Box<Evaluator>),
}

impl Runner {
    /// Position of the input that is a mask of sequences.
    fn mask(&self) -> Option<usize> {
        match self {
            Self::Tract(session) => session.batches().mask(),
            Self::Native(evaluator) => evaluator.batches().mask(),
        }
    }

    /// The outputs on all samples, axis 0 the samples.
    fn run(&self, data: &Dataset, phase: &str, progress: &dyn Progress) -> Result<Vec<Tensor>> {
        progress.phase(phase, Some(data.len() as u64));
        let evaluator = match self {
            Self::Tract(session) => {
                return session.run_samples(|rows| data.batch(rows), data.len(), progress);
            }
            Self::Native(evaluator) => evaluator,
        };
        let all: Vec<usize> = (0..data.len()).collect();
        let mut parts = Vec::new();
        for samples in all.chunks(CHUNK) {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            parts.push(evaluator.run_all(&data.batch(samples)?)?);
            let done = samples.last().map_or(0, |&last| last as u64 + 1);
            progress.step(done, "");
        }
        join(&parts)
    }
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
