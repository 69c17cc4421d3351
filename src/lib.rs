//! Makes trained ONNX models small and fast: low-rank factors whose ranks are chosen jointly on
//! real data.

// A module uses only modules listed below it; `tests/module_order.rs` checks this.
pub mod cli;
pub mod compress;
pub mod report;
pub mod options;
pub mod validate;
pub mod tune;
pub mod search;
pub mod quantize;
pub mod factorize;
pub mod layer;
pub mod dataset;
pub mod score;
pub mod eval;
pub mod ops;
pub mod kernels;
pub mod graph;
pub mod onnx;
pub mod tract;
pub mod tensor;
pub mod linalg;
pub mod progress;
pub mod memory;
pub mod error;
pub mod data_type;
pub mod elements;
mod named;
