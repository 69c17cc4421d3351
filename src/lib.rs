//! Makes trained ONNX models small and fast: low-rank factors whose ranks are chosen jointly on
//! real data.

// A module uses only modules listed below it.
pub mod layer;
pub mod dataset;
pub mod score;
pub mod eval;
pub mod ops;
pub mod kernels;
pub mod graph;
pub mod onnx;
pub mod tensor;
pub mod linalg;
pub mod error;
