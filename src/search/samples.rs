//! The samples that a search runs networks on.

use crate::dataset::Dataset;
use crate::error::Result;
use crate::eval::{Evaluator, part};
use crate::layer::Batch;
use crate::tensor::Tensor;
use crate::tokens::Tokens;

/// Samples in runs of a size the evaluator likes.
#[derive(Clone, Debug)]
pub struct Samples {
    data: Dataset,
    indices: Vec<usize>,
    size: usize,
    /// The runs' inputs, where all of them fit into memory.
    kept: Option<Vec<Vec<Tensor>>>,
    /// The positions of their sequences that count, where a mask leaves some out.
    tokens: Option<Tokens>,
}

/// Inputs of all runs are kept in memory up to this many bytes.
const KEPT_BYTES: usize = 256 << 20;

/// Samples whose inputs are read at once where only their masks are kept.
const READ: usize = 64;

impl Samples {
    /// The given samples of `data` for `evaluator`.
    ///
    /// # Errors
    /// When the data can't be read.
    pub fn new(data: &Dataset, indices: Vec<usize>, evaluator: &Evaluator) -> Result<Self> {
        let first = data.batch(indices.get(..1).unwrap_or(&[]))?;
        let size = evaluator.batch_size(&first);
        let bytes = first.iter().map(Tensor::byte_len).sum::<usize>() * indices.len();
        let tokens = tokens(data, &indices, evaluator.batches().mask())?;
        let mut samples = Self { data: data.clone(), indices, size, kept: None, tokens };
        if bytes <= KEPT_BYTES {
            let runs = (0..samples.runs()).map(|run| samples.load(run)).collect::<Result<_>>()?;
            samples.kept = Some(runs);
        }
        Ok(samples)
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Number of runs.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.indices.len().div_ceil(self.size)
    }

    /// Number of runs that hold so many samples, or all of them.
    #[must_use]
    pub fn runs_of(&self, samples: usize) -> usize {
        samples.div_ceil(self.size).min(self.runs())
    }

    /// The samples of a run.
    #[must_use]
    pub fn range(&self, run: usize) -> std::ops::Range<usize> {
        run * self.size..((run + 1) * self.size).min(self.indices.len())
    }

    /// The samples of a run as values of layers are looked at.
    #[must_use]
    pub fn looked_at(&self, run: usize) -> Batch<'_> {
        let range = self.range(run);
        Batch { first: range.start as u64, samples: range.len(), tokens: self.tokens() }
    }

    /// The positions of their sequences that count; `None` where all do.
    #[must_use]
    pub fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// The labels, where there are any.
    ///
    /// # Errors
    /// When the data can't be read.
    pub fn labels(&self) -> Result<Option<Vec<i64>>> {
        self.data.labels(&self.indices)
    }

    /// The axis of the class scores, where it was given.
    #[must_use]
    pub fn class_axis(&self) -> Option<isize> {
        self.data.class_axis()
    }

    fn load(&self, run: usize) -> Result<Vec<Tensor>> {
        self.data.batch(&self.indices[self.range(run)])
    }

    /// The inputs of a run, in the batch size that `evaluator` demands.
    ///
    /// # Errors
    /// When the data can't be read.
    pub fn inputs(&self, run: usize, evaluator: &Evaluator) -> Result<Vec<Tensor>> {
        let inputs = match &self.kept {
            Some(kept) => kept[run].clone(),
            None => self.load(run)?,
        };
        let count = self.range(run).len();
        Ok(inputs.iter().map(|t| part(t, &(0..count), evaluator.batches().fixed)).collect())
    }
}

/// What the input at position `mask` leaves in of the sequences of samples, where there is one.
///
/// # Errors
/// When the data can't be read.
pub fn tokens(data: &Dataset, indices: &[usize], mask: Option<usize>) -> Result<Option<Tokens>> {
    let Some(mask) = mask else { return Ok(None) };
    // The other inputs may be large.
    let read =
        |some: &[usize]| -> Result<Option<Tensor>> { Ok(data.batch(some)?.into_iter().nth(mask)) };
    let parts: Option<Vec<Tensor>> = indices.chunks(READ).map(read).collect::<Result<_>>()?;
    let whole = parts.and_then(|parts| Tensor::concat_batch(&parts).ok());
    Ok(whole.as_ref().and_then(Tokens::of))
}
