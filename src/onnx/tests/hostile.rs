use std::fs;

use prost::Message;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{external, node, small};
use crate::error::Error;
use crate::graph;
use crate::onnx::proto::{AttributeProto, GraphProto};
use crate::onnx::{Model, ModelProto};

/// Reads a model and, where that works, does everything with it that looks at its contents.
fn exercise(bytes: Vec<u8>) -> bool {
    let Ok(mut model) = Model::from_bytes(bytes) else { return false };
    for tensor in &model.graph().initializer {
        let _ = model.tensor(tensor);
        let _ = model.tensor_byte_len(tensor);
    }
    for name in graph::constants(&model).keys() {
        let _ = graph::constant_tensor(&model, name);
    }
    let _ = graph::Links::new(model.graph());
    let _ = graph::fresh_name(model.graph(), "w");
    graph::remove_unused_constants(model.graph_mut());
    let _ = model.encoded_len();
    assert!(model.to_bytes().is_ok());
    true
}

/// A model with bodies, numbers in nodes and an external tensor's fields.
fn varied() -> ModelProto {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    let mut branch = node("If", &["x"], &["z"]);
    branch.attribute.push(AttributeProto {
        name: super::text("then_branch"),
        g: Some(GraphProto {
            node: vec![node("Neg", &["h"], &["inner"])],
            output: vec![super::value("inner")],
            ..Default::default()
        }),
        ..Default::default()
    });
    let mut constant = node("Constant", &[], &["c"]);
    constant.attribute.push(AttributeProto::from_ints("value_ints", &[1, 2, 3]));
    graph.node.extend([branch, constant]);
    graph.initializer.push(crate::onnx::TensorProto {
        name: super::text("half"),
        dims: vec![2],
        data_type: Some(10),
        int32_data: vec![1, 2],
        ..Default::default()
    });
    proto
}

#[test]
fn every_prefix_is_refused_or_read() {
    let bytes = varied().encode_to_vec();
    let read = (0..bytes.len()).filter(|&end| exercise(bytes[..end].to_vec())).count();
    // Fields come in order of their numbers, so the operator sets come last.
    assert_eq!(read, 0);
    assert!(exercise(bytes));
}

#[test]
fn random_bytes_are_refused() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..2000 {
        let mut bytes = vec![0; random.random_range(1..400)];
        random.fill_bytes(&mut bytes);
        assert!(!exercise(bytes));
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let bytes = varied().encode_to_vec();
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for at in 0..bytes.len() {
        for _ in 0..16 {
            let mut changed = bytes.clone();
            changed[at] ^= random.random_range(1..=255u8);
            exercise(changed);
        }
    }
}

#[test]
fn flipped_bytes_of_a_model_with_external_data_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut proto = small();
    let place = [("location", "w.bin"), ("offset", "4"), ("length", "12")];
    proto.graph.as_mut().unwrap().initializer[0] = external("w", &[3], &place);
    fs::write(folder.path().join("w.bin"), [1; 16]).unwrap();
    let bytes = proto.encode_to_vec();
    let path = folder.path().join("model.onnx");
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            fs::write(&path, changed).unwrap();
            if let Ok(model) = Model::read(&path) {
                let _ = model.tensor(&model.graph().initializer[0]);
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    let mut graph = GraphProto::default();
    for _ in 0..200 {
        let mut around = node("If", &[], &[]);
        around.attribute.push(AttributeProto { g: Some(graph), ..Default::default() });
        graph = GraphProto { node: vec![around], ..Default::default() };
    }
    let proto = ModelProto { graph: Some(graph), ..small() };
    let error = Model::from_bytes(proto.encode_to_vec()).unwrap_err().to_string();
    assert!(error.contains("recursion limit"), "{error}");
}

#[test]
fn a_length_past_the_end_allocates_nothing() {
    // Field 7 (graph), field 9 of a tensor in it, each claiming an exabyte.
    let huge = [0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(!exercise(huge.to_vec()));
}

#[test]
fn files_that_are_no_model_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for (bytes, part) in [
        (&b""[..], "it is empty"),
        (b"\x08\x09", "it has no graph"),
        (b"\x3a\x00", "it has no IR version"),
        (b"\x08\x09\x3a\x00", "it names no operator set"),
        (b"PK\x03\x04 an archive", "is not an ONNX model"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = Model::read(&path).unwrap_err();
        assert!(matches!(&error, Error::NotOnnx { path: p, .. } if *p == path), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(matches!(Model::read(folder.path()), Err(Error::Read { .. })));
    assert!(matches!(Model::read(&folder.path().join("none")), Err(Error::Read { .. })));
}
