//! Constant tensors: from the stored forms to [`Tensor`] and back.

use bytes::{BufMut, Bytes};
use half::{bf16, f16};

use super::external;
use super::proto::{
    TensorProto, TensorShapeProto, TypeProto, tensor_proto::DataType as Code,
    tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
};
use crate::error::{Error, Result};
use crate::tensor::{DataType, Element, Tensor};
use crate::with_array;

const CODES: [(DataType, Code); 13] = [
    (DataType::F32, Code::Float),
    (DataType::F64, Code::Double),
    (DataType::F16, Code::Float16),
    (DataType::BF16, Code::Bfloat16),
    (DataType::I8, Code::Int8),
    (DataType::I16, Code::Int16),
    (DataType::I32, Code::Int32),
    (DataType::I64, Code::Int64),
    (DataType::U8, Code::Uint8),
    (DataType::U16, Code::Uint16),
    (DataType::U32, Code::Uint32),
    (DataType::U64, Code::Uint64),
    (DataType::Bool, Code::Bool),
];

/// The value of `TensorProto.data_type` for an element type.
#[must_use]
pub fn data_type_code(data_type: DataType) -> i32 {
    CODES.iter().find(|(d, _)| *d == data_type).map_or(0, |(_, code)| *code as i32)
}

/// The element type of a `TensorProto.data_type` value, where [`Tensor`] can hold it.
#[must_use]
pub fn data_type_from_code(code: i32) -> Option<DataType> {
    CODES.iter().find(|(_, c)| *c as i32 == code).map(|(data_type, _)| *data_type)
}

impl TypeProto {
    /// The type of tensors with the element type and shape of this one.
    #[must_use]
    pub fn of_tensor(tensor: &Tensor) -> Self {
        let dim = |&extent: &usize| Dimension {
            value: Some(dimension::Value::DimValue(extent as i64)),
            ..Dimension::default()
        };
        let kind = type_proto::Tensor {
            elem_type: Some(data_type_code(tensor.data_type())),
            shape: Some(TensorShapeProto { dim: tensor.shape().iter().map(dim).collect() }),
        };
        Self { value: Some(type_proto::Value::TensorType(kind)), ..Self::default() }
    }
}

/// The specification's name of a `TensorProto.data_type` value.
#[must_use]
pub fn data_type_name(code: i32) -> String {
    Code::try_from(code).map_or_else(|_| format!("{code}"), |c| c.as_str_name().to_owned())
}

impl TensorProto {
    /// A constant holding `tensor`, in raw little-endian form.
    #[must_use]
    pub fn from_tensor(name: &str, tensor: &Tensor) -> Self {
        Self {
            // An axis of an array in memory is at most `isize::MAX` long.
            dims: tensor.shape().iter().map(|&d| d as i64).collect(),
            data_type: Some(data_type_code(tensor.data_type())),
            name: Some(name.to_owned()),
            raw_data: Some(to_raw(tensor)),
            ..Self::default()
        }
    }

    /// The elements inside the message; [`super::Model::tensor`] finds those in other files too.
    ///
    /// # Errors
    /// As [`super::Model::tensor`], and when the elements lie in another file.
    pub fn to_tensor(&self) -> Result<Tensor> {
        if external::is_external(self) {
            return Err(bad(self, "its data is in another file"));
        }
        decode(self, None)
    }
}

/// The elements in row-major order, little endian.
#[must_use]
pub fn to_raw(tensor: &Tensor) -> Bytes {
    fn go<T: Stored>(elements: &crate::tensor::Array<T>) -> Bytes {
        let mut bytes = Vec::with_capacity(elements.len() * T::SIZE);
        match elements.as_slice() {
            Some(slice) => slice.iter().for_each(|v| v.put(&mut bytes)),
            None => elements.iter().for_each(|v| v.put(&mut bytes)),
        }
        bytes.into()
    }
    with_array!(tensor, a => go(a))
}

/// Decodes a tensor whose external bytes, if that is where its elements are, are given. Four-bit
/// integers become bytes.
pub(super) fn decode(tensor: &TensorProto, external: Option<&[u8]>) -> Result<Tensor> {
    if tensor.segment.is_none()
        && let Some(nibbles) = nibbles(tensor, external)?
    {
        return Ok(nibbles);
    }
    let Some(data_type) = data_type_from_code(tensor.data_type()) else {
        let name = data_type_name(tensor.data_type());
        return Err(bad(tensor, format!("element type {name} isn't decoded")));
    };
    if tensor.segment.is_some() {
        return Err(bad(tensor, "tensors in segments aren't decoded"));
    }
    let shape = shape(tensor)?;
    let raw = external.or(raw(tensor));
    match data_type {
        DataType::F32 => elements::<f32>(tensor, &shape, raw),
        DataType::F64 => elements::<f64>(tensor, &shape, raw),
        DataType::F16 => elements::<f16>(tensor, &shape, raw),
        DataType::BF16 => elements::<bf16>(tensor, &shape, raw),
        DataType::I8 => elements::<i8>(tensor, &shape, raw),
        DataType::I16 => elements::<i16>(tensor, &shape, raw),
        DataType::I32 => elements::<i32>(tensor, &shape, raw),
        DataType::I64 => elements::<i64>(tensor, &shape, raw),
        DataType::U8 => elements::<u8>(tensor, &shape, raw),
        DataType::U16 => elements::<u16>(tensor, &shape, raw),
        DataType::U32 => elements::<u32>(tensor, &shape, raw),
        DataType::U64 => elements::<u64>(tensor, &shape, raw),
        DataType::Bool => elements::<bool>(tensor, &shape, raw),
    }
}

