//! Operators: what a node computes, one file per family, one table.
//!
//! [`decode`] is a lens for running a node: the node itself stays as it was read.

mod conv;
pub mod epilogue;
mod matmul;

use crate::error::OpError;
use crate::onnx::NodeProto;
use crate::tensor::Tensor;

pub use conv::{ConvAttributes, Padding};
pub use epilogue::Epilogue;

/// A decoded node, ready to run. Attributes and constant inputs are read, and weights laid out for
/// the kernels, when it is made.
pub trait Operator: Send + Sync {
    /// Computes the outputs. `inputs` has one entry per input of the node, `None` where it is
    /// omitted; an operator may take an entry, and write its result into it when nothing else
    /// shares it.
    ///
    /// # Errors
    /// When the inputs don't fit the operator. [`OpError::Unsupported`] and [`OpError::DataType`]
    /// let the caller try another runtime.
    fn run(&self, inputs: &mut [Option<Tensor>]) -> Result<Vec<Tensor>, OpError>;

    /// The same operator with `epilogue` applied to its only output while that is in registers;
    /// `None` where the kernel can't. Constants are shared, not copied.
    fn with_epilogue(&self, epilogue: Epilogue) -> Option<Box<dyn Operator>> {
        let _ = epilogue;
        None
    }
}

/// A node with what is known about it before any data flows.
pub struct Decoding<'a> {
    /// The node.
    pub node: &'a NodeProto,
    /// Version of the operator set of the node's domain.
    pub opset: i64,
    /// For each input of the node, its value where that is constant.
    pub constants: &'a [Option<Tensor>],
}

/// One row of the operator table.
pub struct Entry {
    /// Operator set domain; empty for `ai.onnx`.
    pub domain: &'static str,
    /// Operator name.
    pub op_type: &'static str,
    /// Makes the operator, or says why this use of it can't be run here.
    pub decode: fn(&Decoding<'_>) -> Result<Box<dyn Operator>, OpError>,
}
