//! Which layers become which factors: candidates, a budget, and the true loss of the whole
//! compressed network.
//!
//! A [`Network`] is the model with its layers and samples. [`Network::compress`] builds the
//! compressed network for given choices, layer by layer: every layer is refitted to the original's
//! targets on the inputs it will really see, so a score is that of the file that would be written.
//! [`start()`] allocates a budget by predicted losses; [`beam()`] improves on it by true ones;
//! [`paper()`] is the published search, [`tables()`] what peers do.

use std::time::Instant;

use crate::progress::Progress;

mod beam;
mod cache;
mod calibration;
mod decompositions;
mod gradients;
mod moves;
mod network;
mod options;
mod paper;
mod plan;
mod predict;
mod probe;
mod quick;
mod race;
mod samples;
mod scoring;
mod sensitivity;
mod sequential;
mod snapshots;
mod start;
mod tables;
mod targets;

pub use beam::beam;
pub use cache::ScoreCache;
pub use decompositions::Decompositions;
pub use network::{Network, NetworkOptions, Statistics, in_order, outputs, score, scorer};
pub use options::{Bits, LayerOption, LayerOptions};
pub use paper::paper;
pub use plan::{Plan, PlanConstant, PlanLayer};
pub use predict::{Prediction, rank_correlation};
pub use race::Difference;
pub use samples::{Samples, tokens};
pub use sensitivity::sensitivities;
pub use sequential::{Compressed, Taken};
pub use snapshots::Snapshots;
pub use start::{Budget, Resource, start};
pub use tables::tables;

/// For every compressible layer which of its options it takes; option 0 is dense.
pub type Allocation = Vec<usize>;

/// What a search is for, and within which bounds.
#[derive(Clone, Copy)]
pub struct Problem<'a, 'm> {
    /// The model with its layers.
    pub network: &'a Network<'m>,
    /// The same, fitted to as many samples as comparisons of single layers need.
    pub quick: &'a Network<'m>,
    /// What every layer can become.
    pub options: &'a [LayerOptions],
    /// What they may cost together.
    pub budget: Budget,
    /// Samples that networks are scored on.
    pub samples: &'a Samples,
    /// Scores that are known.
    pub cache: &'a ScoreCache,
    /// When the search ends.
    pub limits: Limits,
    /// Is told what is done, and says when to stop.
    pub progress: &'a dyn Progress,
}

/// When a search ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Allocations that survive a level.
    pub beam: usize,
    /// Networks that may be scored.
    pub evaluations: usize,
    /// When to stop.
    pub deadline: Option<Instant>,
    /// Bytes of prefix states that may be held for each set of samples.
    pub snapshot_bytes: usize,
}

impl Limits {
    /// Why a search that has scored so many networks ends, if it does.
    fn exceeded(&self, evaluations: u64) -> Option<&'static str> {
        if evaluations >= self.evaluations as u64 {
            Some("evaluations used up")
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some("time used up")
        } else {
            None
        }
    }
}

/// What a search did.
#[derive(Clone, Debug, Default)]
pub struct Effort {
    /// Networks scored.
    pub evaluations: u64,
    /// Layers run on one sample each, statistics included.
    pub layer_passes: u64,
    /// Samples that networks were scored on, each counted once for every network.
    pub samples_run: u64,
    /// Predicted and measured losses of the networks scored.
    pub predicted: Vec<(f64, f64)>,
    /// The networks scored, in order; those of single layers' trials are not among them.
    pub trials: Vec<Trial>,
    /// Why the search ended.
    pub stopped: &'static str,
}

/// A network that a search has scored.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// When that was done.
    pub at: Instant,
    /// Networks scored by then, this one included.
    pub evaluation: u64,
    /// Its loss by prediction: that of the network it was made from, and the change predicted. None
    /// where there was no prediction.
    pub predicted: Option<f64>,
    /// Its loss on all samples, or, where it was given up early, what the best one loses on all and
    /// the difference on those both have run on.
    pub loss: f64,
    /// Samples that it was scored on.
    pub samples: usize,
    /// Whether it became the best one.
    pub taken: bool,
}

impl Effort {
    /// Takes in what another part of the search did.
    pub fn add(&mut self, other: Self) {
        let before = self.evaluations;
        let later = |trial: Trial| Trial { evaluation: before + trial.evaluation, ..trial };
        self.trials.extend(other.trials.into_iter().map(later));
        self.evaluations += other.evaluations;
        self.layer_passes += other.layer_passes;
        self.samples_run += other.samples_run;
        self.predicted.extend(other.predicted);
        self.stopped = other.stopped;
    }
}
