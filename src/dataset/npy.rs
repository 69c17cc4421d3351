//! NumPy's `.npy` arrays, from any stream.
//!
//! The header is parsed here rather than by a crate because it comes from outside: its length, its
//! dims and the sizes they imply are checked before anything is allocated.

use std::io::{ErrorKind, Read};

use half::f16;
use ndarray::{IxDyn, ShapeBuilder};

use crate::tensor::{Array, DataType, Element, Tensor};

/// Longest header that is read; NumPy itself refuses more than 10,000 characters.
const MAX_HEADER: usize = 1 << 16;
/// Bytes that are turned into elements at a time.
const CHUNK: usize = 1 << 16;

/// What a `.npy` header says about the bytes after it.
#[derive(Debug)]
pub(super) struct Header {
    pub data_type: DataType,
    pub big_endian: bool,
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Bytes from the start of the array to its first element.
    pub data_start: u64,
}

impl Header {
    /// Bytes of all elements, where that fits in memory at all.
    ///
    /// # Errors
    /// When the product of the dims overflows.
    pub fn byte_len(&self) -> Result<u64, String> {
        self.shape
            .iter()
            .try_fold(element_size(self.data_type), |n, &d| n.checked_mul(d))
            .filter(|&n| isize::try_from(n).is_ok())
            .map(|n| n as u64)
            .ok_or_else(|| format!("shape {:?} is too large", self.shape))
    }
}

/// Reads the header and leaves the stream at the first element.
///
/// # Errors
/// When it is no `.npy` header, or one of an element type that can't be used.
pub(super) fn read_header(reader: &mut impl Read) -> Result<Header, String> {
    let mut start = [0u8; 8];
    read_exact(reader, &mut start)?;
    if &start[..6] != b"\x93NUMPY" {
        return Err("is not a .npy array".to_owned());
    }
    let (length, prefix) = match start[6] {
        1 => {
            let mut bytes = [0u8; 2];
            read_exact(reader, &mut bytes)?;
            (usize::from(u16::from_le_bytes(bytes)), 10)
        }
        2 | 3 => {
            let mut bytes = [0u8; 4];
            read_exact(reader, &mut bytes)?;
            (u32::from_le_bytes(bytes) as usize, 12)
        }
        version => return Err(format!(".npy format version {version} is not known")),
    };
    if length > MAX_HEADER {
        return Err(format!("has a header of {length} bytes: the file is damaged"));
    }
    let mut text = vec![0u8; length];
    read_exact(reader, &mut text)?;
    let (descr, fortran, shape) = parse_dict(&String::from_utf8_lossy(&text))?;
    let (data_type, big_endian) = parse_descr(&descr)?;
    Ok(Header { data_type, big_endian, fortran, shape, data_start: prefix + length as u64 })
}

/// Reads the elements after `header`. `limit` is the most bytes the stream can possibly give.
///
/// # Errors
/// When the stream holds less than the header promises, or memory does not suffice.
pub(super) fn read_elements(
    reader: &mut impl Read,
    header: &Header,
    limit: u64,
) -> Result<Tensor, String> {
    let bytes = header.byte_len()?;
    if bytes > limit {
        return Err(format!(
            "promises {bytes} bytes of data for shape {:?} but holds at most {limit}: it is cut \
             short or damaged",
            header.shape
        ));
    }
    match header.data_type {
        DataType::F16 => read_typed::<f16>(reader, header),
        DataType::F32 => read_typed::<f32>(reader, header),
        DataType::F64 => read_typed::<f64>(reader, header),
        DataType::I8 => read_typed::<i8>(reader, header),
        DataType::I16 => read_typed::<i16>(reader, header),
        DataType::I32 => read_typed::<i32>(reader, header),
        DataType::I64 => read_typed::<i64>(reader, header),
        DataType::U8 => read_typed::<u8>(reader, header),
        DataType::U16 => read_typed::<u16>(reader, header),
        DataType::U32 => read_typed::<u32>(reader, header),
        DataType::U64 => read_typed::<u64>(reader, header),
        DataType::Bool => read_typed::<bool>(reader, header),
        DataType::BF16 => Err("holds bfloat16, which .npy can't express".to_owned()),
    }
}

/// An element as it lies in a file.
trait Stored: Element {
    const SIZE: usize;
    fn little(bytes: &[u8]) -> Option<Self>;
    fn big(bytes: &[u8]) -> Option<Self>;
}

macro_rules! stored {
    ($($type:ty),*) => {$(
        impl Stored for $type {
            const SIZE: usize = size_of::<$type>();
            fn little(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }
            fn big(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_be_bytes(bytes.try_into().ok()?))
            }
        }
    )*};
}

stored!(f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);

impl Stored for bool {
    const SIZE: usize = 1;
    fn little(bytes: &[u8]) -> Option<Self> {
        bytes.first().map(|&b| b != 0)
    }
    fn big(bytes: &[u8]) -> Option<Self> {
        Self::little(bytes)
    }
}

