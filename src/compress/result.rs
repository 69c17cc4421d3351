//! The result: written, proven in tract, measured.

mod sizes;
mod streamed;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Request;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::eval::Evaluator;
use crate::graph;
use crate::layer::{self, Filter, Layer, find};
use crate::onnx::Model;
use crate::onnx::proto::tensor_shape_proto::dimension::Value as Extents;
use crate::progress::Progress;
use crate::report::{self, Latency, Metric, Report, Validation};
use crate::score::Scorer;
use crate::search::{self, Plan, Samples};
use crate::tensor::Tensor;
use crate::validate::{Agreement, RUNTIME, Session, latency};

use sizes::{gzip_bytes, plain};
pub(super) use sizes::{program, read_size};
pub(super) use streamed::{Streamed, write_streamed};

/// Timed runs of each file.
const LATENCY_RUNS: usize = 50;

/// The same for a file that takes long.
const SLOW_RUNS: usize = 5;

/// Samples on which the written file's outputs are compared one by one with the evaluator's.
const COMPARED: usize = 64;

/// Relative difference between tract and the evaluator above which the report warns.
const TOLERANCE: f64 = 1e-4;

/// Multiply-accumulates of the model's [`layer::PRODUCTS`] for `inputs`, products of two computed
/// values included.
///
/// # Errors
/// When the model can't be run.
pub(super) fn macs(model: &Model, layers: &[Layer], inputs: Vec<Tensor>) -> Result<Option<u64>> {
    Ok(macs_at(model, layers, &layer::shapes(model, inputs)?))
}

/// The same where the shapes of values are known.
fn macs_at(model: &Model, layers: &[Layer], values: &HashMap<String, Vec<usize>>) -> Option<u64> {
    layers
        .iter()
        .filter(|l| layer::PRODUCTS.contains(&l.op_type.as_str()))
        .map(|l| l.macs(model, values))
        .sum()
}

/// What a written file is proven on.
pub(super) struct Proof<'a> {
    /// The data.
    pub data: &'a Dataset,
    /// Which of its samples.
    pub indices: &'a [usize],
    /// The same samples for the evaluator.
    pub samples: &'a Samples,
    /// Scores outputs on these samples.
    pub scorer: &'a Scorer,
    /// The metric before the file was written.
    pub metric: Metric,
}

impl Proof<'_> {
    /// The metric of a model on the samples.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn score(&self, model: &Model, progress: &dyn Progress) -> Result<f64> {
        let evaluator = Evaluator::new(model)?;
        Ok(search::score(&evaluator, self.samples, self.scorer, progress)?.metric())
    }
}

/// The same where values are rounded: one between two levels may fall to either side.
const LEVEL: f64 = 0.05;

