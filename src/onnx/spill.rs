//! Data that wait in a file instead of in memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::MmapOptions;

use super::external::{Mappings, Owner};
use super::{Model, TensorProto};
use crate::error::{Error, Result};

/// Parts start on a page, so that they can be mapped.
const PAGE: u64 = 4096;

/// Shorter parts stay in memory.
const SHORT: usize = 1 << 16;

/// A file without a name that grows by parts, which are mapped when they are asked for again. The system takes
/// it away with the last of them.
#[derive(Debug)]
pub struct Spill {
    file: File,
    folder: PathBuf,
    end: u64,
    mappings: Mappings,
}

impl Spill {
    /// An empty one in `folder`.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn new(folder: &Path) -> Result<Self> {
        let fault = |source| Error::Write { path: folder.to_owned(), source };
        let file = tempfile::tempfile_in(folder).map_err(fault)?;
        Ok(Self { file, folder: folder.to_owned(), end: 0, mappings: Vec::new() })
    }

    /// Writes bytes; says where they are for [`Spill::get`].
    ///
    /// # Errors
    /// [`Error::Write`], above all when the disk is full.
    pub fn put(&mut self, bytes: &[u8]) -> Result<u64> {
        let fault = |source| Error::Write { path: self.folder.clone(), source };
        let offset = self.end;
        self.file.seek(SeekFrom::Start(offset)).map_err(fault)?;
        self.file.write_all(bytes).map_err(fault)?;
        self.end += bytes.len() as u64;
        Ok(offset)
    }

    /// So many bytes from where [`Spill::put`] began to write them.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn get(&mut self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let fault = |source| Error::Read { path: self.folder.clone(), source };
        self.file.seek(SeekFrom::Start(offset)).map_err(fault)?;
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes).map_err(fault)?;
        Ok(bytes)
    }

    /// Writes bytes, and gives them back as a mapping.
    ///
    /// # Errors
    /// [`Error::Write`], above all when the disk is full.
    pub fn keep(&mut self, bytes: Bytes) -> Result<Bytes> {
        if bytes.len() < SHORT {
            return Ok(bytes);
        }
        self.end = self.end.next_multiple_of(PAGE);
        let offset = self.put(&bytes)?;
        // SAFETY: the file has no name and grows only at its end: what is mapped stays as it is.
        let mapping = unsafe { MmapOptions::new().offset(offset).len(bytes.len()).map(&self.file) };
        let fault = |source| Error::Write { path: self.folder.clone(), source };
        let mapping = mapping.map_err(fault)?;
        let mapping = Arc::new(mapping);
        self.mappings.push(mapping.clone());
        Ok(Bytes::from_owner(Owner(mapping)))
    }

    /// Has [`Model::release`] of a model that holds parts let go of their pages too.
    pub fn lend(&self, model: &mut Model) {
        model.mappings.extend(self.mappings.iter().cloned());
    }

    /// Has the elements of a constant wait here.
    ///
    /// # Errors
    /// As [`Spill::keep`].
    pub fn keep_tensor(&mut self, mut tensor: TensorProto) -> Result<TensorProto> {
        if let Some(raw) = tensor.raw_data.take() {
            tensor.raw_data = Some(self.keep(raw)?);
        }
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut spill = Spill::new(dir.path()).expect("a file");
        let parts: Vec<Bytes> =
            [3, SHORT, SHORT + 5000, 2 * SHORT].map(|n| vec![n as u8; n].into()).to_vec();
        let kept: Vec<Bytes> = parts.iter().map(|p| spill.keep(p.clone()).expect("kept")).collect();
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
        drop(spill);
        assert_eq!(kept, parts);
        assert!(Spill::new(&dir.path().join("none")).is_err());
    }
}
