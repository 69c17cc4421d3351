//! Which layers a user wants to be factorized.

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::Layer;
use crate::error::{Error, Result};

/// Which layers may be factorized, by globs of node or weight names.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    include: Option<GlobSet>,
    exclude: GlobSet,
    /// Whether layers count that are too small to gain.
    pub(super) any_size: bool,
}

impl Filter {
    /// From globs: with `include` empty, all layers but the excluded ones.
    ///
    /// # Errors
    /// When a glob is malformed.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let set = |option: &str, globs: &[String]| -> Result<GlobSet> {
            let mut builder = GlobSetBuilder::new();
            for text in globs {
                builder.add(Glob::new(text).map_err(|e| Error::Option {
                    option: option.to_owned(),
                    reason: e.to_string(),
                })?);
            }
            builder
                .build()
                .map_err(|e| Error::Option { option: option.to_owned(), reason: e.to_string() })
        };
        Ok(Self {
            include: (!include.is_empty()).then(|| set("--include", include)).transpose()?,
            exclude: set("--exclude", exclude)?,
            any_size: false,
        })
    }

    /// The same with layers that are too small to gain from a factorization.
    #[must_use]
    pub fn any_size(self) -> Self {
        Self { any_size: true, ..self }
    }

    /// Fails when a glob matches none of the layers.
    ///
    /// # Errors
    /// Naming the glob.
    pub fn check(&self, include: &[String], exclude: &[String], layers: &[Layer]) -> Result<()> {
        for (option, globs) in [("--include", include), ("--exclude", exclude)] {
            for text in globs {
                let Ok(glob) = Glob::new(text) else { continue };
                let glob = glob.compile_matcher();
                let named = |l: &Layer| l.names().any(|name| glob.is_match(name));
                if !layers.iter().any(|l| named(l) || glob.is_match(&l.weight)) {
                    return Err(Error::Option {
                        option: option.to_owned(),
                        reason: format!("`{text}` matches no node or weight"),
                    });
                }
            }
        }
        Ok(())
    }

    /// Why a layer is left alone, where it is for its name.
    pub(super) fn reason(&self, layer: &Layer) -> Option<String> {
        let matches =
            |set: &GlobSet| layer.names().any(|n| set.is_match(n)) || set.is_match(&layer.weight);
        if matches(&self.exclude) {
            return Some("excluded".to_owned());
        }
        match &self.include {
            Some(set) if !matches(set) => Some("not among the included layers".to_owned()),
            _ => None,
        }
    }
}
