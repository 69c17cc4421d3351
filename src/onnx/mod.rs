//! ONNX files: the wire types, reading, writing, and tensors as stored.

mod attribute;

/// The messages of `proto/onnx.proto`, as generated.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

pub use attribute::NodeAttributes;
pub use proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto,
    ValueInfoProto,
};
