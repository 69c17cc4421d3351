//! Latency of two model files, and of the layers of one.

use std::path::Path;

use super::gentle::{Dense, Whole};
use super::statistics::plain;
use super::timing::Timed;
use super::{common_inputs, warnings_of};
use crate::error::Result;
use crate::eval::Evaluator;
use crate::graph;
use crate::layer::{Filter, find, prepare};
use crate::onnx::Model;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{BenchReport, BenchTable, SCHEMA_VERSION};
use crate::search;
use crate::validate::{LatencyTable, RUNTIME, Session, concrete_shapes, latency, random_inputs};

/// Times both models on one random input of one sample, in turns, on one thread.
///
/// # Errors
/// When a model can't be read or run, they differ in their inputs, or dims are open that `shapes`
/// doesn't give.
pub fn bench(
    a: &Path,
    b: &Path,
    shapes: &[(String, Vec<usize>)],
    runs: usize,
    progress: &dyn Progress,
) -> Result<BenchReport> {
    let specs = common_inputs(a, b)?;
    let shapes = concrete_shapes(&specs, shapes)?;
    let inputs = random_inputs(&specs, &shapes, 0)?;
    let sessions = (Session::open_shaped(a, &shapes)?, Session::open_shaped(b, &shapes)?);
    progress.phase("bench", Some(runs as u64));
    let (first, second) = latency(&sessions.0, &sessions.1, &inputs, runs, progress)?;
    Ok(BenchReport {
        schema_version: SCHEMA_VERSION,
        runtime: RUNTIME.to_owned(),
        runs: first.runs,
        median_ms_a: first.median_ms,
        min_ms_a: first.min_ms,
        median_ms_b: second.median_ms,
        min_ms_b: second.min_ms,
        ratio: first.median_ms / second.median_ms,
        warnings: warnings_of(&sessions.0, a).chain(warnings_of(&sessions.1, b)).collect(),
    })
}

/// Times the layers of a model on one sample, in every form that they can have, and keeps what the table
/// at `path` lacks there.
///
/// # Errors
/// When the model can't be read or run, dims are open that `shapes` doesn't give, or the table is of
/// another machine.
pub fn bench_table(
    input: &Path,
    path: &Path,
    shapes: &[(String, Vec<usize>)],
    options: &Options,
    progress: &dyn Progress,
) -> Result<BenchTable> {
    let mut model = Model::read(input)?;
    // As a compression has it, which looks its time up.
    prepare(&mut model)?;
    let filter = Filter::new(&options.include, &options.exclude)?;
    let layers = find(&model, &filter)?;
    filter.check(&options.include, &options.exclude, &layers)?;
    let specs = graph::inputs(&model)?;
    let sample = random_inputs(&specs, &concrete_shapes(&specs, shapes)?, options.seed)?;
    let ordered = search::in_order(&Evaluator::new(&model)?, &layers);
    let layers = ordered.into_iter().map(|(_, layer)| layer).collect();
    let bytes = model.encoded_len();
    let whole = Whole { model: &model, layers, bytes, sample: &sample };
    let dense = Dense::of(model.clone(), &whole.layers);
    let network = plain(&dense, &whole, options, progress)?;
    let timed = Timed { model: &model, layers: &network.layers, sample: &sample };
    let step = timed.step(options.rank_multiple, progress)?;
    let mut forms = network.layer_options(&options.schemes, step)?;
    let total = timed.price(&mut forms, Some(path), progress)?;
    let layers_ns: u64 = forms.iter().map(|f| f.stored.nanoseconds).sum();
    Ok(BenchTable {
        schema_version: SCHEMA_VERSION,
        path: path.display().to_string(),
        machine: LatencyTable::here().machine,
        runtime: RUNTIME.to_owned(),
        layers: forms.len(),
        model_ms: total as f64 / 1e6,
        layers_ms: layers_ns as f64 / 1e6,
    })
}