/// Puts the result beside the output, proves it in tract, and only then puts it in place. The
/// report's search and layers are still empty. `judged` is the user's metric of the original. The result
/// may have pinned batches, which the written file has not.
///
/// # Errors
/// When the result can't be written or run; nothing is in place then.
pub(super) fn write(
    request: &Request,
    model: &Model,
    (pinned, alone): (&Model, &[(String, Option<Extents>)]),
    plan: &Plan,
    sample: &[Tensor],
    proof: Option<Proof<'_>>,
    judged: Option<f64>,
    progress: &dyn Progress,
) -> Result<Report> {
    if progress.interrupted() {
        return Err(Error::Interrupted);
    }
    let mut result = pinned.clone();
    graph::restore_batch(&mut result, alone);
    let result = &result;
    // A file in a folder of its own: external data keep their place beside it.
    let (_staging, staged) = stage(&request.output)?;
    result.write(&staged)?;
    let (file_metric, fault) = judge(request, judged, &staged, progress)?;

    let one: Vec<Tensor> = sample.to_vec();
    let load = |path: &Path| -> Result<Session> {
        let session = match &proof {
            Some(_) => Session::open_for(path, &one)?,
            None => {
                let names = graph::inputs(model)?.into_iter().map(|spec| spec.name);
                let shapes = one.iter().map(|tensor| tensor.shape().to_vec());
                Session::open_shaped(path, &names.zip(shapes).collect::<Vec<_>>())?
            }
        };
        session.run(&one)?;
        Ok(session)
    };
    let original = load(&request.input);
    let session = match (load(&staged), &original) {
        (Ok(session), _) => session,
        (Err(reason), _) if plan.quantization.as_ref().is_some_and(|q| !q.form.runs_in_tract()) => {
            drop(original);
            let reason = format!("which doesn't take this form ({})", reason.chain());
            let mut report = unproven(request, model, result, plan, one, proof, &reason)?;
            report.file_metric = file_metric;
            report.missed.extend(fault);
            return Ok(report);
        }
        (Err(_), Err(reason)) => {
            let reason = format!("which doesn't take the original either ({})", reason.chain());
            let mut report = unproven(request, model, result, plan, one, proof, &reason)?;
            report.file_metric = file_metric;
            report.missed.extend(fault);
            report.missed.push(NO_PROOF.to_owned());
            return Ok(report);
        }
        (Err(error), Ok(_)) => return Err(error),
    };
    let evaluator = Evaluator::new(pinned)?;
    let slow = plan.quantization.as_ref().is_some_and(|q| q.form.takes_long());
    let (agreement, samples, metric) = match proof {
        Some(Proof { data, indices, scorer, mut metric, .. }) => {
            let compared = &indices[..indices.len().min(COMPARED)];
            let indices = if slow { compared } else { indices };
            progress.phase("validate", Some(indices.len() as u64));
            let batch = |rows: &[usize]| {
                let rows: Vec<usize> = rows.iter().map(|&r| indices[r]).collect();
                data.batch(&rows)
            };
            let outputs = session.run_samples(batch, indices.len(), progress)?;
            let inputs = data.batch(compared)?;
            let ours = evaluator.run_all(&inputs)?;
            let first: Vec<Tensor> =
                outputs.iter().map(|o| o.slice_batch(0, compared.len())).collect();
            if indices.len() == metric.samples {
                metric.written = Some(scorer.score(&outputs, 0..indices.len())?.metric());
            }
            (Agreement::between(&ours, &first)?, compared.len(), Some(metric))
        }
        None => {
            let ours = evaluator.run(one.clone())?;
            (Agreement::between(&ours, &session.run(&one)?)?, 1, None)
        }
    };
    let runs = if slow { SLOW_RUNS } else { LATENCY_RUNS };
    progress.phase("latency", Some(runs as u64));
    let times = match &original {
        Ok(original) => Some(latency(original, &session, &one, runs, progress)?),
        Err(_) => None,
    };
    let mut report = plain(&request.input, &request.output, model, result)?;
    report.model.macs = macs(model, &find(model, &Filter::default())?, one.clone())?;
    report.output.macs = macs(result, &find(result, &Filter::default())?, one)?;
    let refused = original.err().map(|reason| reason.chain());
    drop(session);

    if progress.interrupted() {
        return Err(Error::Interrupted);
    }
    put(request, result, plan, &mut report)?;
    report.metric = metric;
    report.file_metric = file_metric;
    report.missed.extend(fault);
    report.latency_ms = times.map(|(before, after)| Latency {
        original: before.median_ms,
        output: after.median_ms,
        original_min: before.min_ms,
        output_min: after.min_ms,
        runs: before.runs,
    });
    if let Some(reason) = refused {
        report.warnings.push(format!(
            "{RUNTIME} runs the result, but not the original ({reason}): latency is not compared"
        ));
    }
    let relative = agreement.max_relative_difference();
    let rounds = plan.quantization.as_ref().is_some_and(|q| q.form.rounds_values());
    if relative > if rounds { LEVEL } else { TOLERANCE } {
        report.warnings.push(format!(
            "{RUNTIME} and the evaluator differ by {relative:.1e} relative to the largest output"
        ));
    }
    report.validation = Some(Validation {
        runtime: RUNTIME.to_owned(),
        samples,
        max_abs_difference: agreement.max_abs_difference(),
        max_relative_difference: relative,
        pieces: None,
    });
    report.peak_rss_bytes = report::peak_rss_bytes();
    Ok(report)
}

/// A folder beside a file, which goes when it is dropped, and the file's path in there.
fn stage(output: &Path) -> Result<(tempfile::TempDir, PathBuf)> {
    let staging = tempfile::Builder::new()
        .prefix(".onnx-bsr-")
        .tempdir_in(folder(output))
        .map_err(|source| Error::Write { path: output.to_owned(), source })?;
    let staged = staging.path().join(output.file_name().unwrap_or_default());
    Ok((staging, staged))
}

