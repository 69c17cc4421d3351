//! Makes trained ONNX models small and fast: low-rank factors whose ranks are chosen jointly on
//! real data.

// A module uses only modules listed below it.
pub mod dataset;
pub mod error;
pub mod eval;
pub mod factorize;
pub mod graph;
pub mod kernels;
pub mod layer;
pub mod linalg;
pub mod onnx;
pub mod ops;
pub mod score;
pub mod tensor;
