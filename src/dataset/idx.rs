//! IDX files, the form MNIST and its relatives are distributed in, plain or gzipped.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::npy::{self, Header};
use super::npz::MAX_INFLATION;
use crate::error::{Error, Result};
use crate::tensor::{DataType, Tensor};

/// Reads an IDX file; one that starts like gzip is unpacked on the way.
///
/// # Errors
/// When it can't be read, is no IDX file, or is cut short.
pub(super) fn read(path: &Path) -> Result<Tensor> {
    let cannot_read = |source| Error::Read { path: path.into(), source };
    let file = File::open(path).map_err(cannot_read)?;
    let length = file.metadata().map_err(cannot_read)?.len();
    let gzip = super::form::starts_with(path, &[0x1f, 0x8b])?;
    let reader = BufReader::new(file);
    let tensor = if gzip {
        let limit = length.saturating_mul(MAX_INFLATION);
        read_stream(&mut BufReader::new(MultiGzDecoder::new(reader)), limit)
    } else {
        read_stream(&mut { reader }, length)
    };
    tensor.map_err(|reason| Error::Data { path: path.into(), reason })
}

fn read_stream(reader: &mut impl Read, limit: u64) -> Result<Tensor, String> {
    let unreadable = |e: std::io::Error| format!("is not a whole IDX file: {e}");
    let mut magic = [0u8; 4];
    reader.read_exact(&mut magic).map_err(unreadable)?;
    let data_type = match magic {
        [0, 0, 0x08, _] => DataType::U8,
        [0, 0, 0x09, _] => DataType::I8,
        [0, 0, 0x0b, _] => DataType::I16,
        [0, 0, 0x0c, _] => DataType::I32,
        [0, 0, 0x0d, _] => DataType::F32,
        [0, 0, 0x0e, _] => DataType::F64,
        _ => return Err("is not an IDX file".to_owned()),
    };
    let mut shape = Vec::new();
    for _ in 0..magic[3] {
        let mut dim = [0u8; 4];
        reader.read_exact(&mut dim).map_err(unreadable)?;
        shape.push(u32::from_be_bytes(dim) as usize);
    }
    let data_start = 4 + 4 * u64::from(magic[3]);
    let header = Header { data_type, big_endian: true, fortran: false, shape, data_start };
    let tensor = npy::read_elements(reader, &header, limit.saturating_sub(data_start))?;
    match reader.read(&mut [0u8; 1]) {
        Ok(0) => Ok(tensor),
        Ok(_) => Err(format!("holds more than its shape {:?} says", header.shape)),
        Err(error) => Err(unreadable(error)),
    }
}

/// The labels that belong to an images file by its name: `train-images-idx3-ubyte.gz` has
/// `train-labels-idx1-ubyte`, gzipped or not.
pub(super) fn sibling_labels(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    if !name.contains("images") {
        return None;
    }
    let name = name.replace("images", "labels").replace("idx3", "idx1");
    let bare = name.strip_suffix(".gz").unwrap_or(&name);
    [name.clone(), bare.to_owned(), format!("{bare}.gz")]
        .into_iter()
        .map(|name| images.with_file_name(name))
        .find(|path| path.is_file())
}
