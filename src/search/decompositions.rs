//! What decompositions of layers tell, kept in files by what they were made of.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::LayerOptions;
use crate::error::{Error, Result};
use crate::factorize::Fit;
use crate::fnv::Fnv;

/// Version of the files: those of another have other names.
const VERSION: u32 = 1;

/// A folder with the forms of layers. Their keys are of all that the forms depend on: what the layer is,
/// what it is fitted to, and what may be chosen. So whatever else changes, a file is right or not found.
#[derive(Clone, Debug, Default)]
pub struct Decompositions {
    folder: Option<PathBuf>,
}

impl Decompositions {
    /// Those that `folder` has, and a place for more.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)
            .map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        Ok(Self { folder: Some(folder.to_owned()) })
    }

    /// The forms of a layer described by `about` under the given fits: those that are kept, or those
    /// that `make` gives.
    ///
    /// # Errors
    /// As `make`. Files that can't be used are left out with a warning.
    pub fn get_or(
        &self,
        about: impl FnOnce() -> String,
        fits: &[Fit],
        make: impl FnOnce() -> Result<LayerOptions>,
    ) -> Result<LayerOptions> {
        let Some(folder) = &self.folder else { return make() };
        let path = folder.join(format!("layer-{}.json", key(&about(), fits).text()));
        if let Some(forms) = read(&path) {
            return Ok(forms);
        }
        let forms = make()?;
        if let Err(error) = write(folder, &path, &forms) {
            log::debug!(target: "search", "a decomposition is not kept: {error}");
        }
        Ok(forms)
    }
}

fn key(about: &str, fits: &[Fit]) -> Fnv {
    let mut key = Fnv::default();
    key.add(&VERSION.to_le_bytes());
    key.add(env!("CARGO_PKG_VERSION").as_bytes());
    key.add(about.as_bytes());
    for fit in fits {
        let root = fit.metric.iter().flat_map(|metric| metric.root.iter().copied());
        let numbers = fit.xx.elements().chain(fit.tx.iter().copied()).chain([fit.energy]);
        numbers.chain(root).for_each(|v| key.mix(&v.to_bits().to_le_bytes()));
    }
    key
}

/// The forms in a file: the key of a text, and the text.
fn read(path: &Path) -> Option<LayerOptions> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            log::warn!("`{}` can't be read and is made anew: {error}", path.display());
            return None;
        }
    };
    let forms = bytes.iter().position(|&b| b == b'\n').and_then(|end| {
        let text = &bytes[end + 1..];
        (bytes[..end] == *check(text).as_bytes()).then(|| serde_json::from_slice(text).ok())?
    });
    if forms.is_none() {
        log::warn!("`{}` is damaged and is made anew", path.display());
    }
    forms
}

fn write(folder: &Path, path: &Path, forms: &LayerOptions) -> std::io::Result<()> {
    let text = serde_json::to_vec(forms)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{}", check(&text))?;
    file.write_all(&text)?;
    file.persist(path)?;
    Ok(())
}

fn check(text: &[u8]) -> String {
    let mut key = Fnv::default();
    key.add(text);
    key.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Cost;
    use crate::linalg::Matrix;
    use crate::search::LayerOption;

    #[test]
    fn what_is_kept_is_right_or_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Decompositions::open(folder.path()).expect("opened");
        let error = 1.0 / 3.0;
        let forms = || {
            let option = LayerOption { error, ..LayerOption::default() };
            let energy = f64::MIN_POSITIVE;
            let (options, stored) = (vec![option], Cost::default());
            Ok(LayerOptions { options, stored, energy, errors: Vec::new() })
        };
        let fits = [Fit::of_weight(&Matrix::eye(2))];
        let none = || panic!("is kept");
        kept.get_or(|| "a".to_owned(), &fits, forms).expect("made");
        let found = kept.get_or(|| "a".to_owned(), &fits, none).expect("kept");
        assert_eq!((found.options[0].error, found.energy), (error, f64::MIN_POSITIVE));
        // Other layers, other fits.
        let made = std::cell::Cell::new(0);
        let count = || {
            made.set(made.get() + 1);
            forms()
        };
        kept.get_or(|| "b".to_owned(), &fits, count).expect("made");
        kept.get_or(|| "a".to_owned(), &[Fit::of_weight(&Matrix::zeros((2, 2)))], count)
            .expect("made");
        assert_eq!(made.get(), 2);
        // Damage of any kind.
        let path = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").path();
        for path in fs::read_dir(folder.path()).expect("the folder").map(path) {
            let mut bytes = fs::read(&path).expect("a file");
            let last = bytes.len() - 20;
            bytes[last] ^= 1;
            fs::write(&path, bytes).expect("written");
        }
        kept.get_or(|| "a".to_owned(), &fits, count).expect("made");
        kept.get_or(|| "a".to_owned(), &fits, none).expect("kept again");
        assert_eq!(made.get(), 3);
    }
}
