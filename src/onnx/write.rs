//! Writing a model: everything is staged and synced beside the target, then renamed into place.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use tempfile::{NamedTempFile, TempDir};

use super::model::{Model, data_path, folder};
use super::proto::{ModelProto, TensorProto};
use super::walk::Place;
use super::{external, tensor, walk};
use crate::error::{Error, Result};

/// The largest protobuf that readers take: 2 GiB less one byte.
const PROTOBUF_LIMIT: u64 = i32::MAX as u64;
/// Initializers at least this long move out of a model that is too large.
const LARGE: u64 = 1024;
/// Tensors at least this long start on a page of the external file, so that they can be mapped.
const PAGED: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Mapped bytes that may be held in memory while they are written.
const HELD: usize = 128 << 20;
/// Other tensors start where any element type is aligned.
const ALIGNMENT: u64 = 16;

impl Model {
    /// Writes the model to `path`, and its external tensors to one file beside it, named after it
    /// with `.data` added; both appear whole or not at all. A model above 2 GiB moves its large
    /// initializers to that file. Returns the bytes written to disk in all.
    ///
    /// A link at `path` is replaced, not followed.
    ///
    /// # Errors
    /// [`Error::Write`] when the system refuses, [`Error::UnsupportedModel`] when the model is
    /// above 2 GiB without its initializers, [`Error::BadTensor`] for an external tensor that did
    /// not come with this model. What stood at the target is then untouched.
    pub fn write(&self, path: &Path) -> Result<u64> {
        let fault = |source| Error::Write { path: path.to_owned(), source };
        check_target(path).map_err(fault)?;
        let data_path = data_path(path);
        let layout = self.layout(data_path.file_name().and_then(|n| n.to_str()), PROTOBUF_LIMIT)?;
        let data = if layout.parts.is_empty() {
            None
        } else {
            let fault = |source| Error::Write { path: data_path.clone(), source };
            check_target(&data_path).map_err(fault)?;
            let fill = |file: &mut dyn Write| layout.write_data(file, || self.release());
            Some(Staged::new(&data_path, fill).map_err(fault)?)
        };
        let encoded = layout.proto.encode_to_vec();
        let model = Staged::new(path, |file| file.write_all(&encoded)).map_err(fault)?;
        commit(data, model).map_err(fault)?;
        Ok(encoded.len() as u64 + layout.data_len)
    }

    /// Writes the message alone, whose external tensors lie in the files that the model was read with: for
    /// a folder that has these.
    ///
    /// # Errors
    /// [`Error::Write`], and [`Error::UnsupportedModel`] above 2 GiB.
    pub fn write_message(&self, path: &Path) -> Result<()> {
        check_len(&self.proto)?;
        let fault = |source| Error::Write { path: path.to_owned(), source };
        fs::write(path, self.proto.encode_to_vec()).map_err(fault)
    }

    /// Bytes that [`Model::write`] would put on disk in all. The length of the file name adds to
    /// it where there is external data; `model.onnx` is taken here.
    #[must_use]
    pub fn encoded_len(&self) -> u64 {
        match self.layout(Some("model.onnx.data"), PROTOBUF_LIMIT) {
            Ok(layout) => layout.proto.encoded_len() as u64 + layout.data_len,
            Err(_) => self.proto.encoded_len() as u64,
        }
    }

    /// The external file that writing to `path` would make, where it would make one: a caller who
    /// must not overwrite files has two to look for.
    #[must_use]
    pub fn data_file(&self, path: &Path) -> Option<PathBuf> {
        let path = data_path(path);
        let layout = self.layout(path.file_name().and_then(|n| n.to_str()), PROTOBUF_LIMIT).ok()?;
        (!layout.parts.is_empty()).then_some(path)
    }

    /// The external files that the model, read from `path`, has its tensors in.
    #[must_use]
    pub fn external_files(&self, path: &Path) -> Vec<PathBuf> {
        self.external.keys().map(|location| folder(path).join(location)).collect()
    }

