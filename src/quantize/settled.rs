//! Weights of which it is said beforehand how they are stored.

use std::collections::{BTreeMap, BTreeSet};

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::stored::Storage;
use super::weights::{Weight, weights};
use crate::error::{Error, Result};
use crate::onnx::Model;

/// How single weights of a model are stored, whatever the form has for the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// Names of those that are to stay float.
    pub floats: BTreeSet<String>,
    /// How a search has decided, by name; none is float.
    pub storages: BTreeMap<String, Option<Storage>>,
}

impl Settled {
    /// Why a weight stays float, where that is said.
    pub(super) fn float(&self, weight: &str) -> Option<&'static str> {
        if self.floats.contains(weight) {
            return Some("it is to stay float");
        }
        let chosen = self.storages.get(weight).is_some_and(Option::is_none);
        chosen.then_some("the budget has room for it as it is, and it matters")
    }

    /// What a weight is stored as, where that is said.
    pub(super) fn storage(&self, weight: &str) -> Option<Storage> {
        self.storages.get(weight).copied().flatten()
    }
}

/// Globs of node or weight names: these weights stay float.
#[derive(Clone, Debug, Default)]
pub struct Floats {
    globs: Vec<(String, GlobSet)>,
}

impl Floats {
    /// From globs.
    ///
    /// # Errors
    /// When a glob is malformed.
    pub fn new(globs: &[String]) -> Result<Self> {
        let one = |text: &String| {
            let set = Glob::new(text).and_then(|glob| GlobSetBuilder::new().add(glob).build());
            Ok((text.clone(), set.map_err(|e| fault(e.to_string()))?))
        };
        Ok(Self { globs: globs.iter().map(one).collect::<Result<_>>()? })
    }

    /// Whether a node or a weight of that name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.globs.iter().any(|(_, set)| set.is_match(name))
    }

    /// Whether a weight is meant, by its own name or by that of a node that uses it.
    #[must_use]
    pub fn has(&self, model: &Model, weight: &Weight) -> bool {
        let nodes = &model.graph().node;
        !self.globs.is_empty() && names(nodes, weight).any(|name| self.matches(name))
    }

    /// Fails when a glob matches no weight of a model.
    ///
    /// # Errors
    /// Naming the glob.
    pub fn check(&self, model: &Model) -> Result<()> {
        let found = weights(model);
        let nodes = &model.graph().node;
        for (text, set) in &self.globs {
            if !found.iter().any(|w| names(nodes, w).any(|name| set.is_match(name))) {
                return Err(fault(format!("`{text}` matches no node or weight")));
            }
        }
        Ok(())
    }
}

fn names<'m>(
    nodes: &'m [crate::onnx::NodeProto],
    weight: &'m Weight,
) -> impl Iterator<Item = &'m str> {
    let users = weight.uses.iter().map(|u| nodes[u.node].label());
    std::iter::once(weight.name.as_str()).chain(users)
}

fn fault(reason: String) -> Error {
    Error::Option { option: "--float".to_owned(), reason }
}
