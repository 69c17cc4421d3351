//! Which layers of a model become which factors, from the samples of a run.

use std::time::Instant;

use super::forms::{budget, bytes, forms};
use super::gentle::{Dense, Whole};
use super::parts::Parts;
use super::smallest::smallest;
use super::spectra::spectra;
use super::statistics::{calibrate_for_search, plain, quick, scored};
use crate::error::{Error, Result};
use crate::memory::available;
use crate::options::{Options, SearchMode, Target};
use crate::progress::Progress;
use crate::quantize::Storage;
use crate::report;
use crate::score::Scorer;
use crate::search::{
    self, Budget, Compressed, Difference, Effort, LayerOptions, Limits, Network, Prediction,
    Problem, Samples, ScoreCache, Snapshots, Taken,
};

/// Bytes of prefix states that the search may hold, and the share of free memory, if that is less.
const CACHE_BYTES: (usize, u64) = (768 << 20, 8);

/// Sets of states that are held at the same time: of the samples for statistics and of those for scores, for
/// the beam and for single layers.
const SETS: usize = 4;

/// Bytes of prefix states that a search may hold.
pub(super) fn cache_bytes(options: &Options) -> usize {
    let usual = || {
        let share = available().map_or(u64::MAX, |free| free / CACHE_BYTES.1);
        usize::try_from(share).unwrap_or(usize::MAX).min(CACHE_BYTES.0)
    };
    options.cache_bytes.unwrap_or_else(usual)
}

/// What the search did, for the report.
pub(super) fn search_report(options: &Options, found: &Found, layers: usize) -> report::Search {
    let per_pass = (layers * found.samples).max(1) as f64;
    let effort = &found.effort;
    report::Search {
        mode: found.mode.name().to_owned(),
        beam: options.beam,
        evaluations: effort.evaluations,
        full_pass_equivalents: effort.layer_passes as f64 / per_pass,
        layer_passes: effort.layer_passes,
        samples_run: effort.samples_run,
        stopped: effort.stopped.to_owned(),
        predicted_vs_measured_rank_correlation: search::rank_correlation(&effort.predicted),
        drop: found.drop.map(|drop| report::Drop {
            points: drop.points,
            standard_error: drop.error,
            samples: drop.samples,
        }),
        trials: effort.trials.iter().map(|t| trial(t, found.begin)).collect(),
    }
}

fn trial(trial: &search::Trial, begin: Instant) -> report::Trial {
    report::Trial {
        seconds: trial.at.saturating_duration_since(begin).as_secs_f64(),
        evaluation: trial.evaluation,
        predicted: trial.predicted,
        loss: trial.loss,
        samples: trial.samples,
        taken: trial.taken,
    }
}

/// What was chosen, and how.
pub(super) struct Found {
    pub choices: Vec<Option<crate::factorize::Choice>>,
    /// How the layers' weights are stored; empty where the form says it.
    pub storages: Vec<Option<Storage>>,
    /// The network of these choices, where the search has fitted it.
    pub compressed: Option<Compressed>,
    pub effort: Effort,
    /// What the decomposition of every layer leaves, where there was one.
    pub spectra: Vec<Option<report::Spectrum>>,
    /// When the search began.
    pub begin: Instant,
    pub mode: SearchMode,
    /// Samples that candidates were scored on.
    pub samples: usize,
    /// What it loses, where that was asked for.
    pub drop: Option<Drop>,
}

impl Found {
    /// Nothing is factorized.
    pub fn nothing(layers: usize, stopped: &'static str) -> Self {
        Self {
            choices: vec![None; layers],
            storages: Vec::new(),
            compressed: None,
            effort: Effort { stopped, ..Effort::default() },
            spectra: Vec::new(),
            begin: Instant::now(),
            mode: SearchMode::Start,
            samples: 0,
            drop: None,
        }
    }

    /// What the layers become in the network of the search.
    fn taken(&self) -> Vec<Taken> {
        let coarse = |storage: &Option<Storage>| storage.filter(|s| s.is_coarse());
        let rounded = |l: usize| self.storages.get(l).and_then(coarse);
        let one = |(l, &choice): (usize, &Option<crate::factorize::Choice>)| Taken {
            choice,
            rounded: rounded(l),
        };
        self.choices.iter().enumerate().map(one).collect()
    }
}

/// What of the metric is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Drop {
    /// Points: the original's metric less that of the compressed network, on the same samples.
    pub points: f64,
    /// Standard error of the points, by the differences of single samples.
    pub error: f64,
    pub samples: usize,
}

