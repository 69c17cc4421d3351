//! What was done and what it cost, as data; [`View::text`] and [`json`] show it.
//!
//! The field names are a contract, documented in `docs/json.md`: new ones may be added, none
//! renamed or removed within a [`SCHEMA_VERSION`].

mod html;
mod models;
mod size;
mod sweep;
mod table;
mod text;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use html::{Page, page};
pub use models::{
    BenchReport, BenchTable, CheckOutput, CheckReport, EvalMetric, EvalReport, InspectLayer,
    InspectModel, InspectReport, InspectTotals, InspectValue, Order,
};
pub use size::{gzip_bytes, peak_rss_bytes};
pub use sweep::{PointReport, PointStatus, Sweep, SweepMetric, SweepPoint};
pub use text::View;

/// Version of the JSON views.
pub const SCHEMA_VERSION: u32 = 1;

/// A compression: what was asked, what was done, what it cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/json.md documents every field, and a test compares")]
pub struct Report {
    pub schema_version: u32,
    pub model: ModelSize,
    pub output: OutputSize,
    pub ratio: Ratio,
    pub metric: Option<Metric>,
    pub file_metric: Option<FileMetric>,
    pub latency_ms: Option<Latency>,
    pub seconds: Seconds,
    pub peak_rss_bytes: Option<u64>,
    pub search: Option<Search>,
    pub training: Option<Training>,
    pub quantization: Option<Quantization>,
    pub layers: Vec<Layer>,
    pub validation: Option<Validation>,
    /// Targets and tolerances that were missed; when there are any the program ends with exit
    /// code 3.
    pub missed: Vec<String>,
    pub warnings: Vec<String>,
    pub program: Program,
}

/// What made the report, and how to make it again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Program {
    pub name: String,
    pub version: String,
    /// Version of the runtime that proves files; empty where it is not known.
    pub tract: String,
    /// Operating system and processor.
    pub platform: String,
    pub threads: usize,
    pub seed: u64,
    /// The command line, the program's name first; empty where a library's user asked.
    pub command: Vec<String>,
}

/// The model that was read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ModelSize {
    pub name: String,
    pub opset: Option<i64>,
    pub params: u64,
    pub macs: Option<u64>,
    pub bytes: u64,
    pub gzip_bytes: Option<u64>,
}

/// The model that was written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct OutputSize {
    pub path: String,
    pub params: u64,
    pub macs: Option<u64>,
    pub bytes: u64,
    pub gzip_bytes: Option<u64>,
}

/// The ratio of the target's cost before to that after.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Ratio {
    pub asked: Option<f64>,
    pub reached: Option<f64>,
    pub target: String,
}

/// The metric after each stage; null where the stage did not run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Metric {
    pub name: String,
    pub unit: String,
    pub higher_is_better: bool,
    /// Where the samples are from, for a person to read.
    pub source: String,
    pub samples: usize,
    pub original: f64,
    pub factorized: Option<f64>,
    pub tuned: Option<f64>,
    pub quantized: Option<f64>,
    pub written: Option<f64>,
}

/// A metric that the user takes of files; higher is better.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct FileMetric {
    /// The program, or what the caller calls it.
    pub name: String,
    pub original: f64,
    /// Null where it failed.
    pub written: Option<f64>,
}

/// Latency at batch 1 on one thread in milliseconds, taken in turns.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    /// Median.
    pub original: f64,
    /// Median.
    pub output: f64,
    pub original_min: f64,
    pub output_min: f64,
    pub runs: usize,
}

/// Wall-clock seconds of the stages; null where the stage did not run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Seconds {
    pub load: Option<f64>,
    pub calibrate: Option<f64>,
    pub factorize: Option<f64>,
    pub search: Option<f64>,
    pub tune: Option<f64>,
    pub quantize: Option<f64>,
    pub validate: Option<f64>,
    pub total: f64,
}

/// What the search did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Search {
    pub mode: String,
    pub beam: usize,
    pub evaluations: u64,
    pub full_pass_equivalents: f64,
    pub layer_passes: u64,
    /// Samples that networks were scored on, once for every network.
    pub samples_run: u64,
    /// Why it ended, for a person to read.
    pub stopped: String,
    pub predicted_vs_measured_rank_correlation: Option<f64>,
    /// What the chosen network loses on the samples of the search, where the drop decides.
    pub drop: Option<Drop>,
    /// The networks scored whole, in order.
    pub trials: Vec<Trial>,
}

