//! Training within a compression: the dense model towards its ranks, the factors afterwards, and at last
//! the weights as they will be rounded.

pub(super) mod rounded;

use std::time::{Duration, Instant};

use prost::Message;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::Request;
use super::gentle::Dense;
use super::parts::Parts;
use super::result;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::eval::{Evaluator, Obstacle};
use crate::factorize::Choice;
use crate::layer::{Filter, find};
use crate::onnx::Model;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{Training, TrainingCheck, TrainingStage};
use crate::score::{Objective, Scorer, Task};
use crate::search::{self, Samples};
use crate::tensor::Tensor;
use crate::tune::{
    Aim, Augmentation, Checkpoint, Course, History, Parameter, Pressure, Products, Recipe,
    Schedule, Spectrum, Trained, spectra, truncated,
};

/// Multiply-accumulates that training takes unless it is told how long it may go on.
const MACS: f64 = 6e13;

/// Bounds of the passes over the samples that come from it.
const EPOCHS: (f64, f64) = (3.0, 30.0);

/// The highest learning rate that training takes by itself.
const RATE: f64 = 1e-3;

/// Loss that a model has to lose before it is trained at that rate. At its peak, the noise of the steps
/// costs about as much: less than that is gained by smaller steps alone.
const LOSS_FOR_RATE: f64 = 0.25;

/// The least share of the highest rate.
const LEAST_RATE: f64 = 0.05;

/// Share of the whole that goes to the dense model where that is trained.
const DENSE_SHARE: f64 = 0.25;

/// Share of the arithmetic of a stage of training that checks may take, but for the least number of them.
const CHECK_SHARE: f64 = 0.1;

/// Checks of a stage of training, at least and at most.
const CHECKS: (f64, f64) = (4.0, 20.0);

/// Changed images that such a loss is a mean over, at least about.
const SHOWN: usize = 1000;

/// Loss that a change of images may add before it counts as a change of their meaning.
const WITHSTOOD: f64 = 0.1;

/// What trainings of one compression share.
pub(super) struct Trainer<'a> {
    model: &'a Model,
    original: Evaluator,
    parts: &'a Parts,
    data: &'a Dataset,
    samples: &'a [usize],
    checks: Samples,
    scorer: Scorer,
    /// As many of the samples trained on, where labels make a difference: see `tune::Judgement`.
    probe: Option<(Samples, Scorer)>,
    options: &'a Options,
    augmentation: Augmentation,
    /// Loss of the original on the samples that states are judged on.
    loss: f64,
    /// Multiply-accumulates of the original for one sample.
    macs: f64,
    checkpoint: Option<Checkpoint>,
}

/// What a training did, for the report.
pub(super) struct Stage {
    entry: TrainingStage,
    obstacles: Vec<Obstacle>,
}

impl<'a> Trainer<'a> {
    /// What trains on the part of the samples that is for it; none where there is none.
    pub fn new(
        model: &'a Model,
        parts: &'a Parts,
        sample: &[Tensor],
        request: &'a Request,
        progress: &dyn Progress,
    ) -> Result<Option<Self>> {
        let options = &request.options;
        let Some((data, samples)) = &parts.train else { return Ok(None) };
        let matched: Vec<&str> = options.matched.iter().map(String::as_str).collect();
        let computed = |name: &str| {
            model.graph().node.iter().any(|node| node.output.iter().any(|output| output == name))
        };
        if let Some(name) = matched.iter().find(|name| !computed(name)) {
            return Err(Error::Option {
                option: "--match".to_owned(),
                reason: format!("no node of the model computes a value `{name}`"),
            });
        }
        let original = Evaluator::observing(model, &matched)?;
        let checks = Samples::new(&parts.data, parts.search.clone(), &original)?;
        let scorer = search::scorer(&original, &checks, options.metric, true, progress)?;
        let labelled = scorer.task() == Task::Classification && data.has_labels();
        let probe = match labelled {
            true => {
                let mut order = samples.clone();
                order.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
                order.truncate(checks.len());
                let samples = Samples::new(data, order, &original)?;
                let scorer = search::scorer(&original, &samples, options.metric, true, progress)?;
                Some((samples, scorer))
            }
            false => None,
        };
        let macs = result::macs(model, &find(model, &Filter::default())?, sample.to_vec())?;
        let loss = scorer.reference_score()?.mean_loss();
        let mut trainer = Self {
            loss,
            model,
            original,
            parts,
            data,
            samples,
            checks,
            scorer,
            probe,
            options,
            augmentation: Augmentation::default(),
            macs: macs.unwrap_or(0) as f64,
            checkpoint: None,
        };
        trainer.augmentation = match options.augmentation {
            Some(augmentation) => augmentation,
            None => trainer.withstood()?,
        };
        if let Some(path) = &request.resume {
            trainer.checkpoint = Some(Checkpoint::open(path, trainer.identity()?)?);
        }
        Ok(Some(trainer))
    }

