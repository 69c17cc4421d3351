use std::io::Write;

use prost::Message;

use super::*;
use crate::dataset::{ChannelOrder, Layout};
use crate::onnx::TensorProto;

#[test]
fn archives_stored_and_compressed() {
    for name in ["stored.npz", "compressed.npz"] {
        let data = open(&fixture(name), &floats(&[3, 2, 2])).unwrap();
        assert_eq!(data.len(), 3);
        assert_eq!(data.all_labels(), Some(vec![2, 0, 1]));
        assert_eq!(data.labels(&[2, 0]).unwrap(), Some(vec![1, 2]));
        let batch = all(&data);
        assert_eq!((batch.data_type(), batch.shape()), (DataType::F32, &[3, 3, 2, 2][..]));
        // Stored with channels last, taken with channels first, bytes scaled to 0..1.
        let expected: Vec<f64> = [0, 3, 6, 9, 1, 4, 7, 10]
            .iter()
            .map(|v| f64::from((f64::from(*v) * 7.0 / 255.0) as f32))
            .collect();
        assert_eq!(values(&batch)[..8], expected);
        assert!(data.description().contains("3 samples with labels"), "{}", data.description());
    }
}

#[test]
fn any_key_will_do_for_one_array() {
    let data = open(&fixture("stored.npz"), &[spec("pixels", DataType::F32, &[3, 2, 2])]).unwrap();
    assert_eq!(data.len(), 3);
}

#[test]
fn arrays_are_matched_by_name() {
    let ids = spec("ids", DataType::I64, &[2]);
    let mask = spec("mask", DataType::F32, &[0]);
    let data = open(&fixture("two-inputs.npz"), &[mask, ids.clone()]).unwrap();
    let batch = data.batch(&[1]).unwrap();
    assert_eq!(batch[0], Tensor::from_vec(&[1, 2], vec![1f32, 1.0]).unwrap());
    assert_eq!(batch[1], Tensor::from_vec(&[1, 2], vec![3i64, 4]).unwrap());
    assert!(!data.has_labels());
    let missing = [ids, spec("segments", DataType::I64, &[2])];
    let text = refusal(open(&fixture("two-inputs.npz"), &missing));
    assert!(text.contains("`segments`") && text.contains("ids, mask, z"), "{text}");
    let text = refusal(open(&fixture("big-endian.npy"), &missing));
    assert!(text.contains("npz keyed by input name"), "{text}");
}

#[test]
fn fortran_order_big_endian_and_half() {
    let expected: Vec<f64> = (0..24).map(f64::from).collect();
    for name in ["fortran.npy", "big-endian.npy", "half.npy"] {
        let data = open(&fixture(name), &floats(&[3, 4])).unwrap();
        assert_eq!(values(&all(&data)), expected, "{name}");
    }
}

#[test]
fn every_number_type_is_read() {
    let dir = folder();
    let types: [(&str, Vec<u8>); 11] = [
        ("|u1", vec![1, 0]),
        ("|i1", vec![1, 0]),
        ("|b1", vec![1, 0]),
        ("<i2", vec![1, 0, 0, 0]),
        (">u2", vec![0, 1, 0, 0]),
        ("<i4", vec![1, 0, 0, 0, 0, 0, 0, 0]),
        (">u4", vec![0, 0, 0, 1, 0, 0, 0, 0]),
        (">i8", [1i64, 0].iter().flat_map(|v| v.to_be_bytes()).collect()),
        ("<u8", [1u64, 0].iter().flat_map(|v| v.to_le_bytes()).collect()),
        (">f8", [1f64, 0.0].iter().flat_map(|v| v.to_be_bytes()).collect()),
        ("<f2", vec![0, 0x3c, 0, 0]),
    ];
    for (descr, bytes) in types {
        let path = write(&dir, "a.npy", &npy(descr, false, "(2, 1)", &bytes));
        for data_type in [DataType::F32, DataType::F16, DataType::I32, DataType::U8, DataType::Bool]
        {
            let data = open(&path, &[spec("x", data_type, &[1])]).unwrap();
            let one = if descr == "|u1" && matches!(data_type, DataType::F32 | DataType::F16) {
                1.0 / 255.0
            } else {
                1.0
            };
            let batch = all(&data);
            assert_eq!(batch.data_type(), data_type);
            assert!((values(&batch)[0] - one).abs() < 1e-5, "{descr} {data_type:?}");
            assert_eq!(values(&batch)[1], 0.0);
        }
    }
}

