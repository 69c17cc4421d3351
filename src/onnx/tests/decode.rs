use half::{bf16, f16};

use super::{small, text};
use crate::onnx::{Model, TensorProto, data_type_code, data_type_from_code};
use crate::tensor::{DataType, Element, Tensor};

fn model() -> Model {
    Model::from_proto(small()).unwrap()
}

fn listed(code: i32, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: text("t"),
        dims: dims.to_vec(),
        data_type: Some(code),
        ..Default::default()
    }
}

fn raw_and_back<T: Element>(values: &[T]) {
    let tensor = Tensor::from_vec(&[values.len(), 1], values.to_vec()).unwrap();
    let proto = TensorProto::from_tensor("t", &tensor);
    assert_eq!(data_type_from_code(proto.data_type()), Some(T::DATA_TYPE));
    assert_eq!(model().tensor(&proto).unwrap(), tensor);
    assert_eq!(model().tensor_byte_len(&proto), tensor.byte_len() as u64);
}

#[test]
fn raw_data_of_every_type() {
    raw_and_back(&[0.0f32, -1.5, f32::INFINITY]);
    raw_and_back(&[f64::MIN_POSITIVE, -0.0]);
    raw_and_back(&[f16::from_f32(0.1), f16::MAX]);
    raw_and_back(&[bf16::from_f32(-0.1), bf16::EPSILON]);
    raw_and_back(&[i8::MIN, 0, i8::MAX]);
    raw_and_back(&[i16::MIN, 1]);
    raw_and_back(&[i32::MIN, 1]);
    raw_and_back(&[i64::MIN, 1]);
    raw_and_back(&[0u8, u8::MAX]);
    raw_and_back(&[0u16, u16::MAX]);
    raw_and_back(&[0u32, u32::MAX]);
    raw_and_back(&[0u64, u64::MAX]);
    raw_and_back(&[true, false, true]);
    raw_and_back::<f32>(&[]);
}

#[test]
fn raw_data_is_little_endian_and_row_major() {
    let tensor = Tensor::from_vec(&[2, 2], vec![1i16, 2, 3, 0x0405]).unwrap();
    let proto = TensorProto::from_tensor("t", &tensor);
    assert_eq!(proto.raw_data.as_deref(), Some(&[1, 0, 2, 0, 3, 0, 5, 4][..]));
    let Tensor::I16(array) = tensor else { unreachable!() };
    let turned = Tensor::I16(array.t().to_shared());
    assert_eq!(
        TensorProto::from_tensor("t", &turned).raw_data.as_deref().unwrap()[..4],
        [1, 0, 3, 0]
    );
}

#[test]
fn typed_lists_of_every_type() {
    let code = data_type_code;
    let ints = |data_type, values: &[i32]| TensorProto {
        int32_data: values.to_vec(),
        ..listed(code(data_type), &[values.len() as i64])
    };
    let uints = |data_type, values: &[u64]| TensorProto {
        uint64_data: values.to_vec(),
        ..listed(code(data_type), &[values.len() as i64])
    };
    let cases = [
        (ints(DataType::I8, &[-128, 127]), Tensor::from_vec(&[2], vec![-128i8, 127])),
        (ints(DataType::I16, &[-1]), Tensor::from_vec(&[1], vec![-1i16])),
        (ints(DataType::I32, &[i32::MIN]), Tensor::from_vec(&[1], vec![i32::MIN])),
        (ints(DataType::U8, &[255]), Tensor::from_vec(&[1], vec![255u8])),
        (ints(DataType::U16, &[65535]), Tensor::from_vec(&[1], vec![65535u16])),
        (ints(DataType::Bool, &[0, 1]), Tensor::from_vec(&[2], vec![false, true])),
        (ints(DataType::F16, &[0x3c00]), Tensor::from_vec(&[1], vec![f16::ONE])),
        (ints(DataType::BF16, &[0x3f80]), Tensor::from_vec(&[1], vec![bf16::ONE])),
        (uints(DataType::U32, &[1 << 31]), Tensor::from_vec(&[1], vec![1u32 << 31])),
        (uints(DataType::U64, &[u64::MAX]), Tensor::from_vec(&[1], vec![u64::MAX])),
        (
            TensorProto { float_data: vec![1.5], ..listed(1, &[]) },
            Tensor::from_vec(&[], vec![1.5f32]),
        ),
        (
            TensorProto { double_data: vec![1.5, 2.5], ..listed(11, &[2, 1]) },
            Tensor::from_vec(&[2, 1], vec![1.5f64, 2.5]),
        ),
        (
            TensorProto {
                int64_data: vec![-7],
                raw_data: Some(bytes::Bytes::new()),
                ..listed(7, &[1])
            },
            Tensor::from_vec(&[1], vec![-7i64]),
        ),
    ];
    for (proto, wanted) in cases {
        let wanted = wanted.unwrap();
        assert_eq!(model().tensor(&proto).unwrap(), wanted);
        assert_eq!(model().tensor_byte_len(&proto), wanted.byte_len() as u64);
    }
}