    /// Decides what goes to the external file, whose name is `data_name` if it can be told, so that
    /// the protobuf takes at most `limit` bytes.
    pub(super) fn layout(&self, data_name: Option<&str>, limit: u64) -> Result<Layout<'_>> {
        let fits = self.proto.encoded_len() as u64 <= limit;
        if self.external.is_empty() && fits {
            let proto = Cow::Borrowed(&self.proto);
            return Ok(Layout { proto, parts: Vec::new(), data_len: 0 });
        }
        let name = data_name.ok_or_else(|| Error::UnsupportedModel {
            reason: "external data needs an output file name in UTF-8".to_owned(),
        })?;
        let mut proto = self.proto.clone();
        let mut parts = Parts::default();
        walk::each_tensor(&mut proto, &mut |tensor, _| {
            if external::is_external(tensor) {
                parts.take(tensor, external::stored(&self.external, tensor)?, name);
            }
            Ok(())
        })?;
        if proto.encoded_len() as u64 > limit {
            walk::each_tensor(&mut proto, &mut |tensor, place| {
                if place == Place::Initializer
                    && !external::is_external(tensor)
                    && tensor::inner_byte_len(tensor) >= LARGE
                    && let Some(bytes) = inner_bytes(tensor)
                {
                    parts.take(tensor, bytes, name);
                }
                Ok(())
            })?;
        }
        check_len_within(&proto, limit)?;
        Ok(Layout { proto: Cow::Owned(proto), parts: parts.list, data_len: parts.end })
    }
}

/// Refuses a message that no reader takes.
pub(super) fn check_len(proto: &ModelProto) -> Result<()> {
    check_len_within(proto, PROTOBUF_LIMIT)
}

fn check_len_within(proto: &ModelProto, limit: u64) -> Result<()> {
    let len = proto.encoded_len() as u64;
    if len <= limit {
        return Ok(());
    }
    Err(Error::UnsupportedModel {
        reason: format!(
            "as one protobuf it takes {len} bytes; the format's limit is 2 GiB ({limit} bytes)"
        ),
    })
}

/// The elements inside `tensor` in raw form, where they have one that is known.
fn inner_bytes(tensor: &TensorProto) -> Option<Bytes> {
    match &tensor.raw_data {
        Some(raw) if !raw.is_empty() => Some(raw.clone()),
        _ => tensor::decode(tensor, None).ok().map(|decoded| tensor::to_raw(&decoded)),
    }
}

/// What goes where.
pub(super) struct Layout<'m> {
    /// The file's message, its external tensors referring to the new place.
    pub(super) proto: Cow<'m, ModelProto>,
    /// Offset and bytes of the parts of the external file, in order.
    pub(super) parts: Vec<(u64, Bytes)>,
    /// Length of the external file.
    pub(super) data_len: u64,
}

impl Layout<'_> {
    /// Writes all parts; `release` is called now and then: pages that were written are not needed any more.
    fn write_data(&self, file: &mut dyn Write, release: impl Fn()) -> io::Result<()> {
        let (mut at, mut held) = (0, 0);
        for (offset, bytes) in &self.parts {
            io::copy(&mut io::Read::take(io::repeat(0), offset - at), file)?;
            file.write_all(bytes)?;
            at = offset + bytes.len() as u64;
            held += bytes.len();
            if held >= HELD {
                release();
                held = 0;
            }
        }
        Ok(())
    }
}

/// The external file as it grows.
#[derive(Default)]
struct Parts {
    list: Vec<(u64, Bytes)>,
    /// Offsets by address and length: tensors that share bytes go on sharing them.
    placed: HashMap<(usize, usize), u64>,
    end: u64,
}

impl Parts {
    /// Moves the elements of `tensor` to the external file.
    fn take(&mut self, tensor: &mut TensorProto, bytes: Bytes, name: &str) {
        let len = bytes.len() as u64;
        let offset =
            *self.placed.entry((bytes.as_ptr().addr(), bytes.len())).or_insert_with(|| {
                let offset = self.end.next_multiple_of(if len >= PAGED { PAGE } else { ALIGNMENT });
                self.end = offset + len;
                self.list.push((offset, bytes));
                offset
            });
        clear_inner(tensor);
        external::refer(tensor, name, offset, len);
    }
}