#[test]
fn values_are_scaled_and_shifted_per_channel() {
    let pre =
        Preprocess { mean: vec![0.5, 0.25, 0.0], std: vec![0.5, 1.0, 2.0], ..Default::default() };
    let inputs = floats(&[3, 2, 2]);
    let data = Dataset::open(&fixture("stored.npz"), &inputs, None, &pre).unwrap();
    let first = values(&data.batch(&[0]).unwrap()[0]);
    for (channel, (mean, std)) in [(0.5, 0.5), (0.25, 1.0), (0.0, 2.0)].into_iter().enumerate() {
        let x = channel as f64 * 7.0 / 255.0;
        assert!((first[channel * 4] - (x - mean) / std).abs() < 1e-6);
    }
    let bgr = Preprocess { channels: ChannelOrder::Bgr, ..pre.clone() };
    let data = Dataset::open(&fixture("stored.npz"), &inputs, None, &bgr).unwrap();
    assert!((values(&data.batch(&[0]).unwrap()[0])[0] - (14.0 / 255.0 - 0.5) / 0.5).abs() < 1e-6);
    // Means are in units after scaling.
    let lite =
        Preprocess { scale: Some(1.0), mean: vec![127.0], std: vec![128.0], ..Default::default() };
    let data = Dataset::open(&fixture("stored.npz"), &inputs, None, &lite).unwrap();
    assert_eq!(values(&data.batch(&[0]).unwrap()[0])[4], (7.0 - 127.0) / 128.0);
    let two = Preprocess { mean: vec![0.1, 0.2], ..Default::default() };
    let text = refusal(Dataset::open(&fixture("stored.npz"), &inputs, None, &two));
    assert!(text.contains("--mean") && text.contains("3 channels"), "{text}");
    let zero = Preprocess { std: vec![0.0], ..Default::default() };
    assert!(refusal(Dataset::open(&fixture("stored.npz"), &inputs, None, &zero)).contains("--std"));
    let integers = [spec("x", DataType::U8, &[3, 2, 2])];
    assert!(
        refusal(Dataset::open(&fixture("stored.npz"), &integers, None, &zero)).contains("floats")
    );
    // Without being asked, bytes for a model of bytes stay as they are.
    assert_eq!(values(&all(&open(&fixture("stored.npz"), &integers).unwrap()))[4], 7.0);
}

#[test]
fn floats_are_taken_as_they_are_unless_asked() {
    let dir = folder();
    let path = write(&dir, "a.npy", &npy("<f4", false, "(1, 2)", &f32_bytes(&[0.3, -9.0])));
    assert_eq!(
        all(&open(&path, &floats(&[2])).unwrap()),
        Tensor::from_vec(&[1, 2], vec![0.3f32, -9.0]).unwrap()
    );
    let pre = Preprocess { mean: vec![0.0, 1.0], std: vec![2.0], ..Default::default() };
    let data = Dataset::open(&path, &floats(&[2]), None, &pre).unwrap();
    assert_eq!(all(&data), Tensor::from_vec(&[1, 2], vec![0.15f32, -5.0]).unwrap());
}

