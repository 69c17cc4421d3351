//! Makes trained ONNX models small and fast: low-rank factors whose ranks are chosen jointly on
//! real data.
//!
//! ```no_run
//! use onnx_bsr::compress::{DataSource, Request, compress};
//! use onnx_bsr::options::Options;
//! use onnx_bsr::progress::Silent;
//!
//! fn main() -> onnx_bsr::error::Result<()> {
//!     let options = Options { ratio: Some(4.0), ..Options::default() };
//!     let request = Request {
//!         data: Some(DataSource::file("data.npz")),
//!         ..Request::new("in.onnx", "out.onnx", options)
//!     };
//!     let report = compress(&request, &Silent)?;
//!     println!("{} -> {} bytes", report.model.bytes, report.output.bytes);
//!     Ok(())
//! }
//! ```
//!
//! # From the top
//!
//! [`cli`] turns what is typed into a [`compress::Request`], and prints the [`report`] that comes back;
//! [`cli::call`] does so for other languages, with data in memory. [`compress::compress()`] is the pipeline,
//! and reads like this page:
//!
//! 1. [`onnx::Model`] reads the file, lossless: a graph keeps its ONNX shape from end to end, and what is not
//!    understood passes through. [`graph`] has the edits, each of which leaves a valid graph.
//! 2. [`layer::find()`] looks for weights that are matrices at heart, and has a reason for each it leaves out.
//! 3. [`dataset`] brings samples into the model's form and splits them, [`score`] says what a model loses on
//!    them: one definition for search, training and report. [`tokens`] are the positions of sequences that count.
//! 4. [`eval`] runs graphs by the operators of [`ops`] and the loops of [`kernels`], gathers second moments of
//!    the layers' inputs, and goes backward. An operator that is not there is run by tract.
//! 5. [`factorize`] decomposes a layer once per scheme, by [`linalg`]; every rank is a slice of that.
//! 6. [`search`] finds one choice for each layer within a budget and gives it as a [`search::Plan`], which is data:
//!    it is saved, and carried out again to the same bytes.
//! 7. [`tune`] trains the factors on the graph itself, and [`quantize`] stores them in fewer bits.
//! 8. [`validate`] loads the written file in tract, and only a file that has run there takes its place.
//!
//! # What holds everywhere
//!
//! - A module uses only those below it in the list of `lib.rs`. [`options::Options`] goes no deeper than
//!   [`compress`]: what is below takes what it needs.
//! - The same input, seed and options give the same bytes, on any number of threads.
//! - Long work takes a [`progress::Progress`], tells it what it does, and stops when that says so.
//! - Files are written beside their place and renamed; a fault leaves what was there. [`error::Error`] says
//!   what, where and, by [`error::Error::hint`], what to do; nothing panics on what a file holds.

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
pub mod tokens;
pub mod tensor;
pub mod linalg;
pub mod progress;
pub mod memory;
pub mod error;
pub mod data_type;
pub mod elements;
mod fnv;
mod named;