/// A network that was scored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Trial {
    /// Since the search began.
    pub seconds: f64,
    pub evaluation: u64,
    pub predicted: Option<f64>,
    pub loss: f64,
    pub samples: usize,
    /// Whether it became the best one.
    pub taken: bool,
}

/// What is lost of the metric on samples that both models have run on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Drop {
    pub points: f64,
    pub standard_error: f64,
    pub samples: usize,
}

/// What training did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Training {
    /// Where the samples are from, for a person to read.
    pub source: String,
    pub samples: usize,
    /// What was done to images, for a person to read; empty where nothing was.
    pub augmentation: String,
    pub stages: Vec<TrainingStage>,
    /// Nodes without a backward rule, and the weights that stayed as they were for it.
    pub obstacles: Vec<String>,
}

/// One training.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TrainingStage {
    pub stage: String,
    /// The ratio that the factors have; null for `msr`.
    pub ratio: Option<f64>,
    pub epochs: f64,
    pub steps: usize,
    /// The highest one.
    pub learning_rate: f64,
    pub seconds: f64,
    /// Scores on the samples of the search: lower is better.
    pub score_before: f64,
    pub score_after: f64,
    /// The same on as many of the samples trained on; null without labels.
    pub fitted_before: Option<f64>,
    pub fitted_after: Option<f64>,
    /// Share of the squared singular values beyond the ranks, a mean over weights.
    pub tail_before: Option<f64>,
    pub tail_after: Option<f64>,
    pub setbacks: usize,
    /// States that were scored, the first one before any step.
    pub checks: Vec<TrainingCheck>,
}

/// A state of a training.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TrainingCheck {
    pub step: usize,
    /// Mean training loss since the check before; null for the first.
    pub loss: Option<f64>,
    /// Loss on the samples of the search.
    pub held: f64,
    /// The same on samples trained on; null without labels.
    pub fitted: Option<f64>,
}

/// What quantization did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Quantization {
    pub form: String,
    pub rounding: String,
    /// Weights that are stored in fewer bits.
    pub weights: usize,
    /// Their elements.
    pub params: u64,
    /// Bits per element of all weights and biases, scales included.
    pub bits_per_param: f64,
    /// Bytes of the file before.
    pub bytes_before: u64,
    pub kept: Vec<KeptWeight>,
}

/// A weight that stays float.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct KeptWeight {
    pub name: String,
    pub reason: String,
}

/// What became of a weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Layer {
    pub name: String,
    pub op_type: String,
    /// Shape of the weight as stored.
    pub shape: Vec<usize>,
    pub action: Action,
    pub scheme: Option<String>,
    /// The dim between the factors; for Tucker the one at the outputs.
    pub rank: Option<usize>,
    /// Tucker only: the dim at the inputs.
    pub rank_in: Option<usize>,
    pub full_rank: Option<usize>,
    pub bits: Option<u32>,
    pub params_before: u64,
    pub params_after: u64,
    pub macs_before: Option<u64>,
    pub macs_after: Option<u64>,
    /// Why the layer was kept or skipped.
    pub reason: Option<String>,
    pub spectrum: Option<Spectrum>,
}

/// What a layer's decomposition leaves at every rank.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Spectrum {
    pub scheme: String,
    /// Tucker only: the dim at the inputs that the curve is for.
    pub rank_in: Option<usize>,
    pub ranks: Vec<usize>,
    /// Share of the energy of the layer's outputs that is lost at each of them: the tail of the
    /// squared singular values.
    pub errors: Vec<f64>,
}

/// What was done with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It could have been factorized and stays as it was.
    Keep,
    /// It was replaced by factors.
    Factorize,
    /// It can't be factorized, or was excluded.
    Skip,
}

/// The written file in another runtime against the evaluator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Validation {
    pub runtime: String,
    pub samples: usize,
    pub max_abs_difference: f64,
    pub max_relative_difference: f64,
    /// Pieces that the file was run in, where it was too large to be run as a whole.
    #[serde(default)]
    pub pieces: Option<usize>,
}

/// A view for programs: indented JSON with a newline at its end.
#[must_use]
pub fn json(report: &impl Serialize) -> String {
    // Plain structs of numbers and strings always serialize; numbers that JSON lacks become null.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}
