//! The training loop.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use serde::{Deserialize, Serialize};

use super::{Judgement, Method, Optimizer, Parameter, Schedule, clip};
use crate::elements::Elements;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Parts of a batch whose gradients are summed apart and then added in order, so that sums don't
/// depend on the number of threads.
const LANES: usize = 8;

/// Share of the time of a training that time ends which checks may take, but for the least number of them.
const CHECK_SHARE: f64 = 0.1;

/// Checks of a training that time ends, at least.
const LEAST_CHECKS: f64 = 4.0;

/// Times that a training goes back to its best state and on at a lower rate before it gives up.
const RETRIES: usize = 4;

/// What the rate is multiplied by where numbers were not finite, and where steps were too large.
const LOWERED: (f64, f64) = (0.5, 0.3);

/// What the loss above the original's may become, as a multiple of what it was before any step: more tells of
/// steps that are too large, not of their noise.
const RISEN: f64 = 2.0;

/// Loss above the original's that is noise all the same.
const LEAST_RISE: f64 = 0.05;

/// Share of a training after which that is looked for: at first, where warm-up has just ended, and whenever
/// the rate was lowered.
const TELLING: f64 = 0.08;

/// Why a training goes back to its best state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setback {
    /// Numbers were not finite.
    Infinite,
    /// The loss rose far above what it was before any step.
    Risen,
}

/// How a training is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Passes over the samples.
    pub epochs: f64,
    /// Samples per step.
    pub batch: usize,
    /// The rate over the training.
    pub schedule: Schedule,
    /// How gradients become steps.
    pub method: Method,
    /// Weight decay per unit of rate.
    pub decay: f64,
    /// The largest norm of a step's gradient, a mean over samples.
    pub clip: f64,
    /// How many times the state is scored, at most; fewer where time ends the training soon.
    pub checks: usize,
    /// Checks without a better score after which training ends.
    pub patience: usize,
    /// Time after which training ends; the schedule is bent to end then. Runs that hit it are no
    /// longer repeatable.
    pub time: Option<Duration>,
    /// Seed of the order of samples and of what is done to them.
    pub seed: u64,
}

impl Default for Recipe {
    /// One pass of Adam, with a rate for weights that know nothing yet.
    fn default() -> Self {
        Self {
            epochs: 1.0,
            batch: 64,
            schedule: Schedule { peak: 2e-3, warm_up: 0.05, end: 0.01 },
            method: Method::ADAM,
            decay: 0.0,
            clip: 5.0,
            checks: 8,
            patience: 8,
            time: None,
            seed: 0,
        }
    }
}

/// The loss summed over samples, and its gradient with respect to every parameter.
pub type Slopes = (f64, Vec<Vec<f32>>);

/// What a training descends.
pub struct Descent<'a> {
    /// Loss and gradient of the parameters for each of several sets of samples; the seed decides what
    /// is done to them.
    pub slopes: &'a (dyn Fn(&[Parameter], &[&[usize]], u64) -> Result<Vec<Slopes>> + Sync),
    /// Called once for every step, with the number of steps since the last check: adds to the
    /// gradient of the mean loss what doesn't depend on samples, and returns that term of the loss.
    /// At zero it must not build on what it has seen before, so that training can go on from there.
    pub regularize: &'a mut Penalty<'a>,
    /// What a state loses.
    pub score: &'a mut (dyn FnMut(&[Parameter]) -> Result<Judgement> + Send),
    /// What the original loses on the samples trained on: see [`Judgement::overfits`].
    pub known: Option<f64>,
    /// Called after every check with a state that training can go on from.
    pub keep: &'a mut (dyn FnMut(&State) -> Result<()> + Send),
}

/// A term of the loss that depends on the parameters alone, as [`Descent`] wants it.
pub type Penalty<'a> = dyn FnMut(&[Parameter], &mut [Vec<f32>], usize) -> Result<f64> + Send + 'a;

/// Where a training is, right after a check: all that what follows depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Values of the parameters.
    pub values: Vec<Elements>,
    /// Values that are best, as far as is known.
    pub best: Vec<Elements>,
    /// The state that is best by held samples alone, and its values.
    held: (Judgement, Vec<Elements>),
    /// Whether only held samples count: some state has overfitted.
    overfitted: bool,
    optimizer: Optimizer,
    /// What the schedule's rates are multiplied by.
    share: f64,
    /// Checks since the best one.
    idle: usize,
    /// Seconds spent.
    seconds: f64,
    /// Seconds that the first check took.
    #[serde(default)]
    check_seconds: f64,
    /// Whether a state has been scored that steps at this rate led to.
    #[serde(default)]
    tried: bool,
    /// The part of the training that was done at the last check.
    #[serde(default)]
    done: f64,
    /// What was done so far.
    pub history: History,
}