#[test]
fn shapes_are_brought_to_the_models() {
    let dir = folder();
    let bytes: Vec<u8> = (0..24).collect();
    let raw = Preprocess { scale: Some(1.0), ..Default::default() };
    let shaped = |shape: &str, dims: &[usize], pre: &Preprocess| {
        let path = write(&dir, "a.npy", &npy("|u1", false, shape, &bytes));
        Dataset::open(&path, &floats(dims), None, pre).map(|data| {
            let batch = all(&data);
            (batch.shape().to_vec(), values(&batch))
        })
    };
    let same: Vec<f64> = (0..24).map(f64::from).collect();
    for (shape, dims, expected) in [
        ("(2, 3, 4)", &[1, 3, 4][..], &[2, 1, 3, 4][..]),
        ("(2, 3, 4)", &[3, 4, 1], &[2, 3, 4, 1]),
        ("(2, 3, 4)", &[1, 0, 0], &[2, 1, 3, 4]),
        ("(2, 1, 3, 4)", &[3, 4], &[2, 3, 4]),
        ("(2, 3, 4)", &[12], &[2, 12]),
        ("(2, 12)", &[1, 3, 4], &[2, 1, 3, 4]),
        ("(24,)", &[], &[24]),
        ("(24,)", &[1], &[24, 1]),
    ] {
        assert_eq!(
            shaped(shape, dims, &raw).unwrap(),
            (expected.to_vec(), same.clone()),
            "{shape} {dims:?}"
        );
    }
    // Channels last to first and back.
    let (shape, moved) = shaped("(2, 2, 2, 3)", &[3, 2, 2], &raw).unwrap();
    assert_eq!((shape, &moved[..6]), (vec![2, 3, 2, 2], &[0.0, 3.0, 6.0, 9.0, 1.0, 4.0][..]));
    let (shape, moved) = shaped("(2, 3, 2, 2)", &[2, 2, 3], &raw).unwrap();
    assert_eq!((shape, &moved[..6]), (vec![2, 2, 2, 3], &[0.0, 4.0, 8.0, 1.0, 5.0, 9.0][..]));
    // Open dims take anything, unless the layout is said.
    assert_eq!(shaped("(2, 2, 2, 3)", &[0, 0, 0], &raw).unwrap().0, [2, 2, 2, 3]);
    let nchw = Preprocess { layout: Some(Layout::Nchw), ..raw.clone() };
    assert_eq!(shaped("(2, 2, 2, 3)", &[0, 0, 0], &nchw).unwrap().0, [2, 3, 2, 2]);
    for (shape, dims) in [
        ("(2, 3, 4)", &[3, 5][..]),
        ("(2, 3, 4)", &[2, 6]),
        ("(2, 12)", &[13]),
        ("()", &[1]),
        ("(24,)", &[24]),
    ] {
        let text = refusal(shaped(shape, dims, &raw));
        assert!(text.contains("input `x` takes") || text.contains("bytes"), "{text}");
    }
}

#[test]
fn the_models_own_batch_size_plays_no_part() {
    let fixed = InputSpec {
        name: "x".to_owned(),
        data_type: DataType::F32,
        shape: vec![Some(1), Some(3), Some(2), Some(2)],
    };
    assert_eq!(open(&fixture("stored.npz"), &[fixed]).unwrap().len(), 3);
}

#[test]
fn values_must_fit_the_models_type() {
    let dir = folder();
    let path = write(&dir, "a.npy", &npy("<f4", false, "(3, 1)", &f32_bytes(&[1.0, 2.0, 2.5])));
    let text = refusal(open(&path, &[spec("x", DataType::I64, &[1])]));
    assert!(text.contains("sample 2 holds 2.5") && text.contains("I64"), "{text}");
    for bad in [f32::NAN, f32::INFINITY] {
        let path = write(&dir, "a.npy", &npy("<f4", false, "(3, 1)", &f32_bytes(&[1.0, bad, 2.5])));
        assert!(refusal(open(&path, &floats(&[1]))).contains("sample 1 of `x` holds"));
    }
    let wide: Vec<u8> = [1i64, 300].iter().flat_map(|v| v.to_le_bytes()).collect();
    let path = write(&dir, "a.npy", &npy("<i8", false, "(2, 1)", &wide));
    assert!(refusal(open(&path, &[spec("x", DataType::U8, &[1])])).contains("sample 1 holds 300"));
    let huge: Vec<u8> = 1e300f64.to_le_bytes().to_vec();
    let path = write(&dir, "a.npy", &npy("<f8", false, "(1, 1)", &huge));
    assert!(refusal(open(&path, &floats(&[1]))).contains("sample 0 holds"));
}

