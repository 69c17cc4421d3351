//! A layer's weight and its statistics to factors at any rank, and to the nodes that replace it.
//!
//! Everything is least squares on second moments (DESIGN: data-aware truncation and sequential
//! refit). With x the layer's input, t what it is to yield, both centred, G = E[x x^T] and
//! T = E[t x^T], a map M errs by tr(F (E[t t^T] - 2 M T^T + M G M^T)); F is the metric of outputs,
//! the identity unless given. Each scheme restricts M:
//!
//! | scheme | M | how its optimum is found |
//! |---|---|---|
//! | channel, matrix | rank r | reduced-rank regression: exact |
//! | channel-in of a transposed convolution | rank r | the same |
//! | channel of a transposed convolution | U P, U a map of output channels | SVD of the outputs that W yields: exact but for the metric |
//! | channel-in, spatial | A P, P a map of one side of the kernel | P from a weighted SVD, then A exact given P |
//! | tucker | U U^T A P | P as above, then exact reduced-rank regression on P x |
//! | dense | any | regression |
//!
//! A table that rows are looked up in is the same, with an x that is 1 at one place: G is a diagonal, of
//! how often each row is looked up.
//!
//! A ridge pulls M towards the original weight where the data say little; with G = I and T = W,
//! that is without data, all of this is the plain SVD.

mod curve;
mod fit;
mod leading;
mod nodes;
mod scheme;
mod trained;

pub use curve::{Curve, curves};
pub use fit::{Fit, Metric};
pub use leading::LeadingCurve;
pub use nodes::{Replacement, replace};
pub use scheme::Scheme;

use serde::{Deserialize, Serialize};

use crate::layer::{Extent, LinearMap};
use crate::linalg::Matrix;

/// A scheme with its ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Choice {
    /// The scheme.
    pub scheme: Scheme,
    /// The rank, per group: channels between the last two factors.
    pub rank: usize,
    /// Tucker: channels between the first two factors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_in: Option<usize>,
}

/// Factors of every group of a layer, and its bias.
#[derive(Clone, Debug)]
pub struct Factors {
    /// The choice; `None` for a dense weight.
    pub choice: Option<Choice>,
    /// For each group the factors, the one applied last first; their product is M, where a factor
    /// applied to one side of the kernel is repeated over the other side.
    pub groups: Vec<Vec<Matrix>>,
    /// The new bias, `[groups * rows]`.
    pub bias: Vec<f64>,
}

impl Factors {
    /// Factors of the right shapes, all zero, with a bias where the layer takes one; `None` is a
    /// dense weight.
    #[must_use]
    pub fn zeros(choice: Option<Choice>, map: &LinearMap) -> Self {
        let shapes = Self::shapes(choice, map);
        let group = || shapes.iter().map(|&shape| Matrix::zeros(shape)).collect();
        Self {
            choice,
            groups: (0..map.groups).map(|_| group()).collect(),
            bias: vec![f64::from(u8::from(map.takes_bias())); map.groups * map.rows],
        }
    }

    /// Rows and columns of one group's factors, the one applied last first; `None` is a dense
    /// weight.
    #[must_use]
    pub fn shapes(choice: Option<Choice>, map: &LinearMap) -> Vec<(usize, usize)> {
        let rows = map.rows;
        match (choice, choice.and_then(|c| c.scheme.side(map))) {
            (None, _) => vec![(rows, map.columns)],
            (Some(Choice { scheme: Scheme::ChannelOut, rank, .. }), None) if map.spread() > 1 => {
                vec![(rows / map.spread(), rank), (rank * map.spread(), map.columns)]
            }
            (Some(Choice { rank, .. }), None) => vec![(rows, rank), (rank, map.columns)],
            (Some(Choice { scheme: Scheme::Tucker, rank, rank_in }), Some(side)) => {
                let inner = rank_in.unwrap_or(rank);
                vec![(rows, rank), (rank, inner * side.rest), (inner, side.side)]
            }
            (Some(Choice { rank, .. }), Some(side)) => {
                vec![(rows, rank * side.rest), (rank, side.side)]
            }
        }
    }
}

