//! What files hold, for reports.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::onnx::Model;
use crate::options::Target;
use crate::quantize;
use crate::report::{self, ModelSize, OutputSize, Program, Ratio, Report, SCHEMA_VERSION, Seconds};

/// A report of the sizes of files alone.
pub(super) fn plain(input: &Path, output: &Path, model: &Model, result: &Model) -> Result<Report> {
    Ok(of_sizes(size(input, model), output, result))
}

/// A report of nothing but the sizes of a model and of its result.
pub(super) fn of_sizes(model: ModelSize, output: &Path, result: &Model) -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        model,
        output: OutputSize {
            path: output.display().to_string(),
            params: quantize::params(result),
            macs: None,
            bytes: result.encoded_len(),
            gzip_bytes: None,
        },
        ratio: Ratio { asked: None, reached: None, target: Target::Bytes.name().to_owned() },
        metric: None,
        file_metric: None,
        latency_ms: None,
        seconds: Seconds::default(),
        peak_rss_bytes: None,
        search: None,
        training: None,
        quantization: None,
        layers: Vec::new(),
        validation: None,
        missed: Vec::new(),
        warnings: Vec::new(),
        program: program(),
    }
}

fn size(input: &Path, model: &Model) -> ModelSize {
    ModelSize {
        name: input.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        opset: model.opset(""),
        params: quantize::params(model),
        macs: None,
        bytes: model.encoded_len(),
        gzip_bytes: gzip_bytes(input, model.external_files(input)),
    }
}

/// What a file holds, but for what it takes to run it.
///
/// # Errors
/// When it can't be read.
pub(in crate::compress) fn read_size(input: &Path) -> Result<ModelSize> {
    Ok(size(input, &Model::read(input)?))
}

/// What makes a report.
pub(in crate::compress) fn program() -> Program {
    Program {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tract: env!("TRACT_VERSION").to_owned(),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        threads: rayon::current_num_threads(),
        seed: 0,
        command: Vec::new(),
    }
}

/// Bytes of a model's file and its external data after gzip; none where one can't be read.
pub(super) fn gzip_bytes(path: &Path, external: impl IntoIterator<Item = PathBuf>) -> Option<u64> {
    let files: Vec<PathBuf> = std::iter::once(path.to_owned()).chain(external).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    report::gzip_bytes(&files).ok()
}
