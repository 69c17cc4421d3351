//! Samples that are in memory already.

use std::sync::Arc;

use crate::tensor::Tensor;

/// Arrays of samples for a model that is not known yet; axis 0 of each counts samples. Clones share
/// the arrays.
#[derive(Clone, Debug)]
pub struct Arrays(Arc<Held>);

#[derive(Debug, PartialEq)]
struct Held {
    /// Empty names where arrays go by the order of the model's inputs.
    arrays: Vec<(String, Tensor)>,
    labels: Option<Tensor>,
}

impl Arrays {
    /// Arrays by the names of the model's inputs, as in an `.npz`: one array for a model of one input
    /// may have any name, and labels may be among them under one of the usual names.
    #[must_use]
    pub fn named(arrays: Vec<(String, Tensor)>, labels: Option<Tensor>) -> Self {
        Self(Arc::new(Held { arrays, labels }))
    }

    /// Arrays in the order of the model's inputs.
    #[must_use]
    pub fn in_order(arrays: Vec<Tensor>, labels: Option<Tensor>) -> Self {
        Self::named(arrays.into_iter().map(|array| (String::new(), array)).collect(), labels)
    }

    /// Whether both hold the same samples.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }

    /// The arrays with their names, then the labels.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let arrays = self.0.arrays.iter().map(|(name, array)| (name.as_str(), array));
        arrays.chain(self.0.labels.iter().map(|labels| ("labels", labels)))
    }

    pub(super) fn arrays(&self) -> &[(String, Tensor)] {
        &self.0.arrays
    }

    pub(super) fn labels(&self) -> Option<&Tensor> {
        self.0.labels.as_ref()
    }
}
