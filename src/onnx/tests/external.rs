use std::fs;
use std::path::Path;

use prost::Message;

use super::super::write::{Staged, commit};
use super::{external, listing, small, weights};
use crate::error::Error;
use crate::onnx::{Model, ModelProto, TensorProto};
use crate::tensor::Tensor;

/// `small`, its weights moved to `weights.bin`: `w` at 64, `b` at 0.
fn moved() -> ModelProto {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    let place = [("location", "weights.bin"), ("offset", "64"), ("length", "12")];
    graph.initializer[0] = external("w", &[3], &place);
    graph.initializer[0].external_data.push(super::entry("checksum", "0123"));
    graph.initializer[0].external_data.push(super::entry("note", "kept"));
    graph.initializer[1] = external("b", &[3], &[("location", "./weights.bin")]);
    proto
}

fn bytes() -> Vec<u8> {
    let mut bytes = vec![0; 100];
    for (at, values) in [(64, [1.0f32, -2.0, 3.0]), (0, [0.5; 3])] {
        for (i, value) in values.iter().enumerate() {
            bytes[at + 4 * i..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

fn put(folder: &Path, proto: &ModelProto) -> std::path::PathBuf {
    let path = folder.join("model.onnx");
    fs::write(folder.join("weights.bin"), bytes()).unwrap();
    fs::write(&path, proto.encode_to_vec()).unwrap();
    path
}

fn values(model: &Model, index: usize) -> Tensor {
    model.tensor(&model.graph().initializer[index]).unwrap()
}

#[test]
fn external_data_is_read_and_written() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = Model::read(&put(from.path(), &moved())).unwrap();
    assert_eq!(model.proto, moved());
    assert_eq!(values(&model, 0), Tensor::from_vec(&[3], vec![1.0f32, -2.0, 3.0]).unwrap());
    assert_eq!(model.tensor_byte_len(&model.graph().initializer[1]), 12);

    let path = to.path().join("out.onnx");
    let len = model.write(&path).unwrap();
    assert_eq!(listing(to.path()), ["out.onnx", "out.onnx.data"]);
    assert_eq!(model.data_file(&path), Some(to.path().join("out.onnx.data")));
    let on_disk = |name| fs::metadata(to.path().join(name)).unwrap().len();
    assert_eq!(len, on_disk("out.onnx") + on_disk("out.onnx.data"));
    assert_eq!(model.write(&to.path().join("model.onnx")).unwrap(), model.encoded_len());

    let again = Model::read(&path).unwrap();
    for index in 0..2 {
        assert_eq!(values(&again, index), values(&model, index));
    }
    let w = &again.graph().initializer[0];
    let keys: Vec<_> = w.external_data.iter().map(|e| (e.key(), e.value())).collect();
    let place = [("location", "out.onnx.data"), ("offset", "0"), ("length", "12")];
    assert_eq!(keys[..3], place);
    assert_eq!(keys[3..], [("note", "kept")]);
}

#[test]
fn edited_tensors_are_not_external_any_more() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut model = Model::read(&put(from.path(), &moved())).unwrap();
    model.graph_mut().initializer[0] = weights("w", &[7.0; 3]);
    let path = to.path().join("out.onnx");
    model.write(&path).unwrap();
    assert_eq!(fs::metadata(to.path().join("out.onnx.data")).unwrap().len(), 12);
    assert_eq!(values(&Model::read(&path).unwrap(), 0), values(&model, 0));

    model.graph_mut().initializer[1] = weights("b", &[7.0; 3]);
    assert_eq!(model.data_file(&path), None);
}

#[test]
fn a_model_can_replace_its_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    Model::read(&put(folder.path(), &moved())).unwrap().write(&path).unwrap();
    let model = Model::read(&path).unwrap();
    model.write(&path).unwrap();
    assert_eq!(values(&Model::read(&path).unwrap(), 0), values(&model, 0));
    assert_eq!(listing(folder.path()), ["model.onnx", "model.onnx.data", "weights.bin"]);
}

#[test]
fn one_message_for_other_runtimes() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::read(&put(folder.path(), &moved())).unwrap();
    let alone = Model::from_bytes(model.to_bytes().unwrap()).unwrap();
    assert_eq!(alone.proto, small());
}

#[test]
fn tensors_that_share_bytes_go_on_sharing() {
    let folder = tempfile::tempdir().unwrap();
    let mut proto = moved();
    proto.graph.as_mut().unwrap().initializer[1] =
        external("b", &[3], &[("location", "weights.bin"), ("offset", "64"), ("length", "12")]);
    let model = Model::read(&put(folder.path(), &proto)).unwrap();
    assert_eq!(model.layout(Some("x"), u64::MAX).unwrap().data_len, 12);
}

