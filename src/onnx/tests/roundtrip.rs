use std::path::Path;

use prost::Message;

use super::{attribute, entry, node, read_back, small, text, value, weights};
use crate::onnx::proto::{
    self, AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    simple_sharded_dim_proto, tensor_shape_proto, type_proto,
};
use crate::onnx::{Model, data_type_name};

fn typed(name: &str, value: type_proto::Value) -> ValueInfoProto {
    ValueInfoProto {
        name: text(name),
        r#type: Some(kind(value)),
        doc_string: text("a value"),
        metadata_props: vec![entry("k", "v")],
    }
}

fn kind(value: type_proto::Value) -> TypeProto {
    TypeProto { value: Some(value), denotation: text("TENSOR") }
}

fn dense() -> type_proto::Value {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |value| Dimension { value, denotation: text("DATA_BATCH") };
    let shape = TensorShapeProto {
        dim: vec![dim(Some(Value::DimParam("n".into()))), dim(Some(Value::DimValue(3))), dim(None)],
    };
    type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(1), shape: Some(shape) })
}

fn sparse(name: &str) -> SparseTensorProto {
    SparseTensorProto {
        values: Some(weights(name, &[4.0])),
        indices: Some(TensorProto {
            dims: vec![1],
            data_type: Some(7),
            int64_data: vec![2],
            ..Default::default()
        }),
        dims: vec![3],
    }
}

/// A tensor of every element type the schema has, each in its typed list.
fn every_type() -> Vec<TensorProto> {
    use proto::tensor_proto::DataType as T;
    (1..=28)
        .map(|code| {
            let mut tensor = TensorProto {
                name: text(&format!("of {}", data_type_name(code))),
                dims: vec![1],
                data_type: Some(code),
                doc_string: text("one element"),
                metadata_props: vec![entry("code", &code.to_string())],
                segment: Some(proto::tensor_proto::Segment { begin: Some(0), end: Some(1) }),
                ..Default::default()
            };
            match T::try_from(code).unwrap() {
                T::Float => tensor.float_data = vec![-0.0],
                T::Complex64 => tensor.float_data = vec![1.0, f32::INFINITY],
                T::Double => tensor.double_data = vec![f64::MIN_POSITIVE],
                T::Complex128 => tensor.double_data = vec![1.0, 2.0],
                T::Int64 => tensor.int64_data = vec![i64::MIN],
                T::Uint32 | T::Uint64 => tensor.uint64_data = vec![u32::MAX.into()],
                T::String => tensor.string_data = vec![bytes::Bytes::from_static(&[0xff, 0])],
                _ => tensor.int32_data = vec![1],
            }
            tensor
        })
        .collect()
}

/// Every form an attribute can have.
fn every_attribute() -> Vec<AttributeProto> {
    let body = GraphProto {
        node: vec![node("Neg", &["x"], &["inner"])],
        output: vec![value("inner")],
        ..Default::default()
    };
    let string = bytes::Bytes::from_static(b"\xfftext");
    let set = |kind: AttributeType, filled: AttributeProto| AttributeProto {
        name: text(kind.as_str_name()),
        r#type: Some(kind.into()),
        doc_string: text("about it"),
        ..filled
    };
    let a = AttributeProto::default;
    vec![
        set(AttributeType::Float, AttributeProto { f: Some(0.0), ..a() }),
        set(AttributeType::Int, AttributeProto { i: Some(-1), ..a() }),
        set(AttributeType::String, AttributeProto { s: Some(string.clone()), ..a() }),
        set(AttributeType::Tensor, AttributeProto { t: Some(weights("", &[1.0])), ..a() }),
        set(AttributeType::Graph, AttributeProto { g: Some(body.clone()), ..a() }),
        set(AttributeType::SparseTensor, AttributeProto { sparse_tensor: Some(sparse("")), ..a() }),
        set(AttributeType::TypeProto, AttributeProto { tp: Some(kind(dense())), ..a() }),
        set(AttributeType::Floats, AttributeProto { floats: vec![1.0, f32::MAX], ..a() }),
        set(AttributeType::Ints, AttributeProto { ints: vec![i64::MAX, 0], ..a() }),
        set(AttributeType::Strings, AttributeProto { strings: vec![string], ..a() }),
        set(AttributeType::Tensors, AttributeProto { tensors: vec![weights("t", &[])], ..a() }),
        set(AttributeType::Graphs, AttributeProto { graphs: vec![body.clone(), body], ..a() }),
        set(
            AttributeType::SparseTensors,
            AttributeProto { sparse_tensors: vec![sparse("")], ..a() },
        ),
        set(AttributeType::TypeProtos, AttributeProto { type_protos: vec![kind(dense())], ..a() }),
        // Neither a type nor a value: files from before IR version 2.
        attribute("bare"),
    ]
}

