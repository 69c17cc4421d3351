//! Models in memory, where the work is on files: what is proven is a written file.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Request, compress};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::progress::Progress;
use crate::report::Report;

/// A folder for files that nobody is to keep; it goes with this value.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// A new folder where the system keeps temporary files.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn new() -> Result<Self> {
        let fault = |source| Error::Write { path: std::env::temp_dir(), source };
        tempfile::Builder::new().prefix("onnx-bsr-").tempdir().map(Self).map_err(fault)
    }

    /// Where a file of that name is, or would be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Keeps bytes as a file.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, bytes).map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(path)
    }

    /// The bytes of a model that was written here, with external data moved inside.
    ///
    /// # Errors
    /// As [`Model::read`] and [`Model::to_bytes`].
    pub fn take(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name);
        let model = Model::read(&path)?;
        if model.external_files(&path).is_empty() {
            return read(&path);
        }
        model.to_bytes()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// [`compress()`] from memory to memory: the request's input and output only name the models.
///
/// # Errors
/// As [`compress()`].
pub fn compress_bytes(
    model: &[u8],
    request: &Request,
    progress: &dyn Progress,
) -> Result<(Vec<u8>, Report)> {
    let scratch = Scratch::new()?;
    let input = scratch.put("model.onnx", model)?;
    let output = scratch.path("compressed.onnx");
    let mut report = compress(&Request { input, output, ..request.clone() }, progress)?;
    report.output.path.clear();
    Ok((scratch.take("compressed.onnx")?, report))
}