/// A tensor of four-bit integers as bytes, two of which lie in each stored byte, the first one low;
/// `None` for other types.
fn nibbles(tensor: &TensorProto, external: Option<&[u8]>) -> Result<Option<Tensor>> {
    let signed = match Code::try_from(tensor.data_type()) {
        Ok(Code::Int4) => true,
        Ok(Code::Uint4) => false,
        _ => return Ok(None),
    };
    let shape = shape(tensor)?;
    let wanted: usize = shape.iter().product();
    let bytes: Vec<u8> = match external.or(raw(tensor)) {
        Some(raw) => raw.to_vec(),
        None => tensor.int32_data.iter().map(|&pair| (pair & 0xff) as u8).collect(),
    };
    if bytes.len() != wanted.div_ceil(2) {
        let (held, wanted) = (bytes.len(), wanted.div_ceil(2));
        return Err(bad(tensor, format!("shape {shape:?} wants {wanted} bytes, found {held}")));
    }
    let halves = bytes.iter().flat_map(|&byte| [byte & 15, byte >> 4]).take(wanted);
    let decoded = if signed {
        // The sign is the highest of the four bits.
        Tensor::from_vec(&shape, halves.map(|v| (v << 4).cast_signed() >> 4).collect())
    } else {
        Tensor::from_vec::<u8>(&shape, halves.collect())
    };
    decoded.map(Some).map_err(|e| bad(tensor, e.to_string()))
}

/// The raw form, where the elements are in it.
fn raw(tensor: &TensorProto) -> Option<&[u8]> {
    // Some writers add an empty `raw_data` to a filled typed list.
    let listed = listed(tensor) > 0;
    tensor.raw_data.as_deref().filter(|raw| !(raw.is_empty() && listed))
}

/// Entries of the typed lists.
fn listed(tensor: &TensorProto) -> usize {
    tensor.float_data.len()
        + tensor.double_data.len()
        + tensor.int32_data.len()
        + tensor.int64_data.len()
        + tensor.uint64_data.len()
        + tensor.string_data.len()
}

fn elements<T: Stored>(
    tensor: &TensorProto,
    shape: &[usize],
    raw: Option<&[u8]>,
) -> Result<Tensor> {
    let wanted: usize = shape.iter().product();
    let amiss = |held: usize, unit: &str| {
        bad(tensor, format!("shape {shape:?} wants {wanted} elements, found {held} {unit}"))
    };
    let values = if let Some(raw) = raw {
        if Some(raw.len()) != wanted.checked_mul(T::SIZE) {
            return Err(amiss(raw.len(), "bytes"));
        }
        raw.chunks_exact(T::SIZE).map(T::get).collect()
    } else {
        let held = T::listed(tensor);
        if held != wanted {
            return Err(amiss(held, "in the list for its type"));
        }
        T::from_list(tensor).ok_or_else(|| {
            bad(tensor, format!("an element is out of range for {:?}", T::DATA_TYPE))
        })?
    };
    Tensor::from_vec(shape, values).map_err(|e| bad(tensor, e.to_string()))
}

/// The dims as sizes, their product known to fit memory.
fn shape(tensor: &TensorProto) -> Result<Vec<usize>> {
    count(tensor)?;
    tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| bad(tensor, format!("has dimension {d}"))))
        .collect()
}

/// Elements the dims ask for; refused where no memory could hold them.
fn count(tensor: &TensorProto) -> Result<u64> {
    let mut product = 1u64;
    for &dim in &tensor.dims {
        let size = u64::try_from(dim).map_err(|_| bad(tensor, format!("has dimension {dim}")))?;
        // Zeros are left out, so that an absurd extent can't hide behind one.
        product = product
            .checked_mul(size.max(1))
            .filter(|&p| p <= isize::MAX as u64 / 16)
            .ok_or_else(|| bad(tensor, format!("shape {:?} is too large", tensor.dims)))?;
    }
    Ok(if tensor.dims.contains(&0) { 0 } else { product })
}

