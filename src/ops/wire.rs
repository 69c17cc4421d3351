//! Tensors inside attributes, in both directions between the file's form and [`Tensor`].

use bytes::Bytes;
use half::{bf16, f16};

use super::args::elements;
use super::layout::{count, extent};
use crate::error::OpError;
use crate::onnx::TensorProto;
use crate::onnx::proto::tensor_proto::{DataLocation, DataType as WireType};
use crate::tensor::{Array, DataType, Element, Tensor};
use crate::with_array;

/// The tensor stored in `proto`.
///
/// # Errors
/// When its data is in another file, of a type [`Tensor`] lacks, or doesn't fit its shape.
pub fn decode(proto: &TensorProto) -> Result<Tensor, OpError> {
    if proto.data_location() == DataLocation::External {
        return Err(OpError::unsupported("external data in an attribute"));
    }
    let shape = proto.dims.iter().map(|&d| extent(d)).collect::<Result<Vec<_>, _>>()?;
    count(&shape)?;
    let kind = WireType::try_from(proto.data_type()).unwrap_or(WireType::Undefined);
    if let Some(raw) = proto.raw_data.as_ref().filter(|raw| !raw.is_empty()) {
        return decode_raw(kind, &shape, raw);
    }
    let ints = &proto.int32_data;
    match kind {
        WireType::Float => Tensor::from_vec(&shape, proto.float_data.clone()),
        WireType::Double => Tensor::from_vec(&shape, proto.double_data.clone()),
        WireType::Int64 => Tensor::from_vec(&shape, proto.int64_data.clone()),
        WireType::Uint64 => Tensor::from_vec(&shape, proto.uint64_data.clone()),
        WireType::Uint32 => typed(&shape, &proto.uint64_data, |v| v as u32),
        WireType::Int32 => Tensor::from_vec(&shape, ints.clone()),
        WireType::Int16 => typed(&shape, ints, |v| v as i16),
        WireType::Uint16 => typed(&shape, ints, |v| v as u16),
        WireType::Int8 => typed(&shape, ints, |v| v as i8),
        WireType::Uint8 => typed(&shape, ints, |v| v as u8),
        WireType::Bool => typed(&shape, ints, |v| v != 0),
        WireType::Float16 => typed(&shape, ints, |v| f16::from_bits(v as u16)),
        WireType::Bfloat16 => typed(&shape, ints, |v| bf16::from_bits(v as u16)),
        other => Err(unknown(other)),
    }
}

fn unknown(kind: WireType) -> OpError {
    OpError::unsupported(format!("element type {}", kind.as_str_name()))
}

fn typed<S: Copy, T: Element>(
    shape: &[usize],
    stored: &[S],
    convert: impl Fn(S) -> T,
) -> Result<Tensor, OpError> {
    Tensor::from_vec(shape, stored.iter().map(|&v| convert(v)).collect())
}

fn decode_raw(kind: WireType, shape: &[usize], raw: &[u8]) -> Result<Tensor, OpError> {
    macro_rules! little_endian {
        ($type:ty) => {{
            let (chunks, rest) = raw.as_chunks::<{ size_of::<$type>() }>();
            if !rest.is_empty() {
                return Err(OpError::shape("raw data is cut short"));
            }
            Tensor::from_vec(shape, chunks.iter().map(|c| <$type>::from_le_bytes(*c)).collect())
        }};
    }
    match kind {
        WireType::Float => little_endian!(f32),
        WireType::Double => little_endian!(f64),
        WireType::Float16 => little_endian!(f16),
        WireType::Bfloat16 => little_endian!(bf16),
        WireType::Int8 => little_endian!(i8),
        WireType::Int16 => little_endian!(i16),
        WireType::Int32 => little_endian!(i32),
        WireType::Int64 => little_endian!(i64),
        WireType::Uint8 => little_endian!(u8),
        WireType::Uint16 => little_endian!(u16),
        WireType::Uint32 => little_endian!(u32),
        WireType::Uint64 => little_endian!(u64),
        WireType::Bool => typed(shape, raw, |v| v != 0),
        other => Err(unknown(other)),
    }
}

/// `tensor` as it is stored, under `name`.
#[must_use]
pub fn encode(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(wire_type(tensor.data_type()).into()),
        name: Some(name.to_owned()),
        raw_data: Some(Bytes::from(bytes_of(tensor))),
        ..TensorProto::default()
    }
}

/// The elements, little endian and row major.
pub(super) fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    trait LittleEndian: Element {
        fn put(self, bytes: &mut Vec<u8>);
    }
    macro_rules! put {
        ($($type:ty),*) => {$(
            impl LittleEndian for $type {
                fn put(self, bytes: &mut Vec<u8>) {
                    bytes.extend_from_slice(&self.to_le_bytes());
                }
            }
        )*};
    }
    put!(f32, f64, f16, bf16, i8, i16, i32, i64, u8, u16, u32, u64);
    impl LittleEndian for bool {
        fn put(self, bytes: &mut Vec<u8>) {
            bytes.push(u8::from(self));
        }
    }
    fn go<T: LittleEndian>(array: &Array<T>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(array.len() * size_of::<T>());
        elements(array).iter().for_each(|&v| v.put(&mut bytes));
        bytes
    }
    with_array!(tensor, a => go(a))
}

/// The tag of an element type in files.
pub(super) fn wire_type(kind: DataType) -> WireType {
    match kind {
        DataType::F32 => WireType::Float,
        DataType::F64 => WireType::Double,
        DataType::F16 => WireType::Float16,
        DataType::BF16 => WireType::Bfloat16,
        DataType::I8 => WireType::Int8,
        DataType::I16 => WireType::Int16,
        DataType::I32 => WireType::Int32,
        DataType::I64 => WireType::Int64,
        DataType::U8 => WireType::Uint8,
        DataType::U16 => WireType::Uint16,
        DataType::U32 => WireType::Uint32,
        DataType::U64 => WireType::Uint64,
        DataType::Bool => WireType::Bool,
    }
}

/// The element type of a tag in files.
pub(super) fn element_type(tag: i64) -> Result<DataType, OpError> {
    let kind = i32::try_from(tag).ok().and_then(|tag| WireType::try_from(tag).ok());
    Ok(match kind {
        Some(WireType::Float) => DataType::F32,
        Some(WireType::Double) => DataType::F64,
        Some(WireType::Float16) => DataType::F16,
        Some(WireType::Bfloat16) => DataType::BF16,
        Some(WireType::Int8) => DataType::I8,
        Some(WireType::Int16) => DataType::I16,
        Some(WireType::Int32) => DataType::I32,
        Some(WireType::Int64) => DataType::I64,
        Some(WireType::Uint8) => DataType::U8,
        Some(WireType::Uint16) => DataType::U16,
        Some(WireType::Uint32) => DataType::U32,
        Some(WireType::Uint64) => DataType::U64,
        Some(WireType::Bool) => DataType::Bool,
        _ => return Err(OpError::unsupported(format!("element type {tag}"))),
    })
}
