//! What a run can be told, apart from its files.

use std::path::PathBuf;
use std::time::Duration;

use crate::factorize::Scheme;
use crate::named::named;
use crate::score::MetricKind;
use crate::tune::{Augmentation, Method};

/// The cost that a ratio divides.
pub use crate::quantize::{Form, Range, Rounding};
pub use crate::search::Resource as Target;
pub use crate::search::Statistics;

/// Options of a compression.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How many times smaller the target becomes: what the original costs / what the output may
    /// cost. More than 1. Default: none, which leaves it to the bound of what may
    /// be lost, or factorizes nothing.
    pub ratio: Option<f64>,
    /// The cost that the ratio divides. Default: bytes.
    pub target: Target,
    /// Where times of layers are kept for a target of latency. One of another machine decides as it is;
    /// to one of this machine what it lacks is added. Default: none, which measures all of them anew.
    pub latency_table: Option<PathBuf>,
    /// What weights are stored as; with a ratio of bytes both together reach it. Default: none, which
    /// leaves them as they are.
    pub quantize: Option<Form>,
    /// How weights are rounded. Default: compensated.
    pub rounding: Rounding,
    /// Weights that share a scale where four bits are stored: a power of two, at least 16.
    /// Default: 64.
    pub block: usize,
    /// How ranges of values are found where values are quantized. Default: mse.
    pub range: Range,
    /// Whether quantized values are signed bytes. Default: no.
    pub signed: bool,
    /// Whether weights that meet quantized values have seven bits. Default: no.
    pub seven_bits: bool,
    /// Whether values stay float at the first and the last layer. Default: no.
    pub float_ends: bool,
    /// Schemes that layers may be factorized by; leaving a layer as it is is always one more.
    /// Default: all of them.
    pub schemes: Vec<Scheme>,
    /// Globs of node or weight names: only these layers are factorized. Default: empty, which
    /// means all.
    pub include: Vec<String>,
    /// Globs of node or weight names: these layers are not factorized. They are quantized all the same.
    /// Default: empty.
    pub exclude: Vec<String>,
    /// Globs of node or weight names: these weights are not quantized. They are factorized all the same.
    /// Default: empty.
    pub float: Vec<String>,
    /// What ranks are multiples of. Default: 1.
    pub rank_multiple: RankMultiple,
    /// Candidates that survive a level of the search, at least 1. Default: 4.
    pub beam: usize,
    /// Networks that the search may score, each counted once however few samples it took.
    /// Default: 80; the published search has no bound.
    pub max_evals: Option<usize>,
    /// Time after which the search ends with the best it has. Runs that hit it are no longer
    /// repeatable. Default: none.
    pub time_limit: Option<Duration>,
    /// Folder where decompositions of layers and scores of networks are kept: a search that was interrupted,
    /// or that is repeated with other bounds, does not make again what it has made. Default: none.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that the search may hold of values of networks that it has run; beyond them it runs again what it
    /// needs. The result doesn't depend on it. Default: an eighth of the free memory, 768 MiB at most.
    pub cache_bytes: Option<usize>,
    /// Bytes of weights above which a model without data is read, decomposed and written one layer at a time,
    /// and proven piece by piece. Default: 1 GB.
    pub stream_above: usize,
    /// How ranks are chosen. Default: beam.
    pub search: SearchMode,
    /// What the factors are fitted to. Default: loss.
    pub statistics: Statistics,
    /// Samples that layer statistics are gathered from. Default: 2000.
    pub calibration_samples: usize,
    /// Samples that candidates are scored on; none of them is used for calibration. Default: 2000, and
    /// of networks that take long to run fewer, down to 64, unless a drop is allowed.
    pub search_samples: Option<usize>,
    /// Passes over the training samples after factorization. Default: as many as their cost allows,
    /// from 3 to 30.
    pub epochs: Option<f64>,
    /// Time after which training ends; rates fall so that it ends well. Runs that hit it are no
    /// longer repeatable. Default: none.
    pub train_time: Option<Duration>,
    /// How gradients become steps. Default: Muon.
    pub optimizer: OptimizerKind,
    /// Highest learning rate. Default: by what the factorization cost, up to 0.001.
    pub learning_rate: Option<f64>,
    /// Weight decay of the products of neighbouring factors, per unit of their squared norm in the
    /// loss. Default: 0.
    pub decay: f64,
    /// Samples per step of training, at least 1. Default: 64.
    pub train_batch: usize,
    /// Share of the loss that imitates the original's outputs, from 0 to 1; the rest is for the
    /// labels. Without labels it is all of it. Default: 0.5.
    pub distill: f64,
    /// Names of values that training compares with the original's, besides the outputs. Default: empty.
    pub matched: Vec<String>,
    /// Weight of their squared errors in the loss, together, each relative to the original's value.
    /// Default: 1.
    pub match_weight: f64,
    /// Bytes that values kept for the way back of training may take. Default: none, which keeps all.
    pub train_memory: Option<usize>,
    /// Weight of the modified stable rank in the loss while the dense model is prepared for its
    /// ranks; 0 leaves that out. Default: 0.
    pub msr: f64,
    /// Power of the singular values in it, 1 or 2. Default: 2.
    pub msr_power: u8,
    /// Ratios that are trained at on the way to the last one, itself included, with a new choice of
    /// ranks for each. Default: 1, which short trainings make more of.
    pub stages: Option<usize>,
    /// Share of the training, its last part, in which weights are rounded as they will be stored, where
    /// they are stored in fewer bits; from 0, which leaves that out, to 1. Default: 0.3.
    pub rounded_share: f64,
    /// What is done to images that are trained on. Default: what the original withstands.
    pub augmentation: Option<Augmentation>,
    /// Seed of every random choice. Default: 0.
    pub seed: u64,
    /// Threads; the result doesn't depend on it. Default: one per core.
    pub threads: Option<usize>,
    /// What models are judged by. Default: top-1 accuracy with labels, else by the outputs: see
    /// [`crate::score`].
    pub metric: Option<MetricKind>,
    /// Points of the metric that may be lost. Without a ratio the smallest model is looked for that
    /// loses no more, on the samples of the search with the standard error added. When the written
    /// file loses more, the report says so and the program ends with exit code 3. Default: none.
    pub max_drop: Option<f64>,
}