/// Bits per element in raw form; `None` for strings and unknown types.
fn bits(code: i32) -> Option<u64> {
    use Code::*;
    Some(match Code::try_from(code).ok()? {
        Undefined | String => return None,
        Uint2 | Int2 => 2,
        Uint4 | Int4 | Float4e2m1 => 4,
        Float6e2m3 | Float6e3m2 => 6,
        Uint8 | Int8 | Bool | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz
        | Float8e8m0 => 8,
        Uint16 | Int16 | Float16 | Bfloat16 => 16,
        Float | Int32 | Uint32 => 32,
        Double | Int64 | Uint64 | Complex64 => 64,
        Complex128 => 128,
    })
}

/// Bytes the dims and the element type ask for in raw form; `None` for strings and unknown types.
pub(super) fn wanted_byte_len(tensor: &TensorProto) -> Result<Option<u64>> {
    let count = count(tensor)?;
    Ok(bits(tensor.data_type()).map(|bits| count.saturating_mul(bits).div_ceil(8)))
}

/// Bytes of the elements inside the message, whatever their form, as raw data would take.
pub(super) fn inner_byte_len(tensor: &TensorProto) -> u64 {
    if let Some(raw) = raw(tensor) {
        return raw.len() as u64;
    }
    let strings: usize = tensor.string_data.iter().map(Bytes::len).sum();
    let bits = bits(tensor.data_type()).unwrap_or(0);
    let ints = match bits {
        // One packed byte per entry.
        2 | 4 => tensor.int32_data.len() as u64 * 8,
        _ => tensor.int32_data.len() as u64 * bits,
    };
    let longs = (tensor.int64_data.len() + tensor.uint64_data.len()) as u64 * bits;
    ints.saturating_add(longs).div_ceil(8)
        + tensor.float_data.len() as u64 * 4
        + tensor.double_data.len() as u64 * 8
        + strings as u64
}

/// Checks the dims, and that raw data has the length they ask for.
pub(super) fn check(tensor: &TensorProto, external: Option<u64>) -> Result<()> {
    let wanted = wanted_byte_len(tensor)?;
    let held = external.or_else(|| raw(tensor).map(|raw| raw.len() as u64));
    match (wanted, held) {
        (Some(wanted), Some(held)) if wanted != held && tensor.segment.is_none() => {
            let name = data_type_name(tensor.data_type());
            let reason =
                format!("{name} of shape {:?} takes {wanted} bytes, found {held}", tensor.dims);
            Err(bad(tensor, reason))
        }
        _ => Ok(()),
    }
}

/// The error for a faulty tensor.
pub(super) fn bad(tensor: &TensorProto, reason: impl Into<String>) -> Error {
    Error::BadTensor { tensor: tensor.name().to_owned(), reason: reason.into() }
}

/// How an element type lies in raw data and in the typed lists.
trait Stored: Element {
    /// Bytes in raw form.
    const SIZE: usize = size_of::<Self>();
    /// From exactly [`Self::SIZE`] bytes.
    fn get(raw: &[u8]) -> Self;
    /// Appends the raw form.
    fn put(self, raw: &mut Vec<u8>);
    /// Length of the typed list for this type.
    fn listed(tensor: &TensorProto) -> usize;
    /// The typed list; `None` when an entry is out of range.
    fn from_list(tensor: &TensorProto) -> Option<Vec<Self>>;
}

macro_rules! stored {
    ($($type:ty, $list:ident, $convert:expr;)*) => {$(
        impl Stored for $type {
            fn get(raw: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(raw);
                <$type>::from_le_bytes(array)
            }
            fn put(self, raw: &mut Vec<u8>) {
                raw.put_slice(&self.to_le_bytes());
            }
            fn listed(tensor: &TensorProto) -> usize {
                tensor.$list.len()
            }
            fn from_list(tensor: &TensorProto) -> Option<Vec<Self>> {
                tensor.$list.iter().map(|&v| $convert(v)).collect()
            }
        }
    )*};
}

stored! {
    f32, float_data, Some;
    f64, double_data, Some;
    f16, int32_data, |v| u16::try_from(v).ok().map(f16::from_bits);
    bf16, int32_data, |v| u16::try_from(v).ok().map(bf16::from_bits);
    i8, int32_data, |v| i8::try_from(v).ok();
    i16, int32_data, |v| i16::try_from(v).ok();
    i32, int32_data, Some;
    i64, int64_data, Some;
    u8, int32_data, |v| u8::try_from(v).ok();
    u16, int32_data, |v| u16::try_from(v).ok();
    u32, uint64_data, |v| u32::try_from(v).ok();
    u64, uint64_data, Some;
}

impl Stored for bool {
    fn get(raw: &[u8]) -> Self {
        raw.iter().any(|&byte| byte != 0)
    }
    fn put(self, raw: &mut Vec<u8>) {
        raw.push(self.into());
    }
    fn listed(tensor: &TensorProto) -> usize {
        tensor.int32_data.len()
    }
    fn from_list(tensor: &TensorProto) -> Option<Vec<Self>> {
        Some(tensor.int32_data.iter().map(|&v| v != 0).collect())
    }
}
