//! Many samples through tract.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::Session;
use crate::error::{Error, Result};
use crate::eval::{join, per_sample};
use crate::progress::Progress;
use crate::tensor::Tensor;

impl Session {
    /// Runs samples `0..n` and joins each output's results on axis 0. `batch` gives the inputs for
    /// the samples it is told.
    ///
    /// Samples run one by one over the current thread pool, as tract is slow on batches; a model
    /// that demands a batch size gets it, with the last sample repeated to fill the last batch.
    /// An output without an axis for the samples gets one.
    ///
    /// # Errors
    /// When `batch` or tract fails, when an output has several meanings for its samples, and
    /// [`Error::Interrupted`].
    pub fn run_samples(
        &self,
        batch: impl Fn(&[usize]) -> Result<Vec<Tensor>> + Sync,
        n: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<Tensor>> {
        let all: Vec<usize> = (0..n).collect();
        self.run_selected(batch, &all, &AtomicU64::new(0), progress)
    }

    /// [`Session::run_samples`] for the given samples; `done` counts on over several calls.
    ///
    /// # Errors
    /// As [`Session::run_samples`].
    pub fn run_selected(
        &self,
        batch: impl Fn(&[usize]) -> Result<Vec<Tensor>> + Sync,
        samples: &[usize],
        done: &AtomicU64,
        progress: &dyn Progress,
    ) -> Result<Vec<Tensor>> {
        let size = self.fixed_batch().unwrap_or(1).max(1);
        let runs: Vec<Vec<Tensor>> = samples
            .par_chunks(size)
            .map(|given| {
                if progress.interrupted() {
                    return Err(Error::Interrupted);
                }
                let mut rows = given.to_vec();
                if let (Some(_), Some(&last)) = (self.fixed_batch(), given.last()) {
                    rows.resize(size, last);
                }
                let outputs = self.run(&batch(&rows)?)?;
                let outputs: Vec<Tensor> = outputs
                    .iter()
                    .enumerate()
                    .map(|(i, output)| per_sample(output, given.len(), self.fixed_batch(), i))
                    .collect::<Result<_>>()?;
                let count = given.len() as u64;
                progress.step(done.fetch_add(count, Ordering::Relaxed) + count, "");
                Ok(outputs)
            })
            .collect::<Result<_>>()?;
        join(&runs)
    }
}