impl State {
    /// Takes notice of a state that was scored; whether it is the best one so far.
    fn judge(&mut self, score: &Judgement, parameters: &[Parameter], known: Option<f64>) -> bool {
        if score.held_only().beats(&self.held.0.held_only()) {
            self.held = (*score, values(parameters));
        }
        if !self.overfitted && score.overfits(known) {
            // What both kinds of samples spoke for may have been learnt by heart too.
            self.overfitted = true;
            self.history.best = Some(self.held.0);
            self.best.clone_from(&self.held.1);
            return self.held.0 == *score;
        }
        let view = |state: &Judgement| if self.overfitted { state.held_only() } else { *state };
        if self.history.best.is_some_and(|best| !view(score).beats(&view(&best))) {
            return false;
        }
        self.history.best = Some(*score);
        self.best = values(parameters);
        true
    }
}

/// What a training did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Steps made.
    pub steps: usize,
    /// Samples trained on, repetitions included.
    pub samples: usize,
    /// Mean training loss between checks.
    pub losses: Vec<f64>,
    /// Losses of states, the first one before any step.
    pub scores: Vec<Judgement>,
    /// Steps made when each of them was scored.
    #[serde(default)]
    pub at: Vec<usize>,
    /// That of the state which is kept.
    pub best: Option<Judgement>,
    /// Times that training went back, after numbers that were not finite or a loss that rose.
    pub setbacks: usize,
}

