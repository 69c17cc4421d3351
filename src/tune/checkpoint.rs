//! Trainings that survive an interruption.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::State;
use crate::error::{Error, Result};

/// The states of a run's trainings in a file: the last one of each that was begun.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// What the states are of; states of something else are of no use.
    of: String,
    trainings: Vec<Training>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Training {
    ended: bool,
    state: State,
}

impl Checkpoint {
    /// The file at `path`, which is made with the first state where there is none. `of` says what the
    /// states are of: everything they depend on, in any form.
    ///
    /// # Errors
    /// When the file can't be read, is none of this kind, or is of something else.
    pub fn open(path: &Path, of: String) -> Result<Self> {
        let fault = |reason: &str| Error::Option {
            option: "--resume".to_owned(),
            reason: format!("`{}` {reason}; remove it, or name another file", path.display()),
        };
        let kept = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice::<Kept>(&bytes)
                .map_err(|error| fault(&format!("holds no state of a training ({error})")))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Kept { of: of.clone(), trainings: Vec::new() }
            }
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        if kept.of != of {
            return Err(fault("was left by a run with another model, data or options"));
        }
        Ok(Self { path: path.to_owned(), kept })
    }

    /// The state of the run's training number `index`, and whether it is its last one.
    #[must_use]
    pub fn state(&self, index: usize) -> Option<(State, bool)> {
        let training = self.kept.trainings.get(index)?;
        Some((training.state.clone(), training.ended))
    }

    /// Keeps the state of training number `index`; the file is whole at any time.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn keep(&mut self, index: usize, state: &State, ended: bool) -> Result<()> {
        self.kept.trainings.truncate(index);
        self.kept.trainings.push(Training { ended, state: state.clone() });
        let fault = |source| Error::Write { path: self.path.clone(), source };
        let folder = self.path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fault)?;
        let text = serde_json::to_vec(&self.kept).map_err(|e| fault(e.into()))?;
        file.write_all(&text).map_err(fault)?;
        file.as_file().sync_all().map_err(fault)?;
        file.persist(&self.path).map_err(|e| fault(e.error))?;
        Ok(())
    }

    /// Removes the file: what it was kept for is done.
    pub fn remove(self) {
        // What is left over does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}
