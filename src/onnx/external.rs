//! Tensors whose elements lie in another file beside the model.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

use super::proto::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use super::{tensor, walk};
use crate::error::{Error, Result};

/// Bytes of the external files of a model, by location as its tensors spell it.
pub(super) type Files = BTreeMap<String, Bytes>;

/// The mappings that a model's bytes are of.
pub(super) type Mappings = Vec<Arc<Mmap>>;

/// What a [`Bytes`] of a mapping owns.
pub(super) struct Owner(pub(super) Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Tells the system that the pages of a mapping are not needed for now: it reads them again when they are.
pub(super) fn release(mapping: &Mmap) {
    #[cfg(unix)]
    {
        use memmap2::UncheckedAdvice;
        // SAFETY: the mapping is of a file and was never written to, so its pages hold what the file does.
        // A system that doesn't take the advice keeps the pages, which harms nothing.
        let _ = unsafe { mapping.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
    #[cfg(not(unix))]
    let _ = mapping;
}

/// The contents of a file as a shared mapping; pages are loaded when touched.
///
/// The file must not be cut short while the mapping lives: the system then stops the process.
/// Replacing it by a rename is harmless.
pub(super) fn map(path: &Path, mappings: &mut Mappings) -> Result<Bytes> {
    let fault = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fault)?;
    let metadata = file.metadata().map_err(fault)?;
    if metadata.is_dir() {
        return Err(fault(io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        // A pipe or a device can't be mapped, and may never end.
        return Err(fault(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only; see above for what other processes may not do.
    let mapping = unsafe { Mmap::map(&file) }.map_err(fault)?;
    let mapping = Arc::new(mapping);
    mappings.push(mapping.clone());
    Ok(Bytes::from_owner(Owner(mapping)))
}

/// Whether the elements of `tensor` lie in another file.
pub(super) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External.into())
}

/// Maps every file that the tensors of `model` refer to, and checks that they find their bytes.
pub(super) fn map_all(
    model: &mut ModelProto,
    folder: &Path,
    mappings: &mut Mappings,
) -> Result<Files> {
    let mut files = Files::new();
    walk::each_tensor(model, &mut |tensor, _| {
        if is_external(tensor) {
            let location = Reference::parse(tensor)?.location;
            if !files.contains_key(location) {
                let path = resolve(folder, location).map_err(|reason| bad(tensor, reason))?;
                files.insert(location.to_owned(), map(&path, mappings)?);
            }
            stored(&files, tensor)?;
        }
        Ok(())
    })?;
    Ok(files)
}

/// The bytes of an external tensor.
pub(super) fn stored(files: &Files, tensor: &TensorProto) -> Result<Bytes> {
    let reference = Reference::parse(tensor)?;
    let location = reference.location;
    let file = files.get(location).ok_or_else(|| {
        bad(tensor, format!("its data is in `{location}`, which was not read with the model"))
    })?;
    let length = match reference.length {
        Some(length) => length,
        // Without a length the shape says where the elements end, else the file.
        None => tensor::wanted_byte_len(tensor)?
            .unwrap_or_else(|| (file.len() as u64).saturating_sub(reference.offset)),
    };
    let end = reference.offset.checked_add(length).filter(|&end| end <= file.len() as u64);
    let Some(end) = end else {
        return Err(bad(
            tensor,
            format!(
                "wants {length} bytes at offset {} of `{location}`, which has {}",
                reference.offset,
                file.len()
            ),
        ));
    };
    // Both ends are within a slice, so they fit `usize`.
    Ok(file.slice(reference.offset as usize..end as usize))
}

/// Makes `tensor` refer to `length` bytes at `offset` of the file at `location`; keys that describe
/// something other than the old place stay.
pub(super) fn refer(tensor: &mut TensorProto, location: &str, offset: u64, length: u64) {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    let kept = std::mem::take(&mut tensor.external_data);
    tensor.external_data = vec![
        entry("location", location.to_owned()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
    // The checksum is that of the whole old file.
    let replaced = ["location", "offset", "length", "checksum"];
    tensor.external_data.extend(kept.into_iter().filter(|e| !replaced.contains(&e.key())));
    tensor.data_location = Some(DataLocation::External.into());
}

/// Puts the elements into the tensor itself.
pub(super) fn inline(tensor: &mut TensorProto, bytes: Bytes) {
    tensor.raw_data = Some(bytes);
    tensor.external_data.clear();
    tensor.data_location = None;
}

/// Where an external tensor says its bytes are.
struct Reference<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl<'a> Reference<'a> {
    fn parse(tensor: &'a TensorProto) -> Result<Self> {
        let find = |key: &str| {
            tensor.external_data.iter().find(|e| e.key() == key).map(StringStringEntryProto::value)
        };
        let number = |key: &str| {
            let parse = |text: &str| {
                text.parse::<u64>()
                    .map_err(|_| bad(tensor, format!("external `{key}` is `{text}`, not a number")))
            };
            find(key).map(parse).transpose()
        };
        let location = find("location")
            .filter(|l| !l.is_empty())
            .ok_or_else(|| bad(tensor, "its data is external but no location is given"))?;
        Ok(Self { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}

/// The file at `location`, which must stay inside `folder` once links are followed.
fn resolve(folder: &Path, location: &str) -> Result<PathBuf, String> {
    let relative = Path::new(location);
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    if !relative.components().all(plain) {
        return Err(format!("external location `{location}` leaves the model's folder"));
    }
    let unreadable = |error: io::Error| format!("can't read external file `{location}`: {error}");
    let folder = fs::canonicalize(folder).map_err(unreadable)?;
    let path = fs::canonicalize(folder.join(relative)).map_err(unreadable)?;
    if path.starts_with(&folder) {
        Ok(path)
    } else {
        Err(format!("external location `{location}` is a link that leaves the model's folder"))
    }
}

fn bad(tensor: &TensorProto, reason: impl Into<String>) -> Error {
    tensor::bad(tensor, reason)
}