#[test]
fn a_model_above_the_limit_moves_its_large_initializers() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    let long = vec![0.25f32; 1000];
    graph.initializer.push(weights("raw", &long));
    graph.initializer.push(TensorProto {
        name: super::text("listed"),
        data_type: Some(1),
        dims: vec![1000],
        float_data: long.clone(),
        ..Default::default()
    });
    let model = Model::from_proto(proto).unwrap();
    assert!(model.layout(Some("d"), u64::MAX).unwrap().parts.is_empty());
    let layout = model.layout(Some("d"), 1000).unwrap();
    assert_eq!(layout.data_len, 8000);
    assert!(layout.proto.encoded_len() < 1000);
    let tensors = &layout.proto.graph.as_ref().unwrap().initializer;
    assert!(tensors[0].raw_data.is_some(), "small ones stay");
    assert!(tensors[2].raw_data.is_none() && tensors[3].float_data.is_empty());
    let error = model.layout(Some("d"), 100).map(drop).unwrap_err();
    assert!(error.to_string().contains("2 GiB"), "{error}");
}

#[test]
fn long_tensors_start_on_a_page() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer.push(weights("odd", &[1.0; 257]));
    graph.initializer.push(weights("long", &vec![1.0; 1 << 18]));
    let model = Model::from_proto(proto).unwrap();
    let layout = model.layout(Some("d"), 1000).unwrap();
    let offsets: Vec<u64> = layout.parts.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [0, 4096]);
}

#[test]
fn misplaced_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), bytes()).unwrap();
    let absolute = outside.path().to_str().unwrap().to_owned();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let inside = ("location", "weights.bin");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[], "no location"),
        (&[("location", "")], "no location"),
        (&[("location", &absolute)], "leaves the model's folder"),
        (&[("location", "../weights.bin")], "leaves the model's folder"),
        (&[("location", "sub/../../weights.bin")], "leaves the model's folder"),
        (&[("location", "sub/../weights.bin")], "leaves the model's folder"),
        (&[("location", "missing.bin")], "can't read external file"),
        (&[("location", "a\0b")], "can't read external file"),
        (&[("location", "sub")], "can't read"),
        (&[("location", ".")], "can't read"),
        (&[inside, ("offset", "x")], "not a number"),
        (&[inside, ("offset", "-1")], "not a number"),
        (&[inside, ("length", "1e3")], "not a number"),
        (&[inside, ("offset", "96")], "wants 12 bytes at offset 96"),
        (&[inside, ("offset", "18446744073709551615")], "wants 12 bytes"),
        (&[inside, ("length", "18446744073709551615")], "wants 18446744073709551615 bytes"),
        (&[inside, ("length", "101")], "wants 101 bytes"),
        (&[inside, ("length", "8")], "takes 12 bytes, found 8"),
    ];
    for (entries, part) in cases {
        let mut proto = moved();
        proto.graph.as_mut().unwrap().initializer[0] = external("w", &[3], entries);
        let error = Model::read(&put(folder.path(), &proto)).unwrap_err();
        assert!(error.chain().contains(part), "{entries:?}: {}", error.chain());
    }
}

#[cfg(unix)]
#[test]
fn links_may_not_leave_the_folder() {
    use std::os::unix::fs::symlink;
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = put(folder.path(), &moved());
    let weights = folder.path().join("weights.bin");
    fs::rename(&weights, folder.path().join("real.bin")).unwrap();
    symlink("real.bin", &weights).unwrap();
    assert!(Model::read(&path).is_ok(), "a link within the folder is fine");

    fs::write(outside.path().join("secret"), bytes()).unwrap();
    fs::remove_file(&weights).unwrap();
    symlink(outside.path().join("secret"), &weights).unwrap();
    let error = Model::read(&path).unwrap_err().to_string();
    assert!(error.contains("is a link that leaves"), "{error}");

    fs::remove_file(&weights).unwrap();
    symlink(outside.path(), folder.path().join("sub")).unwrap();
    let mut proto = moved();
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer[0] = external("w", &[3], &[("location", "sub/secret")]);
    let path = put(folder.path(), &proto);
    assert!(Model::read(&path).unwrap_err().to_string().contains("is a link that leaves"));
}

#[test]
fn external_tensors_need_their_files() {
    let error = Model::from_proto(moved()).unwrap_err();
    assert!(matches!(&error, Error::BadTensor { tensor, .. } if tensor == "w"), "{error}");
    assert!(Model::from_bytes(moved().encode_to_vec()).is_err());
}

#[test]
fn data_is_taken_back_when_the_model_cant_be_placed() {
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (folder.path().join("m.onnx.data"), folder.path().join("m.onnx"));
    // A folder in the model's place makes the second rename fail.
    fs::create_dir(&model).unwrap();
    let stage = |path: &Path| Staged::new(path, |file| file.write_all(b"new")).unwrap();

    assert!(commit(Some(stage(&data)), stage(&model)).is_err());
    assert_eq!(listing(folder.path()), ["m.onnx"]);

    fs::write(&data, "old").unwrap();
    assert!(commit(Some(stage(&data)), stage(&model)).is_err());
    assert_eq!(listing(folder.path()), ["m.onnx", "m.onnx.data"]);
    assert_eq!(fs::read(&data).unwrap(), b"old");
}

#[test]
fn a_failing_fill_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let full = |_: &mut dyn std::io::Write| Err(std::io::ErrorKind::StorageFull.into());
    assert!(Staged::new(&folder.path().join("m.onnx"), full).is_err());
    assert!(listing(folder.path()).is_empty());
}