#[test]
fn labels_of_their_own_file() {
    let dir = folder();
    let path = write(&dir, "x.npy", &npy("<f4", false, "(2, 1)", &f32_bytes(&[1.0, 2.0])));
    let label_file = |descr: &str, shape: &str, bytes: &[u8]| {
        let labels = write(&dir, "y.npy", &npy(descr, false, shape, bytes));
        Dataset::open(&path, &floats(&[1]), Some(&labels), &Preprocess::default())
    };
    assert_eq!(label_file("|u1", "(2,)", &[3, 1]).unwrap().all_labels(), Some(vec![3, 1]));
    assert_eq!(label_file("|u1", "(2, 1)", &[3, 1]).unwrap().all_labels(), Some(vec![3, 1]));
    let floats = f32_bytes(&[4.0, 0.0]);
    assert_eq!(label_file("<f4", "(2,)", &floats).unwrap().all_labels(), Some(vec![4, 0]));
    let several = label_file("|u1", "(2, 3)", &[0, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(several.labels_per_sample(), 3);
    assert_eq!(several.labels(&[1]).unwrap(), Some(vec![3, 4, 5]));
    assert!(refusal(label_file("|u1", "(3,)", &[0, 1, 2])).contains("2 samples"));
    assert!(refusal(label_file("|i1", "(2,)", &[0, 255])).contains("sample 1 is -1"));
    assert!(refusal(label_file("<f4", "(2,)", &f32_bytes(&[0.0, 0.5]))).contains("0.5"));
}

#[test]
fn idx_with_its_sibling_labels() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let dir = folder();
    let images =
        [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2][..], &[0, 51, 102, 255]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 2, 7, 9];
    let path = write(&dir, "train-images-idx3-ubyte.gz", &gzip(&images));
    let unlabelled = open(&path, &floats(&[1, 1, 2])).unwrap();
    assert!(!unlabelled.has_labels());
    write(&dir, "train-labels-idx1-ubyte", &labels);
    let data = open(&path, &floats(&[1, 1, 2])).unwrap();
    assert_eq!(data.all_labels(), Some(vec![7, 9]));
    assert_eq!(all(&data), Tensor::from_vec(&[2, 1, 1, 2], vec![0f32, 0.2, 0.4, 1.0]).unwrap());
    let plain = write(&dir, "t10k-images.idx3-ubyte", &images);
    write(&dir, "t10k-labels.idx1-ubyte.gz", &gzip(&labels));
    assert_eq!(open(&plain, &floats(&[2])).unwrap().all_labels(), Some(vec![7, 9]));
}

#[test]
fn onnx_test_sets_are_joined() {
    let dir = folder();
    let proto = |name: &str, dims: &[i64], values: &[f32]| {
        let mut proto =
            TensorProto { dims: dims.to_vec(), data_type: Some(1), ..Default::default() };
        proto.name = Some(name.to_owned());
        if name == "a" {
            proto.float_data = values.to_vec();
        } else {
            proto.raw_data = Some(f32_bytes(values).into());
        }
        proto.encode_to_vec()
    };
    for set in 0..2 {
        let start = set as f32;
        let name = |file: &str| format!("test_data_set_{set}/{file}");
        // The names inside decide, not the numbers.
        write(&dir, &name("input_0.pb"), &proto("b", &[1, 1], &[start + 10.0]));
        write(&dir, &name("input_1.pb"), &proto("a", &[1, 2], &[start, 0.5]));
        write(&dir, &name("output_0.pb"), &proto("out", &[1, 1], &[start + 20.0]));
    }
    let inputs = [spec("a", DataType::F32, &[2]), spec("b", DataType::F32, &[0])];
    let data = open(dir.path(), &inputs).unwrap();
    let batch = data.batch(&[1, 0]).unwrap();
    assert_eq!(values(&batch[0]), [1.0, 0.5, 0.0, 0.5]);
    assert_eq!(values(&batch[1]), [11.0, 10.0]);
    let outputs = data.expected_outputs(&[1]).unwrap().unwrap();
    assert_eq!(values(&outputs[0]), [21.0]);
    assert_eq!(open(&dir.path().join("test_data_set_1"), &inputs).unwrap().len(), 1);
    assert!(refusal(open(dir.path(), &floats(&[2]))).contains("2 inputs, the model 1"));
    write(&dir, "test_data_set_1/input_0.pb", &proto("b", &[1, 9], &[0.0]));
    assert!(refusal(open(dir.path(), &inputs)).contains("wants 9 elements, found 4 bytes"));
}

#[test]
fn parts_share_the_data() {
    let data = open(&fixture("stored.npz"), &floats(&[3, 2, 2])).unwrap();
    let part = data.subset(&[2, 1]).unwrap();
    assert_eq!((part.len(), part.all_labels()), (2, Some(vec![1, 0])));
    assert_eq!(part.batch(&[1]).unwrap(), data.batch(&[1]).unwrap());
    let inner = part.subset(&[1]).unwrap();
    assert_eq!(inner.batch(&[0]).unwrap(), data.batch(&[1]).unwrap());
    assert!(refusal(part.batch(&[2])).contains("no sample 2"));
    assert!(refusal(data.subset(&[3])).contains("no sample 3"));
    assert_eq!(data.batch(&[]).unwrap()[0].shape(), [0, 3, 2, 2]);
}