    /// Everything that states of the trainings depend on.
    fn identity(&self) -> Result<String> {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut mix = |bytes: &[u8]| {
            for &byte in bytes {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        mix(&self.model.proto.encode_to_vec());
        let mut options = self.options.clone();
        options.threads = None;
        mix(format!("{options:?}").as_bytes());
        let (data, samples) = (self.data, self.samples);
        mix(format!("{} {} {samples:?}", data.name(), data.len()).as_bytes());
        let first: Vec<usize> = samples.iter().copied().take(8).collect();
        mix(format!("{:?}", data.batch(&first)?).as_bytes());
        mix(format!("{:?} {:?}", self.parts.calibration, self.parts.search).as_bytes());
        Ok(format!("{} {hash:016x}", env!("CARGO_PKG_VERSION")))
    }

    /// Removes what was kept for an interruption.
    pub fn finish(&mut self) {
        if let Some(checkpoint) = self.checkpoint.take() {
            checkpoint.remove();
        }
    }

    /// The changes of images that leave what the original makes of them.
    fn withstood(&self) -> Result<Augmentation> {
        let loss = |augmentation: Augmentation| -> Result<f64> {
            let mut losses = Vec::new();
            let runs = self.checks.runs();
            // Single images that are moved out of sight weigh much among few.
            let draws = if augmentation.is_none() { 1 } else { (SHOWN / self.checks.len()).max(1) };
            for (draw, run) in (0..draws).flat_map(|d| (0..runs).map(move |run| (d, run))) {
                let mut inputs = self.checks.inputs(run, &self.original)?;
                for input in &mut inputs {
                    *input = augmentation
                        .apply(input, draw as u64, self.checks.range(run).start as u64)
                        .map_err(|e| Error::Training { reason: e.to_string() })?;
                }
                let range = self.checks.range(run);
                let outputs = self.original.run(inputs)?;
                let outputs = self.original.per_sample(outputs, range.len())?;
                losses.push(self.scorer.score(&outputs, range)?.mean_loss());
            }
            Ok(losses.iter().sum::<f64>() / losses.len().max(1) as f64)
        };
        let images = self.checks.inputs(0, &self.original)?;
        if !images.iter().any(|t| t.f32("").is_ok() && Augmentation::applies(t.shape())) {
            return Ok(Augmentation::default());
        }
        let plain = loss(Augmentation::default())?;
        let flip = Augmentation { flip: true, shift: 0 };
        let shift = Augmentation { flip: false, shift: Augmentation::SHIFT };
        // Only half of the images are mirrored.
        Ok(Augmentation {
            flip: loss(flip)? - plain < 0.5 * WITHSTOOD,
            shift: if loss(shift)? - plain < WITHSTOOD { Augmentation::SHIFT } else { 0 },
        })
    }

    fn objective(&self) -> Objective {
        let usual = self.scorer.objective();
        if usual.labels == 0.0 {
            return usual;
        }
        let distill = if self.data.has_labels() { self.options.distill } else { 1.0 };
        Objective { labels: 1.0 - distill, distill, ..usual }
    }

    /// The highest rate for a model whose loss is `start`: the more there is to win back, the larger
    /// steps it can take.
    fn rate(&self, start: f64) -> f64 {
        let share = (start - self.loss) / LOSS_FOR_RATE;
        self.options.learning_rate.unwrap_or(RATE * share.clamp(LEAST_RATE, 1.0))
    }

    /// The recipe for `share` of the whole training, on a model of so many multiply-accumulates for
    /// one sample and of the loss `start`.
    fn recipe(&self, macs: f64, share: f64, start: f64) -> Recipe {
        let options = self.options;
        // Backward is two more products for each one of the forward run.
        let pass = (3.0 * macs + self.macs).max(1.0) * self.samples.len().max(1) as f64;
        let scored = self.checks.len() + self.probe.as_ref().map_or(0, |(probe, _)| probe.len());
        let check = macs.max(1.0) * scored.max(1) as f64;
        let epochs = match (options.epochs, options.train_time) {
            (Some(epochs), _) => epochs,
            (None, Some(_)) => 1e3,
            (None, None) => (MACS / pass).clamp(EPOCHS.0, EPOCHS.1),
        };
        let most = CHECK_SHARE * epochs * share * pass / check;
        Recipe {
            epochs: epochs * share,
            batch: options.train_batch,
            schedule: Schedule { peak: self.rate(start), warm_up: 0.05, end: 0.01 },
            method: options.optimizer.method(),
            decay: 0.0,
            clip: 5.0,
            checks: most.clamp(CHECKS.0, CHECKS.1) as usize,
            patience: CHECKS.1 as usize,
            time: options.train_time.map(|t| t.mul_f64(share).max(Duration::from_millis(1))),
            seed: options.seed,
        }
    }

    /// A share of what the dense model's training leaves.
    fn left(&self, share: f64) -> f64 {
        if self.options.msr > 0.0 { share - DENSE_SHARE * share } else { share }
    }

    fn train<'p>(
        &mut self,
        name: &str,
        model: &Model,
        recipe: Recipe,
        aim: impl FnOnce(&[Parameter]) -> Result<Aim<'p>>,
        stages: &mut Vec<Stage>,
        progress: &dyn Progress,
    ) -> Result<Trained> {
        let clock = Instant::now();
        let share = self.options.match_weight / self.options.matched.len().max(1) as f64;
        let matched: Vec<(&str, f64)> =
            self.options.matched.iter().map(|name| (name.as_str(), share)).collect();
        let course = Course {
            matched: &matched,
            memory: self.options.train_memory,
            original: &self.original,
            data: self.data,
            samples: self.samples,
            checks: &self.checks,
            scorer: &self.scorer,
            probe: self.probe.as_ref().map(|(samples, scorer)| (samples, scorer)),
            objective: self.objective(),
            augmentation: self.augmentation,
            recipe,
        };
        let steps = (recipe.epochs * self.samples.len() as f64 / recipe.batch as f64) as u64;
        progress.phase(name, Some(steps).filter(|_| recipe.time.is_none()));
        let trained = course.train(model, aim, self.checkpoint.as_mut(), stages.len(), progress)?;
        let history = &trained.history;
        let entry = TrainingStage {
            stage: name.to_owned(),
            ratio: None,
            learning_rate: recipe.schedule.peak,
            epochs: history.samples as f64 / self.samples.len().max(1) as f64,
            steps: history.steps,
            seconds: clock.elapsed().as_secs_f64(),
            score_before: history.scores.first().map_or(f64::NAN, |s| s.held),
            score_after: history.best.map_or(f64::NAN, |s| s.held),
            fitted_before: history.scores.first().and_then(|s| s.fitted),
            fitted_after: history.best.and_then(|s| s.fitted),
            tail_before: None,
            tail_after: None,
            setbacks: history.setbacks,
            checks: checks(history),
        };
        stages.push(Stage { entry, obstacles: trained.obstacles.clone() });
        Ok(trained)
    }

    /// The dense model, trained so that it loses little when its layers are cut to the ranks that
    /// were found.
    pub fn prepare(
        &mut self,
        dense: &Dense,
        choices: &[Option<Choice>],
        stages: &mut Vec<Stage>,
        progress: &dyn Progress,
    ) -> Result<Model> {
        let layers = &dense.layers;
        let mut before = Vec::new();
        let trained = self.train(
            "msr",
            &dense.model,
            self.recipe(self.macs, DENSE_SHARE, f64::INFINITY),
            |parameters| {
                before = spectra(layers, choices, parameters)?;
                let mut pressure = Pressure::new(
                    layers,
                    choices,
                    parameters,
                    self.options.msr_power,
                    self.options.msr,
                )?;
                let penalty = move |parameters: &[Parameter], slopes: &mut [Vec<f32>], since| {
                    pressure.add(parameters, slopes, since)
                };
                let judged = |parameters: &[Parameter]| truncated(layers, choices, parameters);
                Ok(Aim { penalty: Box::new(penalty), judged: Box::new(judged), grids: None })
            },
            stages,
            progress,
        )?;
        let after = spectra(layers, choices, &trained.parameters)?;
        let mean = |spectra: &[Spectrum]| {
            let tails = spectra.iter().map(Spectrum::tail);
            tails.sum::<f64>() / spectra.len().max(1) as f64
        };
        if let Some(stage) = stages.last_mut() {
            stage.entry.tail_before = Some(mean(&before));
            stage.entry.tail_after = Some(mean(&after));
        }
        for (before, after) in before.iter().zip(&after) {
            log::info!(target: "tune", "`{}` as {}: energy beyond rank {} {:.4} -> {:.4}",
                before.weight, before.scheme, before.rank, before.tail(), after.tail());
            log::debug!(target: "tune", "  singular values before {:.3?}", before.values);
            log::debug!(target: "tune", "  singular values after {:.3?}", after.values);
        }
        Ok(trained.model)
    }

    /// A model, factorized to a `ratio` where there is one, with its weights trained in `share` of the whole training.
    pub fn tune(
        &mut self,
        model: &Model,
        sample: &[Tensor],
        ratio: Option<f64>,
        share: f64,
        stages: &mut Vec<Stage>,
        progress: &dyn Progress,
    ) -> Result<Model> {
        let macs = result::macs(model, &find(model, &Filter::default())?, sample.to_vec())?;
        let untrained = Evaluator::new(model)?;
        let start = search::score(&untrained, &self.checks, &self.scorer, progress)?.mean_loss();
        let recipe = self.recipe(macs.map_or(self.macs, |m| m as f64), self.left(share), start);
        let decay = self.options.decay;
        let aim = |parameters: &[Parameter]| -> Result<Aim<'_>> {
            let products = Products::of(model, parameters)?;
            let penalty = move |parameters: &[Parameter], slopes: &mut [Vec<f32>], _| {
                Ok(products.decay(parameters, slopes, decay))
            };
            let judged = |parameters: &[Parameter]| Ok(parameters.to_vec());
            Ok(Aim { penalty: Box::new(penalty), judged: Box::new(judged), grids: None })
        };
        let trained = self.train("tune", model, recipe, aim, stages, progress)?;
        if let Some(stage) = stages.last_mut() {
            stage.entry.ratio = ratio;
        }
        Ok(trained.model)
    }

    /// What was done.
    pub fn report(&self, stages: Vec<Stage>) -> Training {
        let images = [(self.augmentation.flip, "flips"), (self.augmentation.shift > 0, "shifts")];
        let images: Vec<&str> =
            images.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        let mut obstacles: Vec<String> = stages
            .iter()
            .flat_map(|stage| &stage.obstacles)
            .map(|o| format!("node `{}` ({}): `{}`", o.node, o.op_type, o.parameters.join("`, `")))
            .collect();
        obstacles.dedup();
        Training {
            source: self.data.name(),
            samples: self.samples.len(),
            augmentation: images.join(", "),
            stages: stages.into_iter().map(|stage| stage.entry).collect(),
            obstacles,
        }
    }
}

/// The states that a training was judged by.
fn checks(history: &History) -> Vec<TrainingCheck> {
    let losses = std::iter::once(None).chain(history.losses.iter().copied().map(Some));
    let scored = history.at.iter().zip(&history.scores).zip(losses);
    let check = |((&step, score), loss): ((_, &crate::tune::Judgement), _)| TrainingCheck {
        step,
        loss,
        held: score.held,
        fitted: score.fitted,
    };
    scored.map(check).collect()
}