fn clear_inner(tensor: &mut TensorProto) {
    tensor.raw_data = None;
    tensor.float_data = Vec::new();
    tensor.double_data = Vec::new();
    tensor.int32_data = Vec::new();
    tensor.int64_data = Vec::new();
    tensor.uint64_data = Vec::new();
}

/// Refuses a target that a rename would harm: a folder, a device, a pipe.
fn check_target(path: &Path) -> io::Result<()> {
    if path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"));
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(metadata) if !metadata.is_file() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
        _ => Ok(()),
    }
}

/// A file, complete and synced, that waits beside its target; dropping it removes it.
pub(super) struct Staged {
    file: NamedTempFile,
    target: PathBuf,
}

impl Staged {
    pub(super) fn new(
        target: &Path,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".onnx-bsr-");
        #[cfg(unix)]
        {
            // Temporary files are private by default; the target is to be an ordinary file.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder(target))?;
        let mut writer = BufWriter::new(file.as_file());
        fill(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.as_file().sync_all()?;
        Ok(Self { file, target: target.to_owned() })
    }

    fn rename(self) -> io::Result<()> {
        self.file.persist(&self.target).map(drop).map_err(|e| e.error)
    }
}

/// Renames both files into place; when the second can't be, the first is taken back.
pub(super) fn commit(data: Option<Staged>, model: Staged) -> io::Result<()> {
    let folder = folder(&model.target).to_owned();
    match data {
        None => model.rename()?,
        Some(data) => {
            let target = data.target.clone();
            let kept = Kept::new(&target, &folder)?;
            data.rename()?;
            if let Err(error) = model.rename() {
                kept.restore(&target)?;
                return Err(error);
            }
        }
    }
    sync(&folder);
    Ok(())
}

/// Moves a model that [`Model::write`] wrote to another folder of the same file system, under the same name:
/// both of its files or none.
///
/// # Errors
/// [`Error::Write`]; what stood at the target is then untouched.
pub fn move_model(from: &Path, to: &Path) -> Result<()> {
    let fault = |source| Error::Write { path: to.to_owned(), source };
    let (from_data, to_data) = (data_path(from), data_path(to));
    for path in [to, &to_data] {
        check_target(path).map_err(fault)?;
    }
    let moved = || -> io::Result<()> {
        if !from_data.exists() {
            return fs::rename(from, to);
        }
        let kept = Kept::new(&to_data, folder(to))?;
        fs::rename(&from_data, &to_data)?;
        if let Err(error) = fs::rename(from, to) {
            kept.restore(&to_data)?;
            return Err(error);
        }
        Ok(())
    };
    moved().map_err(fault)?;
    sync(folder(to));
    Ok(())
}

/// Has the renames in a folder last. They hold already; a system that can't sync a folder has nothing more to
/// offer.
fn sync(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// A second name for a file about to be replaced; dropping it removes that name.
struct Kept {
    folder: Option<TempDir>,
}

impl Kept {
    const NAME: &str = "kept";

    fn new(target: &Path, folder: &Path) -> io::Result<Self> {
        if !target.exists() {
            return Ok(Self { folder: None });
        }
        let aside = tempfile::Builder::new().prefix(".onnx-bsr-").tempdir_in(folder)?;
        let name = aside.path().join(Self::NAME);
        // Not every file system has hard links.
        fs::hard_link(target, &name).or_else(|_| fs::copy(target, &name).map(drop))?;
        Ok(Self { folder: Some(aside) })
    }

    fn restore(self, target: &Path) -> io::Result<()> {
        match self.folder {
            Some(folder) => fs::rename(folder.path().join(Self::NAME), target),
            None => fs::remove_file(target),
        }
    }
}
