//! Recorded runs within a bound of memory: of fewer samples at a time, and with stretches of steps that
//! are run again on the way back instead of being kept (Chen et al. 2016).

use std::collections::BTreeMap;

use super::{Prepared, Recorder, Tape};
use crate::error::Result;
use crate::tensor::Tensor;

/// Runs that are to be possible at the same time, where the bound allows; a constant, so that sums
/// don't depend on the number of threads.
const AT_ONCE: [usize; 4] = [8, 4, 2, 1];

/// Samples that a run has, where the bound allows, rather than more runs at the same time.
const FEW: usize = 4;

/// Stretches that a run is cut into at most.
const STRETCHES: usize = 64;

/// How runs stay within a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Samples per run.
    pub samples: usize,
    /// Stretches of steps; all but the last are run twice. One where nothing is run again.
    pub stretches: usize,
    /// Bytes that one run holds at most.
    pub bytes: usize,
    /// Runs that may go on at the same time.
    pub at_once: usize,
}

impl Recorder {
    /// Makes recorded runs hold at most `bytes` of values, all runs at the same time together: runs of
    /// fewer samples where that is enough, otherwise runs of one sample of which stretches are run
    /// again. `inputs` gives those of a run of so many samples. Gradients are the same but for the
    /// rounding of sums.
    ///
    /// The bound is for the values that wait for the way back, counted once for every step that reads
    /// them, and the gradients of the largest one; weights and their gradients come on top. `Err` has the
    /// least bytes that are possible, where that is more.
    ///
    /// # Errors
    /// As [`super::Evaluator::run`].
    pub fn bind(
        &mut self,
        inputs: &dyn Fn(usize) -> Result<Vec<Tensor>>,
        prepared: &Prepared,
        bytes: usize,
    ) -> Result<std::result::Result<Bound, usize>> {
        (self.run, self.stops) = (None, Vec::new());
        let usual = self.batch_size(&inputs(1)?).max(1);
        let fixed = self.evaluator().batches().fixed;
        // Held bytes by the number of samples: runs are few, but not for nothing.
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        let mut samples = usual;
        loop {
            let held = self.record_prepared(inputs(samples)?, prepared)?.most()?;
            sizes.insert(samples, held);
            if held * AT_ONCE[0] <= bytes || samples == 1 || fixed.is_some() {
                break;
            }
            samples = samples.div_ceil(2);
        }
        let enough = usual.min(FEW);
        for (least, at_once) in
            AT_ONCE.map(|n| (enough, n)).into_iter().chain(AT_ONCE.map(|n| (1, n)))
        {
            let fits = |(samples, held): &(&usize, &usize)| {
                **samples >= least && **held * at_once <= bytes
            };
            if let Some((&samples, &held)) = sizes.iter().rev().find(fits) {
                self.run = Some(samples);
                let at_once = bytes / held.max(1);
                return Ok(Ok(Bound { samples, stretches: 1, bytes: held, at_once }));
            }
        }
        self.run = Some(samples);
        let mut least = sizes.get(&samples).copied().unwrap_or(usize::MAX);
        let one = inputs(samples)?;
        let steps = self.record_prepared(one.clone(), prepared)?.sizes();
        for stretches in 2..=STRETCHES.min(steps.len()) {
            self.stops = stops(&steps, stretches);
            let held = self.record_prepared(one.clone(), prepared)?.most()?;
            least = least.min(held);
            if held <= bytes {
                let at_once = bytes / held.max(1);
                return Ok(Ok(Bound { samples, stretches, bytes: held, at_once }));
            }
        }
        (self.run, self.stops) = (None, Vec::new());
        Ok(Err(least))
    }
}

impl Tape<'_> {
    /// Every recorded step with the bytes that it keeps.
    fn sizes(&self) -> Vec<(usize, usize)> {
        self.entries.iter().map(|entry| (entry.step, entry.bytes().sum())).collect()
    }

    /// The most bytes that are held at a time on the way back, gradients of the largest value
    /// included.
    fn most(mut self) -> Result<usize> {
        let mut most = 0;
        loop {
            // A value that waits in several places is one; parameters are there anyway.
            let mut held: BTreeMap<usize, usize> = BTreeMap::new();
            for (_, state) in &self.held {
                held.extend(state.values.iter().map(|(&id, value)| (id, value.byte_len())));
            }
            for parameter in &self.recorder.parameters {
                held.remove(&parameter.id);
            }
            let held: usize = held.values().sum();
            let largest = self.entries.iter().flat_map(|entry| entry.bytes()).max().unwrap_or(0);
            most = most.max(held + self.byte_len() + 2 * largest);
            if !self.recall()? {
                return Ok(most);
            }
        }
    }
}

/// Steps that cut a run into stretches which keep about as much each.
fn stops(steps: &[(usize, usize)], stretches: usize) -> Vec<usize> {
    let total: usize = steps.iter().map(|(_, bytes)| bytes).sum();
    let mut stops: Vec<usize> = Vec::with_capacity(stretches);
    let mut sum = 0;
    for &(step, bytes) in steps {
        let next = (stops.len() + 1) * total / stretches;
        if sum >= next && stops.len() + 1 < stretches && step > 0 {
            stops.push(step);
        }
        sum += bytes;
    }
    stops
}