fn device_configuration() -> proto::NodeDeviceConfigurationProto {
    let shard = |dim| proto::SimpleShardedDimProto { dim: Some(dim), num_shards: Some(2) };
    proto::NodeDeviceConfigurationProto {
        configuration_id: text("two devices"),
        pipeline_stage: Some(1),
        sharding_spec: vec![proto::ShardingSpecProto {
            tensor_name: text("w"),
            device: vec![0, -1],
            index_to_device_group_map: vec![proto::IntIntListEntryProto {
                key: Some(-1),
                value: vec![0, 1],
            }],
            sharded_dim: vec![proto::ShardedDimProto {
                axis: Some(0),
                simple_sharding: vec![
                    shard(simple_sharded_dim_proto::Dim::DimValue(4)),
                    shard(simple_sharded_dim_proto::Dim::DimParam("n".into())),
                ],
            }],
        }],
    }
}

/// A model in which every field of every message is set.
fn full() -> ModelProto {
    let mut model = small();
    model.producer_name = text("tests");
    model.producer_version = text("1");
    model.domain = text("example");
    model.model_version = Some(i64::MAX);
    model.doc_string = text("every field");
    model.metadata_props = vec![entry("author", "äöü"), entry("empty", "")];
    model.configuration = vec![proto::DeviceConfigurationProto {
        name: text("two devices"),
        num_devices: Some(2),
        device: vec!["a".into(), "b".into()],
    }];
    model.opset_import.push(proto::OperatorSetIdProto { domain: text("local"), version: Some(1) });
    model.functions = vec![proto::FunctionProto {
        name: text("double"),
        domain: text("local"),
        overload: text("f32"),
        input: vec!["a".into()],
        output: vec!["r".into()],
        attribute: vec!["alpha".into()],
        attribute_proto: vec![AttributeProto::from_float("beta", 2.0)],
        node: vec![NodeProto {
            attribute: vec![AttributeProto { ref_attr_name: text("alpha"), ..attribute("alpha") }],
            ..node("Elu", &["a"], &["r"])
        }],
        doc_string: text("a function"),
        opset_import: model.opset_import.clone(),
        value_info: vec![typed("r", dense())],
        metadata_props: vec![entry("k", "v")],
    }];
    model.training_info = vec![proto::TrainingInfoProto {
        initialization: Some(GraphProto {
            node: vec![node("RandomNormal", &[], &["w_0"])],
            output: vec![value("w_0")],
            ..Default::default()
        }),
        algorithm: Some(GraphProto {
            node: vec![node("Sub", &["w", "step"], &["w_1"])],
            initializer: vec![weights("step", &[0.1; 3])],
            output: vec![value("w_1")],
            ..Default::default()
        }),
        initialization_binding: vec![entry("w", "w_0")],
        update_binding: vec![entry("w", "w_1")],
    }];
    let graph = model.graph.as_mut().unwrap();
    graph.doc_string = text("a graph");
    graph.metadata_props = vec![entry("k", "v")];
    graph.node[1].name = text("last");
    graph.node[1].domain = text("ai.onnx");
    graph.node[1].overload = text("");
    graph.node[1].doc_string = text("a node");
    graph.node[1].attribute = every_attribute();
    graph.node[1].metadata_props = vec![entry("k", "v")];
    graph.node[1].device_configurations = vec![device_configuration()];
    graph.initializer.extend(every_type());
    // Up to IR version 3 the initializers are inputs too.
    graph.input.push(typed("w", dense()));
    graph.sparse_initializer = vec![sparse("sparse")];
    graph.quantization_annotation = vec![proto::TensorAnnotation {
        tensor_name: text("w"),
        quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", "b")],
    }];
    use type_proto::{Map, Opaque, Optional, Sequence, SparseTensor, Value};
    let inner = || Some(Box::new(kind(dense())));
    let values = [
        dense(),
        Value::SequenceType(Box::new(Sequence { elem_type: inner() })),
        Value::MapType(Box::new(Map { key_type: Some(7), value_type: inner() })),
        Value::OptionalType(Box::new(Optional { elem_type: inner() })),
        Value::SparseTensorType(SparseTensor { elem_type: Some(1), shape: None }),
        Value::OpaqueType(Opaque { domain: text("d"), name: text("n") }),
    ];
    graph.value_info =
        values.into_iter().enumerate().map(|(i, v)| typed(&format!("value {i}"), v)).collect();
    model
}

