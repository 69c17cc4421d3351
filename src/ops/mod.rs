//! Operators: what a node computes, one file per family, one table.
//!
//! [`decode`] is a lens for running a node: the node itself stays as it was read.

mod activation;
mod args;
mod arithmetic;
pub mod backward;
mod cast;
mod conv;
mod create;
mod einsum;
mod elementwise;
pub mod epilogue;
mod foreign;
mod gather;
mod half_floats;
mod integer;
mod layout;
mod logic;
mod matmul;
mod norm;
mod number;
mod order;
mod pool;
mod quant;
mod reduce;
mod resize;
mod shape;
mod slice;
mod softmax;
mod special;
mod table;
mod transpose;
mod window;

pub use backward::{Backward, Derivative, Gradients, Kept, Reads};
pub use foreign::Foreign;
pub use layout::bounded;
pub use table::TABLE;

use half_floats::Widened;

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

    /// How the outputs depend on the inputs, and what [`Operator::backward`] reads for the gradients
    /// of the `wanted` inputs.
    fn derivative(&self, wanted: &[bool]) -> Derivative {
        let _ = wanted;
        Derivative::Unknown
    }

    /// The gradients of the inputs from those of the outputs: one entry per input, in the input's
    /// shape and element type; `None` where it isn't wanted or there is none.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] without a rule; when values that the rule reads were not kept.
    fn backward(&self, pass: &mut Backward<'_>) -> Gradients {
        let _ = pass;
        Err(OpError::unsupported("a gradient through this operator"))
    }

    /// The same operator for runs that all have these `constants` among their inputs, `None` for
    /// the others: weights are laid out once. `None` where nothing is gained.
    fn prepared(&self, constants: &[Option<Tensor>]) -> Option<Box<dyn Operator>> {
        let _ = constants;
        None
    }

    /// The same operator with `epilogue` applied to its only output while that is in registers;
    /// `None` where the kernel can't. Constants are shared, not copied.
    fn with_epilogue(&self, epilogue: &Epilogue) -> Option<Box<dyn Operator>> {
        let _ = epilogue;
        None
    }

    /// The same operator, putting zeros around its first input itself: `amounts` before each axis,
    /// then after each axis. `None` where it can't.
    fn with_padding(&self, amounts: &[usize]) -> Option<Box<dyn Operator>> {
        let _ = amounts;
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

/// The oldest operator set whose semantics the operators follow: before it, broadcasting was asked
/// for with attributes.
const OLDEST_OPSET: i64 = 7;

/// The operator a node stands for; `None` where the table lacks it.
///
/// # Errors
/// Within the option, when the node's attributes or constant inputs can't be run here.
#[must_use]
pub fn decode(decoding: &Decoding<'_>) -> Option<Result<Box<dyn Operator>, OpError>> {
    let node = decoding.node;
    let entry = entry(node.domain(), node.op_type())?;
    if entry.domain.is_empty() && decoding.opset < OLDEST_OPSET {
        let opset = decoding.opset;
        return Some(Err(OpError::unsupported(format!("operator set {opset}"))));
    }
    Some((entry.decode)(decoding).map(|operator| Box::new(Widened(operator)) as Box<dyn Operator>))
}

/// Whether the table has the operator, in at least one of its uses.
#[must_use]
pub fn supported(domain: &str, op_type: &str) -> bool {
    entry(domain, op_type).is_some()
}

fn entry(domain: &str, op_type: &str) -> Option<&'static Entry> {
    // The default domain has two spellings.
    let domain = if domain == "ai.onnx" { "" } else { domain };
    TABLE.iter().find(|entry| entry.domain == domain && entry.op_type == op_type)
}
