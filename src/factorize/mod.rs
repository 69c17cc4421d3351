//! From a layer's weight and the statistics of its data to factors at any rank.

mod scheme;

pub use scheme::Scheme;
