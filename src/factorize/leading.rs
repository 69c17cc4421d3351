//! The decomposition of a large matrix by its weight alone, as far as ranks may be chosen: only the shorter side
//! is ever held.

use bytes::Bytes;

use super::curve::balanced;
use super::{Choice, Factors, Scheme};
use crate::error::Result;
use crate::layer::LongSide;
use crate::linalg::{Gram, Matrix, leading_eigen, product};

/// Elements of a part of the weight that is held as `f64` at once.
const PART: usize = 1 << 22;

/// The leading singular vectors of a weight on its shorter side, and what every rank leaves.
#[derive(Clone, Debug)]
pub struct LeadingCurve {
    /// Squared norm of the weight.
    pub energy: f64,
    /// Squared error of every rank from 1 on, with these vectors.
    pub errors: Vec<f64>,
    /// The largest rank for which no other vectors leave noticeably less.
    pub known: usize,
    /// Vectors one after another, as little-endian `f64`.
    pub vectors: Bytes,
}

impl LeadingCurve {
    /// Decomposes a weight for ranks up to `rank`, exactly where fewer vectors cost no less. `seed` decides where
    /// the search for vectors begins.
    ///
    /// # Errors
    /// When an element is not finite or a decomposition fails.
    pub fn new(weight: &LongSide, rank: usize, seed: u64) -> Result<Self> {
        let (long, short) = weight.extents;
        let mut gram = Gram::new(short);
        for range in parts(long, short) {
            gram.add(&weight.part(range)?);
        }
        let gram = gram.finish();
        let energy = gram.diag().sum();
        let found = leading_eigen(&gram, rank, seed)?;
        drop(gram);
        let mut left = energy;
        let leaves = |value: &f64| {
            left -= value.max(0.0);
            left.max(0.0)
        };
        let errors = found.values.iter().map(leaves).collect();
        let columns = found.vectors.columns();
        let vectors: Vec<u8> =
            columns.into_iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        Ok(Self { energy, errors, known: found.known, vectors: vectors.into() })
    }

    /// The choices whose errors are known, with these.
    #[must_use]
    pub fn choices(&self) -> Vec<(Choice, f64)> {
        let choice = |rank| Choice { scheme: Scheme::Matrix, rank, rank_in: None };
        let known = self.errors.iter().take(self.known).enumerate();
        known.map(|(i, &error)| (choice(i + 1), error)).collect()
    }

    /// The factors of a rank; `weight` is the one that was decomposed.
    ///
    /// # Errors
    /// When an element is not finite.
    pub fn factors(&self, weight: &LongSide, choice: Choice) -> Result<Factors> {
        let (long, short) = weight.extents;
        let rank = choice.rank.min(self.errors.len());
        let mut bytes = self.vectors.chunks_exact(size_of::<f64>());
        let mut next = || {
            let bytes = bytes.next().and_then(|b| b.try_into().ok());
            bytes.map_or(0.0, f64::from_le_bytes)
        };
        let vectors = Matrix::from_shape_simple_fn((rank, short), &mut next);
        let columns = vectors.t().to_owned();
        let mut other = Matrix::zeros((long, rank));
        for range in parts(long, short) {
            let image = product(&weight.part(range.clone())?, &columns);
            other.slice_mut(ndarray::s![range, ..]).assign(&image);
        }
        // The longer side is W's inputs where its rows are the shorter one.
        let group = if weight.short_rows {
            vec![columns, other.reversed_axes()]
        } else {
            drop(columns);
            vec![other, vectors]
        };
        let bias = weight.bias.clone();
        Ok(Factors { choice: Some(choice), groups: vec![balanced(group)], bias })
    }
}

/// Stretches of the longer side.
fn parts(long: usize, short: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let size = (PART / short.max(1)).max(1);
    (0..long.div_ceil(size)).map(move |i| i * size..((i + 1) * size).min(long))
}
