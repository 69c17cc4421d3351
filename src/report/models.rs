//! Reports of the subcommands that change nothing.

use std::cmp::Reverse;

use globset::Glob;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::named::named;

/// A model's weights and what can be done with them.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "docs/json.md documents every field, and a test compares")]
pub struct InspectReport {
    pub schema_version: u32,
    pub model: InspectModel,
    pub inputs: Vec<InspectValue>,
    pub outputs: Vec<InspectValue>,
    pub layers: Vec<InspectLayer>,
    pub totals: InspectTotals,
    pub warnings: Vec<String>,
}

/// What weights are listed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Their names.
    Name,
    /// Their elements, most first.
    Params,
    /// Multiply-accumulates, most first.
    Macs,
    /// The largest rank that saves params, largest first.
    Rank,
}

named!(Order { Name = "name", Params = "params", Macs = "macs", Rank = "rank" });

impl InspectReport {
    /// Lists only weights whose own name, or whose node's, one of the globs matches, where there are
    /// any; in another order than that of the model, where one is given. Totals stay those of the model.
    ///
    /// # Errors
    /// When a glob is malformed or matches nothing.
    pub fn select(&mut self, globs: &[String], order: Option<Order>) -> Result<()> {
        if !globs.is_empty() {
            let mut kept = vec![false; self.layers.len()];
            for text in globs {
                let fault = |reason| Error::Option { option: "--only".to_owned(), reason };
                let glob = Glob::new(text).map_err(|e| fault(e.to_string()))?.compile_matcher();
                let found =
                    self.layers.iter().map(|l| glob.is_match(&l.name) || glob.is_match(&l.node));
                let found: Vec<bool> = found.collect();
                if !found.contains(&true) {
                    return Err(fault(format!("`{text}` matches no node or weight")));
                }
                kept.iter_mut().zip(found).for_each(|(kept, found)| *kept |= found);
            }
            let mut kept = kept.into_iter();
            self.layers.retain(|_| kept.next().unwrap_or(false));
        }
        match order {
            None => {}
            Some(Order::Name) => self.layers.sort_by(|a, b| a.name.cmp(&b.name)),
            Some(Order::Params) => self.layers.sort_by_key(|l| Reverse(l.params)),
            Some(Order::Macs) => self.layers.sort_by_key(|l| Reverse(l.macs)),
            Some(Order::Rank) => self.layers.sort_by_key(|l| Reverse(l.rank_bound)),
        }
        Ok(())
    }
}

/// The file.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct InspectModel {
    pub name: String,
    pub ir_version: i64,
    pub opset: Option<i64>,
    pub nodes: usize,
    pub bytes: u64,
}

/// An input or output of the graph.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct InspectValue {
    pub name: String,
    pub data_type: String,
    /// Dims, null where they are open.
    pub shape: Vec<Option<usize>>,
}

/// A weight.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct InspectLayer {
    /// Name of the weight.
    pub name: String,
    /// Name of the node that uses it.
    pub node: String,
    pub op_type: String,
    /// Shape of the weight as stored.
    pub shape: Vec<usize>,
    pub params: u64,
    pub macs: Option<u64>,
    /// The rank at which a factorization is exact.
    pub full_rank: Option<usize>,
    /// The largest rank that still saves params, over the schemes.
    pub rank_bound: Option<usize>,
    pub eligible: bool,
    /// Why it can't be factorized.
    pub reason: Option<String>,
}

/// Sums over the model.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct InspectTotals {
    pub params: u64,
    pub macs: Option<u64>,
    pub eligible_params: u64,
    pub eligible_macs: Option<u64>,
    pub eligible_layers: usize,
}

/// The metric of a file.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct EvalReport {
    pub schema_version: u32,
    pub metric: EvalMetric,
    pub runtime: String,
    pub seconds: f64,
    pub warnings: Vec<String>,
}

/// A metric's value.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct EvalMetric {
    pub name: String,
    pub unit: String,
    /// Null for a metric that a program takes of the file.
    pub samples: Option<usize>,
    pub value: f64,
}

/// Outputs of two files side by side.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct CheckReport {
    pub schema_version: u32,
    pub runtime: String,
    pub samples: usize,
    pub seconds: f64,
    /// Largest relative difference that counts as equal.
    pub tolerance: f64,
    pub equal: bool,
    pub outputs: Vec<CheckOutput>,
    pub warnings: Vec<String>,
}

/// One output in both files.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct CheckOutput {
    pub name: String,
    pub shape_a: Vec<usize>,
    pub shape_b: Vec<usize>,
    /// Null where shapes or types differ.
    pub max_abs_difference: Option<f64>,
    /// The largest absolute difference / the largest absolute value in the first file.
    pub max_relative_difference: Option<f64>,
    pub equal: bool,
}

/// Latency of two files.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct BenchReport {
    pub schema_version: u32,
    pub runtime: String,
    pub runs: usize,
    pub median_ms_a: f64,
    pub min_ms_a: f64,
    pub median_ms_b: f64,
    pub min_ms_b: f64,
    /// Median of the first / median of the second: above 1 the second is faster.
    pub ratio: f64,
    pub warnings: Vec<String>,
}

/// A table of latencies that was measured.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct BenchTable {
    pub schema_version: u32,
    pub path: String,
    pub machine: String,
    pub runtime: String,
    /// Layers that have times in every form that they can have.
    pub layers: usize,
    /// One run of the whole model.
    pub model_ms: f64,
    /// One of each of these layers, alone.
    pub layers_ms: f64,
}
