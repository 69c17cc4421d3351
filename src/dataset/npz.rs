//! `.npz` archives: a zip of `.npy` arrays.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::npy::{self, Header};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Deflate can't expand a byte to more than this many.
pub(super) const MAX_INFLATION: u64 = 1032;

/// An open archive with the headers of its arrays.
pub(super) struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
    pub entries: Vec<Entry>,
}

/// One array of an archive.
pub(super) struct Entry {
    /// Its name, without `.npy`.
    pub key: String,
    /// Its header, or why it can't be used: only a fault once the array is asked for.
    pub header: Result<Header, String>,
    index: usize,
}

impl Archive {
    /// Opens an archive and reads the headers of its arrays, but not the arrays.
    ///
    /// # Errors
    /// When the zip is damaged or an entry can't have the size it declares.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let file_len = file.metadata().map_or(u64::MAX, |m| m.len());
        let data = |reason: String| Error::Data { path: path.into(), reason };
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|e| {
            data(format!("the zip archive can't be read, it may be cut short: {e}"))
        })?;
        let mut entries = Vec::new();
        for index in 0..zip.len() {
            let mut file = zip.by_index(index).map_err(|e| data(e.to_string()))?;
            let Some(key) = file.name().strip_suffix(".npy").map(str::to_owned) else {
                log::warn!("`{}`: `{}` is not an array, ignored", path.display(), file.name());
                continue;
            };
            let in_array = |reason: String| data(format!("array `{key}` {reason}"));
            let (size, packed) = (file.size(), file.compressed_size());
            if packed > file_len || size > packed.saturating_mul(MAX_INFLATION).saturating_add(64) {
                return Err(in_array("has an impossible size: the archive is damaged".to_owned()));
            }
            let header = npy::read_header(&mut file).and_then(|header| {
                let promised = header.byte_len()?;
                if promised.checked_add(header.data_start) == Some(size) {
                    return Ok(header);
                }
                let held = size.saturating_sub(header.data_start);
                Err(format!(
                    "has shape {:?}, which takes {promised} bytes, but holds {held}",
                    header.shape
                ))
            });
            entries.push(Entry { key, header, index });
        }
        Ok(Self { path: path.into(), zip, entries })
    }

    /// Reads the array at `position` among [`Self::entries`].
    ///
    /// # Errors
    /// When its data is damaged.
    pub fn read(&mut self, position: usize) -> Result<Tensor> {
        let path = &self.path;
        let data = |reason: String| Error::Data { path: path.clone(), reason };
        let entry = self
            .entries
            .get(position)
            .ok_or_else(|| data(format!("there is no array {position}")))?;
        let in_array = |reason: String| data(format!("array `{}` {reason}", entry.key));
        let mut file = self.zip.by_index(entry.index).map_err(|e| in_array(e.to_string()))?;
        let size = file.size();
        let header = npy::read_header(&mut file).map_err(in_array)?;
        npy::read_elements(&mut file, &header, size).map_err(in_array)
    }
}