impl Options {
    /// Whether layers are to be factorized: there is a ratio, or a bound of what may be lost.
    #[must_use]
    pub fn factorizes(&self) -> bool {
        self.ratio.is_some() || self.max_drop.is_some()
    }

    /// Networks that the search may score.
    #[must_use]
    pub fn evaluations(&self) -> usize {
        let usual = if self.search == SearchMode::Paper { usize::MAX } else { 80 };
        self.max_evals.unwrap_or(usual)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ratio: None,
            target: Target::Bytes,
            latency_table: None,
            quantize: None,
            rounding: Rounding::Compensated,
            block: 64,
            range: Range::Mse,
            signed: false,
            seven_bits: false,
            float_ends: false,
            schemes: Scheme::ALL.to_vec(),
            include: Vec::new(),
            exclude: Vec::new(),
            float: Vec::new(),
            rank_multiple: RankMultiple::Of(1),
            beam: 4,
            max_evals: None,
            time_limit: None,
            cache_dir: None,
            cache_bytes: None,
            stream_above: 1_000_000_000,
            search: SearchMode::Beam,
            statistics: Statistics::Loss,
            calibration_samples: 2000,
            search_samples: None,
            epochs: None,
            train_time: None,
            optimizer: OptimizerKind::Muon,
            learning_rate: None,
            decay: 0.0,
            train_batch: 64,
            distill: 0.5,
            matched: Vec::new(),
            match_weight: 1.0,
            train_memory: None,
            msr: 0.0,
            msr_power: 2,
            stages: None,
            rounded_share: 0.3,
            augmentation: None,
            seed: 0,
            threads: None,
            metric: None,
            max_drop: None,
        }
    }
}

/// The step of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankMultiple {
    /// This one, at least 1.
    Of(usize),
    /// That at which the runtime gets faster on this machine.
    Auto,
}

/// How ranks are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SearchMode {
    /// Beam search around the budgeted start.
    #[default]
    Beam,
    /// The published beam search, as reconstructed: from full rank down, every child scored.
    Paper,
    /// Only the budgeted start: the optimum of the predicted losses.
    Start,
    /// Each layer by a table of what it loses alone, with one threshold for all: what peers do.
    Tables,
}

named!(SearchMode { Beam = "beam", Paper = "paper", Start = "start", Tables = "tables" });

/// How gradients become steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OptimizerKind {
    /// Momentum made orthogonal for matrices, Adam for the rest.
    #[default]
    Muon,
    /// Adam.
    Adam,
    /// Gradient descent with Nesterov momentum.
    Sgd,
}

named!(OptimizerKind { Muon = "muon", Adam = "adam", Sgd = "sgd" });

impl OptimizerKind {
    /// The method with its usual constants.
    #[must_use]
    pub fn method(self) -> Method {
        match self {
            Self::Muon => Method::MUON,
            Self::Adam => Method::ADAM,
            Self::Sgd => Method::Sgd { momentum: 0.9 },
        }
    }
}

#[cfg(test)]
mod tests {
    /// Every field's documentation ends with its default.
    #[test]
    fn every_option_documents_its_default() {
        let source = include_str!("options.rs");
        let body = source
            .split("pub struct Options {")
            .nth(1)
            .and_then(|rest| rest.split("\n}").next())
            .expect("the struct");
        let mut doc = String::new();
        for line in body.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                doc.push_str(text);
            } else if let Some(field) = line.strip_prefix("pub ") {
                let last = doc.rsplit("Default: ").next().unwrap_or_default();
                assert!(doc.contains("Default: "), "`{field}` has no default");
                assert!(last.ends_with('.') && last.len() < 120, "`{field}` ends with `{last}`");
                doc.clear();
            }
        }
    }
}
