//! Commands that wait for the search.

use std::path::Path;

use super::{DataSource, Request, check_output};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{InspectReport, Report};

fn pending() -> Error {
    Error::UnsupportedModel { reason: "this command is not there yet".to_owned() }
}

/// Compresses a model.
///
/// # Errors
/// Always, for now.
pub fn compress(request: &Request, _progress: &dyn Progress) -> Result<Report> {
    check_output(&request.input, &request.output, request.force)?;
    Model::read(&request.input)?;
    Err(pending())
}

/// Lists a model's weights.
///
/// # Errors
/// Always, for now.
pub fn inspect(
    input: &Path,
    _shapes: &[(String, Vec<usize>)],
    _data: Option<&DataSource>,
    _options: &Options,
) -> Result<InspectReport> {
    Model::read(input)?;
    Err(pending())
}

/// Replays a saved plan.
///
/// # Errors
/// Always, for now.
pub fn apply(input: &Path, _plan: &Path, output: &Path, force: bool) -> Result<Report> {
    check_output(input, output, force)?;
    Model::read(input)?;
    Err(pending())
}