/// What ranks are chosen with, at whatever ratio.
pub(super) struct Ground<'a> {
    pub network: Network<'a>,
    /// The same with fewer samples, where it is of use.
    quick: Option<Network<'a>>,
    forms: Vec<LayerOptions>,
    samples: Samples,
    /// Compares with the labels, where there are any.
    scorer: Scorer,
    /// Compares with the original's outputs.
    imitation: Scorer,
    /// What the whole original costs, and the part of it that no choice changes.
    total: u64,
    rest: u64,
    /// Scores of networks, of whatever ratio.
    cache: ScoreCache,
}

impl<'a> Ground<'a> {
    /// Takes the statistics of the samples and the forms of every layer.
    ///
    /// # Errors
    /// When the model can't be run on the samples.
    pub fn new(
        dense: &'a Dense,
        whole: &Whole<'_>,
        parts: &Parts,
        options: &Options,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let mut network = plain(dense, whole, options, progress)?;
        calibrate_for_search(&mut network, parts, options, progress)?;
        let quick = quick(&network, dense, whole, parts, options)?;
        let (forms, total, rest) = forms(&network, dense, whole, options, progress)?;
        let samples =
            Samples::new(&parts.data, scored(&network, parts, options), &network.evaluator)?;
        let imitation = network.scorer(&samples, None, false)?;
        let scorer = network.scorer(&samples, options.metric, true)?;
        let cache = match &options.cache_dir {
            Some(folder) => {
                let reference = scorer.reference_score()?;
                let others = format!("{:?}", network.options);
                ScoreCache::open(folder, ScoreCache::key(&forms, &reference.losses, &others))?
            }
            None => ScoreCache::default(),
        };
        Ok(Self { network, quick, forms, samples, scorer, imitation, total, rest, cache })
    }

    /// The largest ratio that can be had.
    pub fn largest(&self, resource: Target) -> f64 {
        let least = Budget { resource, limit: 0 }.least(&self.forms);
        self.total as f64 / (self.rest + least).max(1) as f64
    }

    /// Chooses at a ratio, in a mode of the search.
    ///
    /// # Errors
    /// When the ratio is out of reach, a network can't be run, or the run is interrupted.
    pub fn choose(
        &self,
        ratio: f64,
        mode: SearchMode,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Found> {
        let clock = Instant::now();
        let (network, forms, samples) = (&self.network, &self.forms, &self.samples);
        let budget = budget(self.total, self.rest, forms, options.target, ratio)?;
        let mut effort = Effort::default();
        progress.phase("sensitivity", Some(forms.len() as u64));
        let limits = Limits {
            beam: options.beam,
            evaluations: options.evaluations(),
            deadline: options.time_limit.map(|limit| clock + limit),
            snapshot_bytes: cache_bytes(options) / SETS,
        };
        let quick = self.quick.as_ref().unwrap_or(network);
        let cache = &self.cache;
        let problem =
            Problem { network, quick, options: forms, budget, samples, cache, limits, progress };
        let sensitivity = search::sensitivities(problem, &self.imitation, &mut effort)?;
        let prediction = Prediction::new(sensitivity);
        let losses = prediction.losses(forms);
        let first = search::start(forms, &losses, budget).unwrap_or_default();
        progress.phase("search", Some(options.evaluations() as u64).filter(|&n| n < 1 << 32));
        let mut compressed = None;
        let allocation = match mode {
            SearchMode::Start => {
                effort.stopped = "only the predicted optimum was asked for";
                first
            }
            SearchMode::Beam => {
                let (best, fitted, spent) =
                    search::beam(problem, first, &prediction, &self.scorer)?;
                effort.add(spent);
                compressed = Some(fitted);
                best
            }
            SearchMode::Paper => {
                let (best, spent) = search::paper(problem, &prediction, &self.scorer)?;
                effort.add(spent);
                best
            }
            SearchMode::Tables => {
                let (best, spent) = search::tables(problem, &self.scorer)?;
                effort.add(spent);
                best
            }
        };
        let choices = Network::choices(forms, &allocation);
        let storages = storages(forms, &allocation, options);
        Ok(Found {
            storages,
            spectra: spectra(forms, &choices),
            choices,
            compressed,
            effort,
            begin: clock,
            mode,
            samples: samples.len(),
            drop: None,
        })
    }

    /// What the network of a choice loses of the metric, on the samples of the search.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn drop(&self, found: &mut Found) -> Result<Drop> {
        let network = &self.network;
        let compressed = match found.compressed.take() {
            Some(compressed) => compressed,
            None => {
                let none = &mut Snapshots::new(0);
                network.compress(&found.taken(), &network.dense(), none, &mut found.effort)?
            }
        };
        let runs = 0..self.samples.runs();
        let (none, effort) = (&mut Snapshots::new(0), &mut found.effort);
        let layers = self.forms.len();
        let score =
            network.score(&compressed, &self.samples, runs, &self.scorer, layers, none, effort)?;
        let original = self.scorer.reference_score()?;
        let lost = Difference::of(&original.metrics, &score.metrics);
        let sign = if self.scorer.metric().higher_is_better() { 1.0 } else { -1.0 };
        found.compressed = Some(compressed);
        Ok(Drop { points: sign * lost.mean, error: lost.error, samples: score.len() })
    }
}