fn read_typed<T: Stored>(reader: &mut impl Read, header: &Header) -> Result<Tensor, String> {
    let count: usize = header.shape.iter().product();
    let mut elements: Vec<T> = Vec::new();
    elements
        .try_reserve_exact(count)
        .map_err(|_| format!("needs {} bytes of memory, which there are not", count * T::SIZE))?;
    let decode = if header.big_endian { T::big } else { T::little };
    let mut buffer = vec![0u8; CHUNK];
    let mut left = count * T::SIZE;
    while left > 0 {
        let chunk = &mut buffer[..left.min(CHUNK)];
        read_exact(reader, chunk)?;
        elements.extend(chunk.chunks_exact(T::SIZE).filter_map(decode));
        left -= chunk.len();
    }
    let shape = IxDyn(&header.shape).set_f(header.fortran);
    let array = ndarray::Array::from_shape_vec(shape, elements).map_err(|e| e.to_string())?;
    let array: Array<T> = if array.is_standard_layout() {
        array.into_shared()
    } else {
        array.as_standard_layout().into_owned().into_shared()
    };
    Ok(T::wrap(array))
}

/// Bytes of one element.
pub(super) fn element_size(data_type: DataType) -> usize {
    match data_type {
        DataType::I8 | DataType::U8 | DataType::Bool => 1,
        DataType::F16 | DataType::BF16 | DataType::I16 | DataType::U16 => 2,
        DataType::F32 | DataType::I32 | DataType::U32 => 4,
        DataType::F64 | DataType::I64 | DataType::U64 => 8,
    }
}

fn read_exact(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), String> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => "is cut short".to_owned(),
        _ => format!("can't be read: {error}"),
    })
}

/// The three entries of the header, a Python dict literal: `descr`, `fortran_order`, `shape`.
fn parse_dict(text: &str) -> Result<(String, bool, Vec<usize>), String> {
    let damaged = || format!("has a header that can't be read: {}", text.trim());
    let mut rest =
        text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(damaged)?.trim();
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(damaged)?;
        let value = after.trim_start().strip_prefix(':').ok_or_else(damaged)?.trim_start();
        match key {
            "descr" if value.starts_with('[') => {
                return Err("is a structured array: save every field as an array of its own".into());
            }
            "descr" => {
                let (text, after) = quoted(value).ok_or_else(damaged)?;
                descr = Some(text.to_owned());
                rest = after;
            }
            "fortran_order" => {
                let word = value.split([',', ' ']).next().unwrap_or_default();
                fortran = match word {
                    "True" => Some(true),
                    "False" => Some(false),
                    _ => return Err(damaged()),
                };
                rest = &value[word.len()..];
            }
            "shape" => {
                let (dims, after) =
                    value.strip_prefix('(').and_then(|v| v.split_once(')')).ok_or_else(damaged)?;
                let dims = dims.split(',').map(str::trim).filter(|d| !d.is_empty());
                // Python 2 wrote long integers with an `L` behind.
                let dims = dims.map(|d| d.trim_end_matches('L').parse::<usize>());
                shape = Some(dims.collect::<Result<Vec<_>, _>>().map_err(|_| damaged())?);
                rest = after;
            }
            _ => return Err(damaged()),
        }
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    match (descr, fortran, shape) {
        (Some(descr), Some(fortran), Some(shape)) => Ok((descr, fortran, shape)),
        _ => Err(damaged()),
    }
}

/// The quoted string that `text` starts with, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|&c| c == '\'' || c == '"')?;
    text[1..].split_once(quote)
}

/// Element type and whether it is big-endian, from NumPy's type string (`<f4`).
fn parse_descr(descr: &str) -> Result<(DataType, bool), String> {
    let plain = descr.trim_start_matches(['<', '>', '|', '=']);
    let data_type = match plain {
        "f2" => DataType::F16,
        "f4" => DataType::F32,
        "f8" => DataType::F64,
        "i1" => DataType::I8,
        "i2" => DataType::I16,
        "i4" => DataType::I32,
        "i8" => DataType::I64,
        "u1" => DataType::U8,
        "u2" => DataType::U16,
        "u4" => DataType::U32,
        "u8" => DataType::U64,
        "b1" | "?" => DataType::Bool,
        _ if plain.starts_with('O') => {
            return Err("holds pickled Python objects, which are not read because unpickling can \
                        run code: save it again with a numeric dtype"
                .to_owned());
        }
        _ if plain.starts_with(['U', 'S', 'a']) => {
            return Err(format!("holds text (`{descr}`): save numbers instead"));
        }
        _ => return Err(format!("has elements of type `{descr}`, which can't be used")),
    };
    Ok((data_type, descr.starts_with('>')))
}
