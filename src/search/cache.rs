//! Scores of networks, kept in a file so that an interrupted search goes on where it was.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::LayerOptions;
use crate::error::{Error, Result};
use crate::fnv::Fnv;

/// Version of scores: those of another are not believed.
const VERSION: u32 = 1;

/// Losses of networks on the first samples of a search, by what the networks are.
///
/// A search that finds a score here does not run the network. Its course is the same, as all that it
/// decides by are losses; what networks are is told by the forms and the reference that the cache's key
/// is made of.
#[derive(Debug, Default)]
pub struct ScoreCache {
    known: Mutex<HashMap<String, Vec<f64>>>,
    file: Option<Mutex<File>>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    network: String,
    losses: Vec<f64>,
}

impl ScoreCache {
    /// The scores that `folder` has for `key`, and a place for more.
    ///
    /// # Errors
    /// When the folder can't be used. Lines that are none are left out with a warning.
    pub fn open(folder: &Path, key: u64) -> Result<Self> {
        let path = folder.join(format!("scores-{key:016x}.jsonl"));
        let fault = |source| Error::Write { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(fault)?;
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::Read { path, source }),
        };
        let mut known = HashMap::new();
        let mut spoilt = 0;
        for line in bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) if line.losses.iter().all(|loss| loss.is_finite()) => {
                    known.insert(line.network, line.losses);
                }
                _ => spoilt += 1,
            }
        }
        if spoilt > 0 {
            log::warn!("`{}`: {spoilt} lines hold no scores and are left out", path.display());
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&path).map_err(fault)?;
        if bytes.last().is_some_and(|&b| b != b'\n') {
            // What an interrupted run was about to write.
            file.write_all(b"\n").map_err(fault)?;
        }
        Ok(Self { known: Mutex::new(known), file: Some(Mutex::new(file)) })
    }

    /// A key of what scores depend on: the forms that layers can take, with their errors, and the
    /// losses of the original.
    #[must_use]
    pub fn key(forms: &[LayerOptions], reference: &[f64], others: &str) -> u64 {
        let mut hash = Fnv::default();
        hash.add(&VERSION.to_le_bytes());
        hash.add(env!("CARGO_PKG_VERSION").as_bytes());
        hash.add(others.as_bytes());
        for forms in forms {
            hash.add(&forms.energy.to_bits().to_le_bytes());
            for option in &forms.options {
                hash.add(format!("{:?} {:?}", option.choice, option.storage).as_bytes());
                hash.add(&option.error.to_bits().to_le_bytes());
            }
        }
        for loss in reference {
            hash.add(&loss.to_bits().to_le_bytes());
        }
        hash.value()
    }

    /// The losses that are known of a network.
    #[must_use]
    pub fn get(&self, network: &str) -> Option<Vec<f64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(network).cloned()
    }

    /// Keeps the losses of a network. Where they can't be written the search goes on without.
    pub fn put(&self, network: String, losses: &[f64]) {
        if !losses.iter().all(|loss| loss.is_finite()) {
            return;
        }
        let line = Line { network, losses: losses.to_vec() };
        if let Some(file) = &self.file
            && let Ok(mut text) = serde_json::to_vec(&line)
        {
            text.push(b'\n');
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = file.write_all(&text) {
                log::debug!(target: "search", "a score is not kept: {error}");
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(line.network, line.losses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_outlast_a_run_and_spoilt_lines_are_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let losses = [0.1, 1.0 / 3.0, 5e-324];
        let cache = ScoreCache::open(folder.path(), 7).expect("opened");
        cache.put("a".to_owned(), &losses);
        cache.put("b".to_owned(), &[f64::NAN]);
        drop(cache);
        let path = folder.path().join("scores-0000000000000007.jsonl");
        let mut text = std::fs::read(&path).expect("the file");
        text.extend(b"\xff{}\n{\"network\":\"c\",\"losses\":[1");
        std::fs::write(&path, text).expect("written");
        let cache = ScoreCache::open(folder.path(), 7).expect("opened");
        assert_eq!(cache.get("a").expect("known"), losses);
        assert!(cache.get("b").is_none() && cache.get("c").is_none());
        cache.put("d".to_owned(), &[2.0]);
        let cache = ScoreCache::open(folder.path(), 7).expect("opened");
        assert_eq!(cache.get("d").expect("known"), [2.0]);
        assert!(ScoreCache::open(folder.path(), 8).expect("opened").get("a").is_none());
    }
}
