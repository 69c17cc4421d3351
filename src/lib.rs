//! Makes trained ONNX models small and fast: low-rank factors whose ranks are chosen jointly on
//! real data.

// A module uses only modules listed below it.
pub mod error;
pub mod onnx;
pub mod ops;
pub mod tensor;
