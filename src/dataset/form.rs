//! Which form a dataset has, told by content rather than by name.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A form of dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Npz,
    Npy,
    Idx,
    TestSets,
    Images,
}

/// The form of the data at `path`.
///
/// # Errors
/// When there is nothing, or nothing known.
pub(super) fn of(path: &Path) -> Result<Form> {
    let metadata =
        fs::metadata(path).map_err(|source| Error::Read { path: path.into(), source })?;
    if metadata.is_dir() {
        let is_test_set = path.join("input_0.pb").is_file()
            || folder(path)?.iter().any(|p| is_test_set_name(p) && p.is_dir());
        return Ok(if is_test_set { Form::TestSets } else { Form::Images });
    }
    let start = start(path)?;
    Ok(match start.as_slice() {
        [b'P', b'K', ..] => Form::Npz,
        [0x93, b'N', b'U', b'M', ..] => Form::Npy,
        [0x1f, 0x8b, ..] | [0, 0, 0x08..=0x0e, _] => Form::Idx,
        [] => {
            return Err(Error::Data { path: path.into(), reason: "the file is empty".to_owned() });
        }
        _ => {
            return Err(Error::Data {
                path: path.into(),
                reason: "is none of .npz, .npy, IDX (.gz), a folder of images or of \
                         `test_data_set_*`"
                    .to_owned(),
            });
        }
    })
}

/// Whether a folder is named like one of ONNX's test sets.
pub(super) fn is_test_set_name(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("test_data_set_"))
}

/// Whether the file at `path` starts with `bytes`.
pub(super) fn starts_with(path: &Path, bytes: &[u8]) -> Result<bool> {
    Ok(start(path)?.starts_with(bytes))
}

fn start(path: &Path) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut start))
        .map_err(|source| Error::Read { path: path.into(), source })?;
    Ok(start)
}

/// What a folder holds, without hidden entries, sorted by name.
pub(super) fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let cannot_read = |source| Error::Read { path: path.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot_read)? {
        let path = entry.map_err(cannot_read)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
