//! What the layers see and yield in the original, on calibration samples.

use rayon::prelude::*;

use super::network::{Network, Site, lanes};
use super::samples::Samples;
use super::targets::{Kept, Targets};
use crate::error::{Error, Result};
use crate::eval::Evaluator;
use crate::eval::moments::Sums;
use crate::graph::Links;
use crate::layer::{Positions, Rows};
use crate::progress::go_on;

impl Network<'_> {
    /// Runs the original on `samples` and keeps the layers' targets and moments.
    ///
    /// # Errors
    /// When the model can't be run, or the run is interrupted.
    pub fn calibrate(&mut self, samples: Samples) -> Result<()> {
        let names = self.observed();
        let observed: Vec<&str> =
            names.iter().flatten().flat_map(|(x, t)| [x.as_str(), t.as_str()]).collect();
        let original = Evaluator::observing(self.model, &observed)?;
        let id = |name: &str| {
            original.value(name).ok_or_else(|| Error::InvalidModel {
                reason: format!("value `{name}` is constant"),
            })
        };
        let pairs = |names: &Vec<(String, String)>| {
            names.iter().map(|(x, t)| Ok((id(x)?, id(t)?))).collect::<Result<_>>()
        };
        let ids: Vec<Vec<(usize, usize)>> = names.iter().map(pairs).collect::<Result<_>>()?;
        let positions: Vec<Positions> =
            (0..self.layers.len()).map(|l| self.positions(l, samples.len())).collect();
        let bytes =
            positions.iter().zip(&self.layers).zip(&self.extents).map(|((at, layer), extent)| {
                let rows = samples.len() * at.per_sample.min(extent.output as usize);
                let map = layer.map.as_ref().filter(|map| !map.is_table());
                let row = map.map_or(0, |map| map.rows * map.groups);
                rows * row * size_of::<f32>()
            });
        let mut kept = Targets::new(self.layers.len(), bytes.sum());
        let lanes: Vec<(Vec<Vec<Sums>>, Vec<Vec<Vec<Kept>>>)> = lanes(samples.runs())
            .into_par_iter()
            .map(|runs| {
                let mut sums: Vec<Vec<Sums>> =
                    (0..self.layers.len()).map(|l| self.sums(l)).collect();
                let mut targets: Vec<Vec<Vec<Kept>>> =
                    (0..self.layers.len()).map(|_| Vec::new()).collect();
                for run in runs {
                    go_on(self.progress)?;
                    let mut state = original.start(samples.inputs(run, &original)?)?;
                    original.advance(&mut state, usize::MAX)?;
                    let batch = samples.looked_at(run);
                    for (l, ids) in ids.iter().enumerate() {
                        let get = |id: usize| original.get(&state, id).ok_or_else(|| self.lost(l));
                        let at = &positions[l];
                        let mut yielded = Vec::with_capacity(ids.len());
                        for ((x, t), site) in ids.iter().zip(&self.sites[l]) {
                            let x = self.rows(l, &site.map, &get(*x)?, &batch, at, true)?;
                            // What a table yields follows from the places.
                            let t = if site.map.is_table() {
                                Rows { groups: vec![Vec::new()] }
                            } else {
                                self.rows(l, &site.map, &get(*t)?, &batch, at, false)?
                            };
                            let groups = x.groups.iter().zip(&t.groups);
                            for (sums, (x, t)) in sums[l].iter_mut().zip(groups) {
                                sums.add(x, t).map_err(|source| self.fault(l, source))?;
                            }
                            yielded.push(kept.keep(t));
                        }
                        targets[l].push(yielded);
                    }
                }
                Ok((sums, targets))
            })
            .collect::<Result<_>>()?;
        let mut totals: Vec<Vec<Sums>> = (0..self.layers.len()).map(|l| self.sums(l)).collect();
        for (sums, targets) in lanes {
            for (l, (sums, targets)) in sums.iter().zip(targets).enumerate() {
                for (total, sums) in totals[l].iter_mut().zip(sums) {
                    total.merge(sums).map_err(|source| self.fault(l, source))?;
                }
                kept.extend(l, targets);
            }
        }
        self.targets = kept;
        self.moments = totals
            .into_iter()
            .enumerate()
            .map(|(l, groups)| self.moments_of(l, groups))
            .collect::<Result<_>>()?;
        if self.moments.iter().zip(&self.layers).any(|(m, l)| {
            l.map.as_ref().is_some_and(|map| m.len() != map.groups)
                || m.iter().any(|m| {
                    !m.xx.mean_variance().is_finite() || m.tx.iter().any(|v| !v.is_finite())
                })
        }) {
            return Err(Error::DataMismatch {
                reason: "the model's values on this data are not finite".to_owned(),
            });
        }
        self.calibration = Some(samples);
        Ok(())
    }

    /// For every node of every layer the names of its input and of what it is to yield: its output, or
    /// the sum that its output is added to where the evaluator computes both together.
    pub(super) fn observed(&self) -> Vec<Vec<(String, String)>> {
        let graph = self.model.graph();
        let links = Links::new(graph);
        let names = |site: &Site| {
            let node = &graph.node[site.node];
            let x = node.input.get(site.map.data_input()).cloned().unwrap_or_default();
            let mut t = node.output.first().cloned().unwrap_or_default();
            if self.evaluator.residual_of(site.step)
                && let Some(add) = links.sole_consumer(&t)
                && let Some(sum) = graph.node[add.node].output.first()
            {
                t = sum.clone();
            }
            (x, t)
        };
        self.sites.iter().map(|sites| sites.iter().map(names).collect()).collect()
    }
}