/// Two elements a byte, the first one in the low half; the last half of an odd number is unused.
#[test]
fn halves_of_bytes_become_bytes() {
    let raw = |code| TensorProto {
        raw_data: Some(bytes::Bytes::from_static(&[0x8f, 0x17])),
        ..listed(code, &[3])
    };
    let list = TensorProto { int32_data: vec![0x8f, 0x17], ..listed(22, &[3]) };
    let signed = Tensor::from_vec(&[3], vec![-1i8, -8, 7]).unwrap();
    assert_eq!(model().tensor(&raw(22)).unwrap(), signed);
    assert_eq!(model().tensor(&list).unwrap(), signed);
    let unsigned = Tensor::from_vec(&[3], vec![15u8, 8, 7]).unwrap();
    assert_eq!(model().tensor(&raw(21)).unwrap(), unsigned);
}

#[test]
fn faults_are_named() {
    let fault = |proto: TensorProto| model().tensor(&proto).unwrap_err().to_string();
    let raw = |bytes: usize| Some(bytes::Bytes::from(vec![0; bytes]));
    for (proto, part) in [
        (listed(1, &[2]), "wants 2 elements, found 0"),
        (TensorProto { raw_data: raw(7), ..listed(1, &[2]) }, "wants 2 elements, found 7 bytes"),
        (TensorProto { raw_data: raw(4), ..listed(1, &[-1]) }, "has dimension -1"),
        (TensorProto { raw_data: raw(4), ..listed(1, &[i64::MAX, 4]) }, "is too large"),
        (TensorProto { raw_data: raw(0), ..listed(1, &[0, i64::MAX, 4]) }, "is too large"),
        (TensorProto { int32_data: vec![300], ..listed(2, &[1]) }, "out of range for U8"),
        (TensorProto { float_data: vec![0.0], ..listed(7, &[1]) }, "found 0 in the list"),
        (listed(8, &[1]), "element type STRING isn't decoded"),
        (listed(14, &[1]), "element type COMPLEX64 isn't decoded"),
        (listed(26, &[1]), "element type INT2 isn't decoded"),
        (listed(22, &[1]), "wants 1 bytes, found 0"),
        (listed(17, &[1]), "element type FLOAT8E4M3FN isn't decoded"),
        (listed(0, &[1]), "element type UNDEFINED isn't decoded"),
        (listed(99, &[1]), "element type 99 isn't decoded"),
    ] {
        let text = fault(proto);
        assert!(text.starts_with("tensor `t`: ") && text.contains(part), "{text}");
    }
}

#[test]
fn byte_lengths_of_types_that_are_not_decoded() {
    let len = |proto: TensorProto| model().tensor_byte_len(&proto);
    let word = bytes::Bytes::from_static(b"word");
    assert_eq!(len(TensorProto { int32_data: vec![0x21, 3], ..listed(22, &[3]) }), 2);
    assert_eq!(len(TensorProto { int32_data: vec![1; 5], ..listed(27, &[5]) }), 4);
    assert_eq!(len(TensorProto { int32_data: vec![1; 5], ..listed(17, &[5]) }), 5);
    assert_eq!(len(TensorProto { float_data: vec![1.0; 4], ..listed(14, &[2]) }), 16);
    assert_eq!(len(TensorProto { string_data: vec![word; 2], ..listed(8, &[2]) }), 8);
}

#[test]
fn codes_match_types() {
    for code in -1..40 {
        if let Some(data_type) = data_type_from_code(code) {
            assert_eq!(data_type_code(data_type), code);
        }
    }
    assert_eq!((0..40).filter_map(data_type_from_code).count(), 13);
}
