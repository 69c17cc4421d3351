//! ONNX files: the wire types, reading, writing, and tensors as stored.
//!
//! The generated messages are the only representation of a model, so what is not understood
//! survives untouched.

mod attribute;
mod check;
mod external;
mod model;
mod spill;
mod tensor;
mod walk;
mod write;

/// The messages of `proto/onnx.proto`, as generated.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

pub use attribute::NodeAttributes;
pub use model::Model;
pub use proto::OperatorSetIdProto as OpsetImport;
pub use proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto,
    ValueInfoProto,
};
pub use spill::Spill;
pub use tensor::{data_type_code, data_type_from_code, data_type_name, to_raw};
pub use write::move_model;

#[cfg(test)]
mod tests;
