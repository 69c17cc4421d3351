//! The library's errors as Python's.

use onnx_bsr::error::Error;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;

/// The exception for an error: of the class that the package has for its kind, with the hint.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::Interrupted => return PyKeyboardInterrupt::new_err(error.to_string()),
        Error::Read { .. } | Error::Write { .. } | Error::WouldOverwrite { .. } => "FileError",
        Error::NotOnnx { .. }
        | Error::InvalidModel { .. }
        | Error::UnsupportedModel { .. }
        | Error::BadTensor { .. }
        | Error::Node { .. } => "ModelError",
        Error::Data { .. } | Error::DataMismatch { .. } => "DataError",
        Error::Option { .. } => "OptionError",
        Error::RatioOutOfReach { .. } => "RatioError",
        Error::Plan { .. } => "PlanError",
        Error::Runtime { .. } => "TractError",
        Error::Metric { .. } => "MetricError",
        Error::Training { .. } => "TrainingError",
        _ => "OnnxBsrError",
    };
    let made = py.import("onnx_bsr._errors").and_then(|module| {
        let exception = module.getattr(class)?.call1((error.chain(), error.hint()))?;
        if let Error::RatioOutOfReach { largest, .. } = error {
            exception.setattr("largest", largest)?;
        }
        Ok(exception)
    });
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(error.chain()),
    }
}