/// Chooses scheme and ranks of every layer of the dense model: within the budget of the ratio, or the
/// smallest within the drop that is allowed; none where neither is given. Returns the network that was
/// searched too.
pub(super) fn choose<'a>(
    dense: &'a Dense,
    whole: &Whole<'_>,
    parts: Option<&Parts>,
    options: &Options,
    seconds: &mut report::Seconds,
    progress: &'a dyn Progress,
) -> Result<(Found, Network<'a>)> {
    let clock = Instant::now();
    if !options.factorizes() {
        return Ok((
            Found::nothing(dense.layers.len(), "no ratio"),
            plain(dense, whole, options, progress)?,
        ));
    }
    if let Some(ratio) = options.ratio
        && let Some(found) = bits_alone(dense, whole, options, ratio, progress)?
    {
        return Ok((found, plain(dense, whole, options, progress)?));
    }
    progress.phase("calibrate", None);
    let Some(parts) = parts else {
        let ratio = options.ratio.ok_or_else(|| Error::Option {
            option: "--max-drop".to_owned(),
            reason: "without --data nothing tells what is lost; give --data or --ratio".to_owned(),
        })?;
        let network = plain(dense, whole, options, progress)?;
        let (forms, total, rest) = forms(&network, dense, whole, options, progress)?;
        let budget = budget(total, rest, &forms, options.target, ratio)?;
        let losses = Prediction::new(vec![1.0; forms.len()]).losses(&forms);
        let found = search::start(&forms, &losses, budget).unwrap_or_default();
        seconds.search = Some(clock.elapsed().as_secs_f64());
        let choices = Network::choices(&forms, &found);
        let storages = storages(&forms, &found, options);
        let spectra = spectra(&forms, &choices);
        let nothing = Found::nothing(dense.layers.len(), "no data");
        return Ok((Found { choices, storages, spectra, ..nothing }, network));
    };
    let ground = Ground::new(dense, whole, parts, options, progress)?;
    seconds.calibrate = Some(clock.elapsed().as_secs_f64());
    let clock = Instant::now();
    let found = match (options.ratio, options.max_drop) {
        (None, Some(allowed)) => smallest(&ground, allowed, options, progress)?,
        (ratio, _) => {
            let ratio = ratio.unwrap_or(1.0);
            Some(ground.choose(ratio, options.search, options, progress)?)
        }
    };
    let mut found = found.unwrap_or_else(|| {
        Found::nothing(dense.layers.len(), "nothing can be factorized within --max-drop")
    });
    found.begin = clock;
    seconds.search = Some(clock.elapsed().as_secs_f64());
    Ok((found, ground.network))
}

/// How the layers' weights are stored in an allocation; empty where the form alone says it.
fn storages(
    forms: &[LayerOptions],
    allocation: &search::Allocation,
    options: &Options,
) -> Vec<Option<Storage>> {
    match (options.quantize, options.target) {
        (Some(_), Target::Bytes) => Network::storages(forms, allocation),
        _ => Vec::new(),
    }
}

/// Nothing factorized, where the bits that weights are to be stored in reach the ratio alone and no layer
/// gains from more of them: eight lose next to nothing.
pub(super) fn bits_alone(
    dense: &Dense,
    whole: &Whole<'_>,
    options: &Options,
    ratio: f64,
    progress: &dyn Progress,
) -> Result<Option<Found>> {
    let Some(form) = options.quantize.filter(|_| options.target == Target::Bytes) else {
        return Ok(None);
    };
    if form.has_choice() {
        return Ok(None);
    }
    let bytes = bytes(&plain(dense, whole, options, progress)?, dense, whole, options)? as f64;
    let reached = bytes * ratio <= whole.bytes as f64;
    Ok(reached.then(|| Found::nothing(dense.layers.len(), "fewer bits alone reach the ratio")))
}
