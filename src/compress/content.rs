//! What files hold, as a short key.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fnv::Fnv;

/// Bytes of a place that are read for its key. Of what is more, sizes and times count.
const READ: u64 = 1 << 30;

/// A running key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Key(Fnv);

impl Key {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn mix(&mut self, bytes: &[u8]) {
        self.0.mix(bytes);
    }

    pub fn text(self) -> String {
        self.0.text()
    }

    /// Takes in a file, or every file below a folder, in the order of their names.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn mix_place(&mut self, path: &Path) -> Result<()> {
        let mut left = READ;
        self.mix_below(path, Path::new(""), &mut left)
    }

    fn mix_below(&mut self, path: &Path, name: &Path, left: &mut u64) -> Result<()> {
        let fault = |source| Error::Read { path: path.to_owned(), source };
        self.mix(name.to_string_lossy().as_bytes());
        let about = fs::metadata(path).map_err(fault)?;
        if about.is_dir() {
            let entries = fs::read_dir(path).map_err(fault)?;
            let mut paths: Vec<PathBuf> =
                entries.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>().map_err(fault)?;
            paths.sort();
            for path in paths {
                let name = name.join(path.file_name().unwrap_or_default());
                self.mix_below(&path, &name, left)?;
            }
            return Ok(());
        }
        self.mix(&about.len().to_le_bytes());
        if about.len() > *left {
            let time =
                about.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            self.mix(&time.map_or(0, |t| t.as_nanos()).to_le_bytes());
            return Ok(());
        }
        *left -= about.len();
        let mut file = File::open(path).map_err(fault)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = file.read(&mut buffer).map_err(fault)?;
            if count == 0 {
                return Ok(());
            }
            self.mix(&buffer[..count]);
        }
    }
}

/// The key of a file, as text; none where it can't be read.
pub(super) fn of_file(path: &Path) -> Option<String> {
    let mut key = Key::new();
    key.mix_place(path).ok()?;
    Some(key.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bytes_count() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let of = || of_file(dir.path()).unwrap();
        fs::write(&a, b"one").unwrap();
        let first = of();
        assert_eq!(of(), first);
        fs::write(&a, b"two").unwrap();
        let second = of();
        fs::rename(&a, &b).unwrap();
        assert!(first != second && second != of());
        assert!(of_file(&a).is_none());
    }
}