/// The folder that a file lies in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."))
}

/// The user's metric of the staged file, beside the original's. A metric that fails now misses the
/// target, as the second part says, but costs no file.
fn judge(
    request: &Request,
    original: Option<f64>,
    staged: &Path,
    progress: &dyn Progress,
) -> Result<(Option<report::FileMetric>, Option<String>)> {
    let (Some(metric), Some(original)) = (&request.file_metric, original) else {
        return Ok((None, None));
    };
    let (written, fault) = match metric.value(staged, progress) {
        Ok(value) => (Some(value), None),
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => (None, Some(format!("the written file was not judged: {}", error.chain()))),
    };
    let name = metric.name().to_owned();
    Ok((Some(report::FileMetric { name, original, written }), fault))
}

/// Puts the result and the plan in place.
fn put(request: &Request, result: &Model, plan: &Plan, report: &mut Report) -> Result<()> {
    report.output.bytes = result.write(&request.output)?;
    if let Some(path) = &request.save_plan {
        write_text(path, &plan.to_json())?;
    }
    report.output.gzip_bytes = gzip_bytes(&request.output, result.data_file(&request.output));
    Ok(())
}

/// Writes a result in a form that tract is known not to take: the evaluator alone has run it.
fn unproven(
    request: &Request,
    model: &Model,
    result: &Model,
    plan: &Plan,
    sample: Vec<Tensor>,
    proof: Option<Proof<'_>>,
    reason: &str,
) -> Result<Report> {
    let mut report = plain(&request.input, &request.output, model, result)?;
    report.model.macs = macs(model, &find(model, &Filter::default())?, sample.clone())?;
    report.output.macs = macs(result, &find(result, &Filter::default())?, sample)?;
    put(request, result, plan, &mut report)?;
    report.metric = proof.map(|proof| proof.metric);
    report.peak_rss_bytes = report::peak_rss_bytes();
    report.warnings.push(format!(
        "the file was not run in {RUNTIME}, {reason}: check it in the runtime it is for"
    ));
    Ok(report)
}

/// What is missed where nothing has run the result that has to.
const NO_PROOF: &str = "proof: the written file was not run in tract";

fn unrun_warning(reason: &str) -> String {
    format!(
        "the model can't be run here ({reason}): only the weights decided, and the written file was \
         run nowhere; check it in the runtime it is for"
    )
}

/// Writes the result for a model that neither the evaluator nor, so far as that goes, tract can run.
///
/// # Errors
/// When the result can't be written.
pub(super) fn unrun(
    request: &Request,
    model: &Model,
    result: &Model,
    plan: &Plan,
    reason: &str,
    judged: Option<f64>,
    progress: &dyn Progress,
) -> Result<Report> {
    let mut report = plain(&request.input, &request.output, model, result)?;
    put(request, result, plan, &mut report)?;
    let (file_metric, fault) = judge(request, judged, &request.output, progress)?;
    report.file_metric = file_metric;
    report.missed.extend(fault);
    report.peak_rss_bytes = report::peak_rss_bytes();
    report.warnings.push(unrun_warning(reason));
    report.missed.push(NO_PROOF.to_owned());
    Ok(report)
}

/// Writes a result that no data prove; used where a plan is replayed.
pub(super) fn write_plain(
    input: &Path,
    output: &Path,
    model: &Model,
    result: &Model,
) -> Result<Report> {
    let mut report = plain(input, output, model, result)?;
    report.output.bytes = result.write(output)?;
    report.output.gzip_bytes = gzip_bytes(output, result.data_file(output));
    report.peak_rss_bytes = report::peak_rss_bytes();
    Ok(report)
}

/// Writes text beside its target, then renames it into place.
pub(super) fn write_text(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let fault = |source| Error::Write { path: path.to_owned(), source };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any other new file: the umask decides.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder(path)).map_err(fault)?;
    file.write_all(text.as_bytes()).map_err(fault)?;
    file.as_file().sync_all().map_err(fault)?;
    file.persist(path).map_err(|e| fault(e.error))?;
    Ok(())
}
