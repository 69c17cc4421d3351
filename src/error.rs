//! One error type for the library, and one for faults of a single operator.

use std::io;
use std::path::PathBuf;

use crate::data_type::DataType;

/// Result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong: what, where and, through [`Error::hint`], what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("can't read `{path}`")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file could not be written; whatever stood there before is untouched.
    #[error("can't write `{path}`")]
    Write {
        /// The target.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The output would replace the input or an existing file that must be kept.
    #[error("refusing to overwrite `{path}`")]
    WouldOverwrite {
        /// The file that would be lost.
        path: PathBuf,
    },
    /// The bytes are not an ONNX model.
    #[error("`{path}` is not an ONNX model: {reason}")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What the parser met.
        reason: String,
    },
    /// The model parses but breaks a rule of the specification.
    #[error("invalid model: {reason}")]
    InvalidModel {
        /// Which rule, and at which node or tensor.
        reason: String,
    },
    /// The model is valid but uses something this tool can't handle.
    #[error("unsupported model: {reason}")]
    UnsupportedModel {
        /// What is not handled, and where.
        reason: String,
    },
    /// A constant tensor has missing, surplus or misplaced data.
    #[error("tensor `{tensor}`: {reason}")]
    BadTensor {
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An operator failed.
    #[error("node `{node}` ({op_type})")]
    Node {
        /// Name of the node, or of its first output where it has no name.
        node: String,
        /// Its operator.
        op_type: String,
        /// The fault.
        #[source]
        source: OpError,
    },
    /// A dataset can't be used.
    #[error("data `{path}`: {reason}")]
    Data {
        /// The dataset's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data does not fit the model's inputs.
    #[error("data doesn't fit the model: {reason}")]
    DataMismatch {
        /// Which input, what was expected and what was given.
        reason: String,
    },
    /// An option has a value that can't be used.
    #[error("option `{option}`: {reason}")]
    Option {
        /// The option as typed on the command line.
        option: String,
        /// Why its value is refused.
        reason: String,
    },
    /// The ratio asked for is out of reach.
    #[error("ratio {asked} is out of reach: with these layers and schemes at most {largest:.3}")]
    RatioOutOfReach {
        /// The ratio asked for.
        asked: f64,
        /// The largest ratio the budget allows.
        largest: f64,
    },
    /// A saved plan can't be read or doesn't belong to this model.
    #[error("plan: {reason}")]
    Plan {
        /// Which entry, and why.
        reason: String,
    },
    /// A matrix decomposition failed.
    #[error("decomposition of {what} failed: {reason}")]
    Decomposition {
        /// The matrix.
        what: String,
        /// Why.
        reason: String,
    },
    /// Another runtime refused the model or failed to run it.
    #[error("{runtime}: {reason}")]
    Runtime {
        /// `tract`.
        runtime: &'static str,
        /// Its own message.
        reason: String,
    },
    /// The user's own metric of a file failed.
    #[error("metric `{metric}`: {reason}")]
    Metric {
        /// The program, or what the caller calls it.
        metric: String,
        /// What happened.
        reason: String,
    },
    /// Training failed.
    #[error("training failed: {reason}")]
    Training {
        /// What happened.
        reason: String,
    },
    /// The user interrupted the run.
    #[error("interrupted; what was not complete was not written")]
    Interrupted,
}

impl Error {
    /// The next step for the user, where there is an obvious one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path"
            }
            Self::Write { .. } => "check that the folder exists, is writable and has space",
            Self::WouldOverwrite { .. } => {
                "choose another output path, or pass --force to replace the file"
            }
            Self::NotOnnx { .. } => "export the model again; the file may be cut short",
            Self::DataMismatch { .. } => {
                "run `onnx-bsr inspect MODEL` to see the inputs; arrays in an npz are keyed by input name"
            }
            Self::Metric { .. } => {
                "the program is given the path of a model after its own arguments, prints one number \
                 (higher is better), and ends with exit code 0"
            }
            Self::RatioOutOfReach { largest, .. } => {
                return Some(format!(
                    "ask for --ratio {:.2} or less, or allow more schemes and layers",
                    (largest * 100.0).floor() / 100.0
                ));
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// The error and its causes on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// A fault of one operator on its inputs; [`Error::Node`] adds where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// A required input is absent.
    #[error("input {index} is missing")]
    MissingInput {
        /// Position among the node's inputs.
        index: usize,
    },
    /// An attribute is absent or has an illegal value.
    #[error("attribute `{name}`: {reason}")]
    Attribute {
        /// The attribute.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Shapes don't fit together.
    #[error("shapes don't fit: {reason}")]
    Shape {
        /// Which shapes and why.
        reason: String,
    },
    /// An element type the operator can't take.
    #[error("element type {dtype:?} can't be used as {role}")]
    DataType {
        /// What was given.
        dtype: DataType,
        /// What it was given as.
        role: &'static str,
    },
    /// A value (index, axis, size) is out of range.
    #[error("{reason}")]
    Value {
        /// Which value and what is allowed.
        reason: String,
    },
    /// The operator, or this use of it, can't be run.
    #[error("not supported: {reason}")]
    Unsupported {
        /// What.
        reason: String,
    },
}

impl OpError {
    /// A shape fault.
    pub fn shape(reason: impl Into<String>) -> Self {
        Self::Shape { reason: reason.into() }
    }

    /// A value out of range.
    pub fn value(reason: impl Into<String>) -> Self {
        Self::Value { reason: reason.into() }
    }

    /// Something that can't be run.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported { reason: reason.into() }
    }
}
