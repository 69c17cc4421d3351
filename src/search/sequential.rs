//! The compressed network for an allocation, refitted layer by layer.

use std::sync::Arc;

use rayon::prelude::*;

use super::network::{Network, Site, Statistics, by_name, lanes};
use super::options::rounded;
use super::samples::Samples;
use super::snapshots::Snapshots;
use super::{Allocation, Effort, LayerOptions};
use crate::error::{Error, Result};
use crate::eval::moments::{Moments, Sums};
use crate::eval::{Evaluator, State};
use crate::factorize::{Choice, Factors, Fit, curves, replace};
use crate::graph::NameAllocator;
use crate::layer::{Batch, LinearMap, Positions, Rows};
use crate::progress::go_on;
use crate::quantize::Storage;
use crate::tensor::Tensor;

/// Bytes that the states of all calibration runs may take together.
const LIVE_BYTES: usize = 512 << 20;

/// Bytes of fits that a compressed network holds.
const FIT_BYTES: usize = 48 << 20;

/// What a layer becomes in a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Scheme and ranks; `None` is dense.
    pub choice: Option<Choice>,
    /// What its weights are rounded to, where that is so coarse that it has to be seen.
    pub rounded: Option<Storage>,
}

impl Taken {
    /// Whether the layer stays as it is.
    fn is_original(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Option<Choice>> for Taken {
    fn from(choice: Option<Choice>) -> Self {
        Self { choice, rounded: None }
    }
}

/// A compressed network.
#[derive(Clone)]
pub struct Compressed {
    /// What every layer became.
    pub taken: Vec<Taken>,
    /// New weights of every layer; `None` where the original's stay.
    pub factors: Vec<Option<Factors>>,
    /// What the layers were fitted to, where they were and as far as memory goes.
    fits: Vec<Option<Arc<Vec<Fit>>>>,
    /// Runs it.
    pub evaluator: Evaluator,
}

impl Compressed {
    /// Bytes of the fits held for the layers before `first`.
    fn fit_bytes(&self, first: usize) -> usize {
        let fits = self.fits[..first].iter().flatten().flat_map(|fits| fits.iter());
        fits.map(Fit::byte_len).sum()
    }
}

impl Network<'_> {
    /// The original as a compressed network: every layer dense and untouched.
    #[must_use]
    pub fn dense(&self) -> Compressed {
        Compressed {
            taken: vec![Taken::default(); self.layers.len()],
            factors: vec![None; self.layers.len()],
            fits: vec![None; self.layers.len()],
            evaluator: self.evaluator.clone(),
        }
    }

    /// The choices of an allocation.
    #[must_use]
    pub fn choices(options: &[LayerOptions], allocation: &Allocation) -> Vec<Option<Choice>> {
        options.iter().zip(allocation).map(|(layer, &o)| layer.options[o].choice).collect()
    }

    /// What the layers become in an allocation.
    #[must_use]
    pub fn taken(options: &[LayerOptions], allocation: &Allocation) -> Vec<Taken> {
        let one = |(layer, &o): (&LayerOptions, &usize)| Taken {
            choice: layer.options[o].choice,
            rounded: layer.options[o].storage.filter(|storage| storage.is_coarse()),
        };
        options.iter().zip(allocation).map(one).collect()
    }

    /// How the layers' weights are stored in an allocation.
    #[must_use]
    pub fn storages(options: &[LayerOptions], allocation: &Allocation) -> Vec<Option<Storage>> {
        options.iter().zip(allocation).map(|(layer, &o)| layer.options[o].storage).collect()
    }

    /// The compressed network for `taken`. What it shares with `base` up to the first layer that
    /// differs is taken over; `snapshots` are of `base`'s calibration runs.
    ///
    /// # Errors
    /// When the network can't be run, a fit fails, or the run is interrupted.
    pub fn compress(
        &self,
        taken: &[Taken],
        base: &Compressed,
        snapshots: &mut Snapshots,
        effort: &mut Effort,
    ) -> Result<Compressed> {
        let differs = |l: usize| taken[l] != base.taken[l];
        let Some(first) = (0..self.layers.len()).find(|&l| differs(l)) else {
            return Ok(base.clone());
        };
        let mut network = base.clone();
        network.taken = taken.to_vec();
        let calibration = match (&self.calibration, self.options.statistics) {
            (Some(samples), Statistics::Sequential | Statistics::Loss) => samples,
            _ => {
                for l in first..self.layers.len() {
                    go_on(self.progress)?;
                    let factors = match taken[l] {
                        one if one.is_original() => None,
                        one => Some(self.factors(l, one.choice, &self.own_fits(l))?),
                    };
                    self.install(&mut network, l, factors)?;
                }
                return Ok(network);
            }
        };
        let mut states = match snapshots.all_before(first, calibration.runs()) {
            Some(states) => states,
            None => self.starts(calibration)?,
        };
        let mut room = FIT_BYTES.saturating_sub(network.fit_bytes(first));
        let changed_before = network.factors[..first].iter().any(Option::is_some);
        let mut changed = changed_before;
        for l in first..self.layers.len() {
            go_on(self.progress)?;
            effort.layer_passes += calibration.len() as u64;
            network.fits[l] = None;
            // What a table yields has nothing to make up for.
            let table = self.layers[l].map.as_ref().is_some_and(LinearMap::is_table);
            if taken[l].is_original() && (!changed || table) {
                self.install(&mut network, l, None)?;
                continue;
            }
            changed = true;
            let moments = self.moments_before(l, &network.evaluator, calibration, &mut states)?;
            // Of use only if all of them are held.
            if l == first && states.iter().map(State::byte_len).sum::<usize>() <= snapshots.room() {
                for (run, state) in states.iter().enumerate() {
                    snapshots.keep(first, run, state.clone());
                }
            }
            let fits = self.fits(l, &moments);
            let factors = self.factors(l, taken[l].choice, &fits)?;
            self.install(&mut network, l, Some(factors))?;
            let bytes: usize = fits.iter().map(Fit::byte_len).sum();
            if bytes <= room {
                room -= bytes;
                network.fits[l] = Some(Arc::new(fits));
            }
        }
        Ok(network)
    }

    /// The forms of `options` with the errors that they have on the inputs that their layers see in
    /// `base`, errors of the layers before them included. A layer whose fits aren't held keeps the
    /// errors it has.
    ///
    /// # Errors
    /// When a decomposition fails.
    pub fn revised(
        &self,
        options: &[LayerOptions],
        base: &Compressed,
    ) -> Result<Vec<LayerOptions>> {
        options
            .par_iter()
            .enumerate()
            .map(|(l, known)| {
                go_on(self.progress)?;
                let mut revised = known.clone();
                if let (Some(fits), Some(map)) = (&base.fits[l], &self.layers[l].map) {
                    revised.revise(map, fits)?;
                }
                Ok(revised)
            })
            .collect()
    }

    /// The original with one layer factorized by its own statistics, all others untouched.
    ///
    /// # Errors
    /// When a fit fails.
    pub fn alone(&self, l: usize, choice: Choice) -> Result<Compressed> {
        let mut network = self.dense();
        let factors = self.factors(l, Some(choice), &self.own_fits(l))?;
        self.install(&mut network, l, Some(factors))?;
        network.taken[l] = Some(choice).into();
        Ok(network)
    }

    /// The states of all runs before the first step.
    fn starts(&self, samples: &Samples) -> Result<Vec<State>> {
        (0..samples.runs())
            .map(|run| self.evaluator.start(samples.inputs(run, &self.evaluator)?))
            .collect()
    }

    /// Runs everything up to layer `l` and takes the moments of what it sees there against its
    /// targets, from which what will be added to its output is subtracted: so a layer makes up for
    /// the errors of the branch it is added to (He, Zhang and Sun 2017, section 3.3).
    ///
    /// A layer of several nodes has one weight for all of them: what the later ones see is taken with
    /// the layer and those after it as they are in the original.
    ///
    /// `states` move on to that layer where they fit into memory there; else they stay, and what
    /// lies between is run again for the next layer.
    fn moments_before(
        &self,
        l: usize,
        evaluator: &Evaluator,
        samples: &Samples,
        states: &mut [State],
    ) -> Result<Vec<Moments>> {
        let positions = self.positions(l, samples.len());
        let ahead = if self.sites[l].len() > 1 { Some(self.ahead(l, evaluator)) } else { None };
        let mut rest = states;
        let mut parts = Vec::new();
        for lane in lanes(samples.runs()) {
            let (part, after) = rest.split_at_mut(lane.len());
            parts.push((lane, part));
            rest = after;
        }
        let sums: Vec<Vec<Sums>> = parts
            .into_par_iter()
            .map(|(runs, states)| {
                let mut sums = self.sums(l);
                for (run, kept) in runs.zip(states) {
                    go_on(self.progress)?;
                    let mut state = kept.clone();
                    for (at, site) in self.sites[l].iter().enumerate() {
                        let evaluator = ahead.as_ref().unwrap_or(evaluator);
                        evaluator.advance(&mut state, site.step)?;
                        let batch = samples.looked_at(run);
                        let seen = self.seen(l, at, evaluator, &state, &batch, &positions)?;
                        let (x, mut t) = (seen.0, self.targets.get(l, run, at)?);
                        if let Some(added) = seen.1 {
                            subtract(&mut t, &added);
                        }
                        for (sums, (x, t)) in sums.iter_mut().zip(x.groups.iter().zip(&t.groups)) {
                            sums.add(x, t).map_err(|source| self.fault(l, source))?;
                        }
                        if at == 0 && state.byte_len() <= LIVE_BYTES / samples.runs().max(1) {
                            *kept = state.clone();
                        }
                    }
                }
                Ok(sums)
            })
            .collect::<Result<_>>()?;
        let mut total = self.sums(l);
        for sums in &sums {
            for (total, sums) in total.iter_mut().zip(sums) {
                total.merge(sums).map_err(|source| self.fault(l, source))?;
            }
        }
        self.moments_of(l, total)
    }

    /// What the `at`-th node of a layer sees before it runs, and what will be added to what it yields.
    fn seen(
        &self,
        l: usize,
        at: usize,
        evaluator: &Evaluator,
        state: &State,
        batch: &Batch<'_>,
        positions: &Positions,
    ) -> Result<(Rows, Option<Rows>)> {
        let Site { step, map, .. } = &self.sites[l][at];
        let rows =
            |tensor: &Tensor, input: bool| self.rows(l, map, tensor, batch, positions, input);
        let x = evaluator.step_input(state, *step, map.data_input()).ok_or_else(|| self.lost(l))?;
        let added = evaluator.step_residual(state, *step);
        Ok((rows(&x, true)?, added.map(|added| rows(&added, false)).transpose()?))
    }

    /// An evaluator whose layers are the original's from `l` on.
    fn ahead(&self, l: usize, evaluator: &Evaluator) -> Evaluator {
        let mut ahead = evaluator.clone();
        for site in self.sites[l..].iter().flatten() {
            ahead.restore(site.step, &self.evaluator);
        }
        ahead
    }

    /// The fits of a layer's groups to its targets on the inputs it will see.
    fn fits(&self, l: usize, moments: &[Moments]) -> Vec<Fit> {
        let takes_bias = self.layers[l].map.as_ref().is_some_and(|m| m.takes_bias());
        let fits = self.weights[l]
            .groups
            .iter()
            .zip(moments)
            .map(|(w, m)| {
                if takes_bias {
                    Fit::of_targets(w, m, self.ridge(m))
                } else {
                    // What is added to the product is not known here: its own output is the target.
                    Fit::of_inputs(w, m, false, self.ridge(m))
                }
            })
            .collect();
        self.in_metric(l, fits)
    }

    fn factors(&self, l: usize, choice: Option<Choice>, fits: &[Fit]) -> Result<Factors> {
        let map = self.layers[l].map.as_ref().ok_or_else(|| self.lost(l))?;
        let bias = &self.weights[l].bias;
        let Some(choice) = choice else {
            let share = bias.len() / fits.len().max(1);
            let mut factors = Factors { choice: None, groups: Vec::new(), bias: Vec::new() };
            for (g, fit) in fits.iter().enumerate() {
                let dense = fit.dense()?;
                factors.bias.extend(fit.bias(&dense, &bias[g * share..(g + 1) * share]));
                factors.groups.push(vec![dense]);
            }
            return Ok(factors);
        };
        let curves = curves(map, fits, &[choice.scheme])?;
        let curve = curves.first().ok_or_else(|| Error::Plan {
            reason: format!("`{}` has no scheme {}", self.layers[l].name, choice.scheme),
        })?;
        curve.factors(choice, fits, bias)
    }

    fn install(&self, network: &mut Compressed, l: usize, factors: Option<Factors>) -> Result<()> {
        let Some(made) = &factors else {
            for site in &self.sites[l] {
                network.evaluator.restore(site.step, &self.evaluator);
            }
            network.factors[l] = None;
            return Ok(());
        };
        let nodes = &self.model.graph().node;
        let mut names = NameAllocator::default();
        for (node, _) in self.layers[l].uses() {
            for name in nodes[node].input.iter().chain(&nodes[node].output) {
                names.fresh(name);
            }
        }
        let rounded = network.taken[l].rounded.map(|storage| rounded(made, storage, self.price));
        let seen = rounded.as_ref().unwrap_or(made);
        let replacements = replace(&self.layers[l], nodes, seen, &mut names)?;
        let constants: Vec<_> = replacements.iter().flat_map(|r| r.constants.clone()).collect();
        let constants = by_name(&constants);
        for ((node, _), replacement) in self.layers[l].uses().zip(&replacements) {
            let site = self.sites[l].iter().find(|site| site.node == node);
            let Some(Site { step, .. }) = site else { continue };
            let opsets = &self.model.proto.opset_import;
            network.evaluator.replace(
                *step,
                &replacement.nodes,
                &constants,
                &nodes[node],
                opsets,
            )?;
        }
        network.factors[l] = factors;
        Ok(())
    }
}

fn subtract(t: &mut Rows, added: &Rows) {
    for (t, added) in t.groups.iter_mut().zip(&added.groups) {
        t.iter_mut().zip(added).for_each(|(t, a)| *t -= a);
    }
}
