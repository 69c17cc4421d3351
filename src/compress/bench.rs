//! Latency of two model files.

use std::path::Path;

use super::{common_inputs, warnings_of};
use crate::error::Result;
use crate::progress::Progress;
use crate::report::{BenchReport, SCHEMA_VERSION};
use crate::validate::{RUNTIME, Session, concrete_shapes, latency, random_inputs};

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