/// Trains `parameters` on `samples` and leaves them in the best state that was scored; goes on from
/// `state` where there is one, which must be of the same parameters, samples and recipe.
///
/// The same parameters, samples and recipe give the same bits on any number of threads, and however
/// often it was interrupted in between, unless time ends the training.
///
/// # Errors
/// When a function of `descent` fails, the run is interrupted, numbers stay infinite at lower rates,
/// or the state is of other parameters.
pub fn descend(
    parameters: &mut [Parameter],
    samples: &[usize],
    recipe: &Recipe,
    descent: &mut Descent<'_>,
    state: Option<State>,
    progress: &dyn Progress,
) -> Result<History> {
    let begin = Instant::now();
    let batch = recipe.batch.clamp(1, samples.len().max(1));
    let total = ((recipe.epochs * samples.len() as f64) / batch as f64).round() as usize;
    let interval = total.div_ceil(recipe.checks.max(1)).max(1);
    let mut state = match state {
        Some(state) => state,
        None => {
            let clock = Instant::now();
            let first = (descent.score)(parameters)?;
            let check_seconds = clock.elapsed().as_secs_f64();
            let values = values(parameters);
            let (scores, best) = (vec![first], Some(first));
            let history = History { scores, at: vec![0], best, ..History::default() };
            State {
                best: values.clone(),
                held: (first, values.clone()),
                overfitted: first.overfits(descent.known),
                values,
                optimizer: Optimizer::new(recipe.method),
                share: 1.0,
                idle: 0,
                seconds: 0.0,
                check_seconds,
                tried: false,
                done: 0.0,
                history,
            }
        }
    };
    set(parameters, &state.values)?;
    let mut order = Order::new(samples, recipe.seed);
    let mut step = state.history.steps;
    (0..step).for_each(|_| drop(order.next(batch)));
    let (mut sum, mut since) = (0.0, 0usize);
    // A state may have been kept right when training gave up.
    let mut ended = samples.is_empty() || total == 0 || state.history.setbacks > RETRIES;
    // Where time ends the training, checks are spread over time: steps say little then.
    let slots = recipe.time.map_or(0.0, |time| {
        let most = CHECK_SHARE * time.as_secs_f64() / state.check_seconds.max(1e-9);
        most.clamp(LEAST_CHECKS, (recipe.checks as f64).max(LEAST_CHECKS))
    });
    let slot = |spent: f64| (spent * slots) as usize;
    let mut checked = None;
    while !ended && state.idle < recipe.patience.max(1) {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        let seconds = state.seconds + begin.elapsed().as_secs_f64();
        let spent = recipe.time.map_or(0.0, |time| seconds / time.as_secs_f64());
        let done = (step as f64 / total as f64).max(spent);
        ended = done >= 1.0;
        let mut setback = None;
        if !ended {
            let picked = order.next(batch);
            let seed = recipe.seed ^ (step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (loss, mut gradients) = summed(descent.slopes, parameters, &picked, seed)?;
            let scale = 1.0 / picked.len() as f32;
            gradients.iter_mut().flatten().for_each(|v| *v *= scale);
            let extra = (descent.regularize)(parameters, &mut gradients, since)?;
            let loss = loss / picked.len() as f64 + extra;
            let norm = clip(&mut gradients, recipe.clip);
            step += 1;
            state.history.samples += picked.len();
            if loss.is_finite() && norm.is_finite() {
                let rate = state.share * recipe.schedule.rate(done);
                state.optimizer.step(parameters, &gradients, rate, recipe.decay);
                sum += loss;
                since += 1;
            } else {
                setback = Some(Setback::Infinite);
            }
        }
        let timely = recipe.time.is_some() && checked.is_some_and(|last| slot(spent) > last);
        checked = checked.filter(|_| !timely).or_else(|| Some(slot(spent)));
        let telling = !state.tried && since > 0 && done - state.done >= TELLING;
        let due = ended || setback.is_some() || telling || timely || step.is_multiple_of(interval);
        if !due {
            if step.is_multiple_of(8) {
                let rate = state.share * recipe.schedule.rate(done);
                progress.step(step as u64, &format!("rate {rate:.1e}"));
            }
            continue;
        }
        if since > 0 && setback.is_none() {
            let score = (descent.score)(parameters)?;
            let loss = sum / since as f64;
            state.history.losses.push(loss);
            state.history.scores.push(score);
            state.history.at.push(step);
            let held = score.held;
            progress.step(step as u64, &format!("loss {loss:.4}, score {held:.4}"));
            let fitted = score
                .fitted
                .map_or_else(String::new, |fitted| format!(", on those trained on {fitted:.5}"));
            log::info!(target: "tune",
                "step {step} of {total}: loss {loss:.4}, on samples held back {held:.5}{fitted}");
            state.tried = true;
            if !score.is_finite() {
                setback = Some(Setback::Infinite);
            } else if !ended {
                let first = state.history.scores[0].excess(descent.known);
                let risen = risen(score.excess(descent.known), first);
                setback = risen.then_some(Setback::Risen);
            }
            if state.judge(&score, parameters, descent.known) {
                state.idle = 0;
            } else {
                state.idle += 1;
            }
        }
        if let Some(setback) = setback {
            state.history.setbacks += 1;
            let last = state.history.setbacks > RETRIES;
            if last && setback == Setback::Infinite {
                return Err(Error::Training {
                    reason: "losses stay infinite even at lower rates".to_owned(),
                });
            }
            let (why, lowered) = match setback {
                Setback::Infinite => ("the loss is not finite", LOWERED.0),
                Setback::Risen => ("the loss rises", LOWERED.1),
            };
            let how =
                if last { "that is kept".to_owned() } else { format!("at {lowered} of the rate") };
            progress.warn(&format!("{why}: back to the best state, {how}"));
            set(parameters, &state.best)?;
            state.optimizer = Optimizer::new(recipe.method);
            state.share *= lowered;
            state.tried = false;
            ended |= last;
        }
        (sum, since) = (0.0, 0);
        state.done = done;
        state.history.steps = step;
        state.values = values(parameters);
        let seconds = state.seconds;
        state.seconds = seconds + begin.elapsed().as_secs_f64();
        (descent.keep)(&state)?;
        state.seconds = seconds;
    }
    set(parameters, &state.best)?;
    Ok(state.history)
}

/// Whether a loss above the original's has become too large for what it was.
fn risen(loss: f64, first: f64) -> bool {
    loss > (RISEN * first).max(first + LEAST_RISE)
}

fn values(parameters: &[Parameter]) -> Vec<Elements> {
    parameters.iter().map(|p| Elements(p.values.clone())).collect()
}

fn set(parameters: &mut [Parameter], values: &[Elements]) -> Result<()> {
    let fits = parameters.len() == values.len()
        && parameters.iter().zip(values).all(|(p, v)| p.values.len() == v.0.len());
    if !fits {
        return Err(Error::Training { reason: "the state is of other parameters".to_owned() });
    }
    parameters.iter_mut().zip(values).for_each(|(p, v)| p.values.clone_from(&v.0));
    Ok(())
}

/// Sums over the lanes of a batch, in order.
fn summed(
    slopes: &(dyn Fn(&[Parameter], &[&[usize]], u64) -> Result<Vec<Slopes>> + Sync),
    parameters: &[Parameter],
    picked: &[usize],
    seed: u64,
) -> Result<Slopes> {
    let lanes: Vec<&[usize]> = picked.chunks(picked.len().div_ceil(LANES)).collect();
    let parts = slopes(parameters, &lanes, seed)?;
    let mut parts = parts.into_iter();
    let (mut loss, mut total) = parts.next().unwrap_or_default();
    for (more, gradients) in parts {
        loss += more;
        for (total, gradient) in total.iter_mut().zip(&gradients) {
            total.iter_mut().zip(gradient).for_each(|(t, g)| *t += g);
        }
    }
    Ok((loss, total))
}

/// Samples in an endless order: every pass is a new shuffle.
struct Order {
    pass: Vec<usize>,
    at: usize,
    random: ChaCha8Rng,
}

impl Order {
    fn new(samples: &[usize], seed: u64) -> Self {
        Self { pass: samples.to_vec(), at: samples.len(), random: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn next(&mut self, count: usize) -> Vec<usize> {
        if self.at + count > self.pass.len() {
            self.pass.shuffle(&mut self.random);
            self.at = 0;
        }
        self.at += count;
        self.pass[self.at - count..self.at].to_vec()
    }
}