/// The unfolding of a kernel that a scheme's first factor maps: x is `[side, rest]`, the factor is
/// `[rank, side]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Elements of x that the factor maps together.
    pub side: usize,
    /// Elements that it is repeated over.
    pub rest: usize,
}

impl Scheme {
    /// The unfolding its first factor maps; `None` where that maps all of x.
    #[must_use]
    pub fn side(self, map: &LinearMap) -> Option<Side> {
        let kernel = map.kernel_len();
        match self {
            Self::ChannelOut | Self::Matrix => None,
            // Of a transposed convolution it maps all of an input element.
            Self::ChannelIn if map.is_transposed() => None,
            Self::ChannelIn | Self::Tucker => {
                Some(Side { side: map.columns / kernel, rest: kernel })
            }
            Self::Spatial => {
                let width = map.kernel().last().copied().unwrap_or(1);
                Some(Side { side: map.columns / width, rest: width })
            }
        }
    }

    /// Whether the scheme applies to a layer and differs from simpler ones there.
    #[must_use]
    pub fn applies(self, map: &LinearMap) -> bool {
        let kernel = map.kernel();
        match self {
            Self::Matrix => kernel.is_empty() && !map.is_transposed(),
            Self::ChannelOut if map.is_transposed() => map.spread() > 1,
            Self::ChannelIn if map.is_transposed() => true,
            Self::ChannelOut => !kernel.is_empty(),
            Self::ChannelIn => map.kernel_len() > 1,
            Self::Tucker => map.kernel_len() > 1 && map.groups == 1,
            Self::Spatial => kernel.len() == 2 && kernel.iter().all(|&k| k > 1) && map.groups == 1,
        }
    }
}

impl Choice {
    /// Weights of the factors, biases apart.
    #[must_use]
    pub fn params(&self, map: &LinearMap) -> usize {
        let (rows, columns, kernel) = (map.rows, map.columns, map.kernel_len());
        let per_group = match (self.scheme, self.scheme.side(map)) {
            (Scheme::Tucker, Some(side)) => {
                let inner = self.rank_in.unwrap_or(self.rank);
                inner * side.side + self.rank * inner * kernel + rows * self.rank
            }
            (_, Some(side)) => self.rank * (side.side + rows * side.rest),
            (Scheme::ChannelOut, None) if map.spread() > 1 => {
                self.rank * (rows / map.spread() + columns * map.spread())
            }
            (_, None) => self.rank * (columns + rows),
        };
        per_group * map.groups
    }

    /// Multiply-accumulates of the factors for one sample.
    #[must_use]
    pub fn macs(&self, map: &LinearMap, at: Extent) -> u64 {
        let (rows, columns, kernel) =
            (map.rows as u64, map.columns as u64, map.kernel_len() as u64);
        let rank = self.rank as u64;
        let per_group = match (self.scheme, self.scheme.side(map)) {
            (Scheme::Tucker, Some(side)) => {
                let inner = self.rank_in.unwrap_or(self.rank) as u64;
                inner * side.side as u64 * at.input + rank * (inner * kernel + rows) * at.output
            }
            (scheme, Some(side)) => {
                let first = if scheme == Scheme::Spatial { at.middle } else { at.input };
                rank * (side.side as u64 * first + rows * side.rest as u64 * at.output)
            }
            (Scheme::ChannelOut, None) if map.spread() > 1 => {
                let spread = map.spread() as u64;
                rank * (columns * spread * at.output + rows / spread * at.middle)
            }
            (_, None) if map.is_table() => rank * rows * at.output,
            (_, None) => rank * (columns + rows) * at.output,
        };
        per_group * map.groups as u64
    }

    /// The largest rank that the scheme has for a layer.
    #[must_use]
    pub fn most(scheme: Scheme, map: &LinearMap) -> usize {
        match (scheme, scheme.side(map)) {
            (Scheme::ChannelOut, None) if map.spread() > 1 => {
                (map.rows / map.spread()).min(map.columns * map.spread())
            }
            (Scheme::Tucker, _) | (_, None) => map.full_rank(),
            (_, Some(side)) => side.side.min(map.rows * side.rest),
        }
    }
}