#[test]
fn nothing_is_lost() {
    for proto in [small(), full()] {
        let again = read_back(&proto);
        assert_eq!(again.proto, proto);
        assert_eq!(read_back(&again.proto).proto, proto);
    }
}

#[test]
fn every_kind_of_message_is_covered() {
    let schema = include_str!("../../../proto/onnx.proto");
    let text = format!("{:?}", full());
    let messages = schema.lines().filter_map(|line| line.trim().strip_prefix("message "));
    for message in messages.map(|line| line.trim_end_matches(" {")) {
        assert!(text.contains(&format!("{message} {{")), "no {message} in the model");
    }
}

#[test]
fn encoding_is_canonical() {
    let bytes = full().encode_to_vec();
    let model = Model::from_bytes(bytes.clone()).unwrap();
    assert_eq!(model.to_bytes().unwrap(), bytes);
    assert_eq!(model.encoded_len(), bytes.len() as u64);
}

#[test]
fn weights_share_the_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    Model::from_proto(small()).unwrap().write(&path).unwrap();
    let map = super::super::external::map(&path, &mut Vec::new()).unwrap();
    let whole = map.as_ptr_range();
    let proto = super::super::check::parse(map.clone()).unwrap();
    for tensor in &proto.graph.unwrap().initializer {
        let raw = tensor.raw_data.as_ref().unwrap().as_ptr_range();
        assert!(whole.start <= raw.start && raw.end <= whole.end, "{} was copied", tensor.name());
    }
}

#[test]
fn a_model_can_replace_the_file_it_was_read_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    Model::from_proto(small()).unwrap().write(&path).unwrap();
    let mut model = Model::read(&path).unwrap();
    model.graph_mut().name = text("renamed");
    model.write(&path).unwrap();
    model.write(&path).unwrap();
    assert_eq!(Model::read(&path).unwrap().proto, model.proto);
    assert_eq!(super::listing(folder.path()), ["model.onnx"]);
}

#[test]
fn a_failing_write_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::from_proto(small()).unwrap();
    let missing = folder.path().join("missing").join("model.onnx");
    assert!(model.write(&missing).is_err());
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    assert!(model.write(&taken).is_err());
    assert!(model.write(Path::new("/dev/null")).is_err());
    assert!(model.write(Path::new("..")).is_err());
    assert_eq!(super::listing(folder.path()), ["taken"]);
}

#[cfg(unix)]
#[test]
fn the_output_is_an_ordinary_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (plain, path) = (folder.path().join("plain"), folder.path().join("model.onnx"));
    std::fs::write(&plain, "").unwrap();
    Model::from_proto(small()).unwrap().write(&path).unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}
