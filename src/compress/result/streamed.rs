//! Writing of a result that is too large to be held.

use std::collections::HashMap;

use super::sizes::of_sizes;
use super::{NO_PROOF, TOLERANCE, judge, macs_at, stage, unrun_warning, write_text};
use crate::compress::Request;
use crate::error::{Error, Result};
use crate::layer::{self, Filter, find};
use crate::onnx::{Model, move_model};
use crate::progress::Progress;
use crate::quantize;
use crate::report::{self, ModelSize, Report, Validation};
use crate::search::Plan;
use crate::tensor::Tensor;
use crate::validate::{RUNTIME, run_in_pieces};

/// What is known of a model that is too large to be held.
#[derive(Clone, Copy)]
pub(in crate::compress) struct Streamed<'a> {
    /// Shapes of the values around its products.
    pub values: &'a HashMap<String, Vec<usize>>,
    /// Inputs that it runs on.
    pub sample: &'a [Tensor],
    /// Why it doesn't run, where it doesn't.
    pub unrunnable: &'a Option<String>,
    /// Bytes of initializers that a piece has, where one node has not more.
    pub piece: u64,
}

/// Puts a result that is too large to be held beside the output, proves it piece by piece, and moves it into
/// place.
///
/// # Errors
/// As [`super::write`].
pub(in crate::compress) fn write_streamed(
    request: &Request,
    model: &Model,
    result: &Model,
    plan: Option<&Plan>,
    known: Streamed<'_>,
    judged: Option<f64>,
    progress: &dyn Progress,
) -> Result<Report> {
    if progress.interrupted() {
        return Err(Error::Interrupted);
    }
    progress.phase("write", None);
    let (_staging, staged) = stage(&request.output)?;
    let mut report = sized(result, model, request);
    report.output.bytes = result.write(&staged)?;
    model.release();
    let (file_metric, fault) = judge(request, judged, &staged, progress)?;
    report.file_metric = file_metric;
    report.missed.extend(fault);
    match known.unrunnable {
        Some(reason) => {
            report.warnings.push(unrun_warning(reason));
            report.missed.push(NO_PROOF.to_owned());
        }
        None => {
            let watched = layer::product_values(result);
            let proof = run_in_pieces(&staged, known.sample, &watched, known.piece, progress)?;
            report.model.macs = macs_at(model, &find(model, &Filter::default())?, known.values);
            report.output.macs = macs_at(result, &find(result, &Filter::default())?, &proof.shapes);
            if let Some(reason) = &proof.refused {
                report.warnings.push(format!(
                    "{RUNTIME} ran {} of the {} pieces of the file: {reason}",
                    proof.proven, proof.pieces
                ));
                report.missed.push(NO_PROOF.to_owned());
            }
            if proof.max_relative > TOLERANCE {
                report.warnings.push(format!(
                    "{RUNTIME} and the evaluator differ by {:.1e} relative to the largest output of a piece",
                    proof.max_relative
                ));
            }
            report.validation = (proof.proven > 0).then(|| Validation {
                runtime: RUNTIME.to_owned(),
                samples: 1,
                max_abs_difference: proof.max_abs,
                max_relative_difference: proof.max_relative,
                pieces: Some(proof.pieces),
            });
        }
    }
    if progress.interrupted() {
        return Err(Error::Interrupted);
    }
    move_model(&staged, &request.output)?;
    if let (Some(path), Some(plan)) = (&request.save_plan, plan) {
        write_text(path, &plan.to_json())?;
    }
    report.peak_rss_bytes = report::peak_rss_bytes();
    Ok(report)
}

/// A report of sizes that counting tells; what takes a pass over the files is left out.
fn sized(result: &Model, model: &Model, request: &Request) -> Report {
    let name = request.input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let model = ModelSize {
        name,
        opset: model.opset(""),
        params: quantize::params(model),
        macs: None,
        bytes: model.encoded_len(),
        gzip_bytes: None,
    };
    of_sizes(model, &request.output, result)
}
