use super::*;
use crate::onnx::proto::{
    AttributeProto, GraphProto, OperatorSetIdProto, StringStringEntryProto, TensorAnnotation,
};
use crate::onnx::{Model, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::tensor::Tensor;

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), ..Default::default() }
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: outputs.iter().map(|&o| o.to_owned()).collect(),
        ..Default::default()
    }
}

fn constant(output: &str, form: AttributeProto) -> NodeProto {
    NodeProto { attribute: vec![form], ..node("Constant", &[], &[output]) }
}

fn weights(name: &str) -> TensorProto {
    TensorProto::from_tensor(name, &Tensor::from_vec(&[2], vec![1.0f32, 2.0]).unwrap())
}

/// An `If` whose branch reads `reads` and holds a value called `hidden`.
fn branch(reads: &str) -> NodeProto {
    let body = GraphProto {
        node: vec![
            node("Neg", &[reads], &["hidden"]),
            node("Add", &["hidden", reads], &["result"]),
        ],
        output: vec![value("result")],
        ..Default::default()
    };
    let attribute = AttributeProto {
        name: Some("then_branch".to_owned()),
        g: Some(body),
        ..Default::default()
    };
    NodeProto { attribute: vec![attribute], ..node("If", &["x"], &["z"]) }
}

/// `h = x * w; s = h + h; y = s + b; z = If(x) { h }`.
fn graph() -> GraphProto {
    GraphProto {
        node: vec![
            node("Mul", &["x", "w"], &["h"]),
            node("Add", &["h", "h"], &["s"]),
            node("Add", &["s", "b"], &["y"]),
            branch("h"),
        ],
        initializer: vec![weights("w"), weights("b")],
        input: vec![value("x")],
        output: vec![value("y"), value("z")],
        value_info: vec![value("h"), value("s")],
        ..Default::default()
    }
}

fn model(graph: GraphProto) -> Model {
    Model::from_proto(ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn links() {
    let links = Links::new(&graph());
    assert_eq!(links.producer("s"), Some(1));
    assert_eq!(links.producer("w"), None);
    let both = [Consumer { node: 1, input: 0 }, Consumer { node: 1, input: 1 }];
    assert_eq!(links.consumers("h"), both);
    assert_eq!(links.consumers("hidden"), [], "bodies are not part of the graph");
    assert!(links.is_graph_output("y") && !links.is_graph_output("s"));
    assert!(links.used_in_body("h") && !links.used_in_body("s"));
    assert!(!links.used_in_body("hidden"), "the body's own");
    assert_eq!(links.sole_consumer("s"), Some(Consumer { node: 2, input: 0 }));
    assert_eq!(links.sole_consumer("h"), None, "read twice");
    assert_eq!(links.sole_consumer("y"), None, "an output");

    let mut captured = graph();
    captured.node[3] = branch("s");
    assert_eq!(Links::new(&captured).sole_consumer("s"), None, "a body reads it too");
}

#[test]
fn bodies_within_bodies_are_seen() {
    let mut outer = branch("x");
    let body = outer.attribute[0].g.as_mut().unwrap();
    body.node.push(NodeProto { output: vec!["deep".into()], ..branch("s") });
    let mut graph = graph();
    graph.node[3] = outer;
    assert!(Links::new(&graph).used_in_body("s"));
}

#[test]
fn every_form_of_constant() {
    let mut graph = graph();
    let tensor = AttributeProto {
        name: Some("value".to_owned()),
        t: Some(weights("")),
        ..Default::default()
    };
    let floats = AttributeProto {
        name: Some("value_floats".to_owned()),
        floats: vec![0.5, 1.5],
        ..Default::default()
    };
    graph.node.extend([
        constant("tensor", tensor),
        constant("float", AttributeProto::from_float("value_float", 0.5)),
        constant("floats", floats),
        constant("int", AttributeProto::from_int("value_int", 3)),
        constant("ints", AttributeProto::from_ints("value_ints", &[])),
        constant("string", AttributeProto::from_string("value_string", "no tensor")),
    ]);
    graph.input.push(value("w"));
    let model = model(graph);
    let found = constants(&model);
    assert_eq!(
        found.keys().map(String::as_str).collect::<Vec<_>>(),
        ["b", "float", "floats", "int", "ints", "tensor", "w"]
    );
    assert_eq!(found["w"].source, Source::Initializer(0));
    assert_eq!(found["tensor"].source, Source::Node(4));
    assert!(found["tensor"].proto(model.graph()).is_some());
    assert!(found["float"].proto(model.graph()).is_none());
    let of = |name: &str| constant_tensor(&model, name).unwrap();
    assert_eq!(of("w"), Some(Tensor::from_vec(&[2], vec![1.0f32, 2.0]).unwrap()));
    assert_eq!(of("tensor"), of("w"));
    assert_eq!(of("float"), Some(Tensor::scalar(0.5f32)));
    assert_eq!(of("floats"), Some(Tensor::from_vec(&[2], vec![0.5f32, 1.5]).unwrap()));
    assert_eq!(of("int"), Some(Tensor::scalar(3i64)));
    assert_eq!(of("ints"), Some(Tensor::from_vec::<i64>(&[0], vec![]).unwrap()));
    assert_eq!((of("string"), of("x"), of("h")), (None, None, None));
    for (name, constant) in &found {
        assert_eq!(constant.tensor(&model).unwrap(), of(name));
    }
}

#[test]
fn names_are_new_everywhere() {
    let graph = graph();
    assert_eq!(fresh_name(&graph, "new"), "new");
    assert_eq!(fresh_name(&graph, "w"), "w_1");
    assert_eq!(fresh_name(&graph, "hidden"), "hidden_1", "in a body");
    assert_eq!(fresh_name(&graph, ""), "_1");
    let mut names = NameAllocator::new(&graph);
    assert_eq!([names.fresh("h"), names.fresh("h"), names.fresh("h_1")], ["h_1", "h_2", "h_1_1"]);
}

#[test]
fn a_node_gives_way_to_several() {
    let mut edited = graph();
    add_initializer(&mut edited, weights("u"));
    let with = vec![node("Mul", &["x", "u"], &["r"]), node("Mul", &["r", "w"], &["h"])];
    replace_node(&mut edited, 0, with).unwrap();
    let made: Vec<_> = edited.node.iter().map(|n| n.output[0].as_str()).collect();
    assert_eq!(made, ["r", "h", "s", "y", "z"]);
    model(edited);
}

#[test]
fn replacements_that_break_the_graph_change_nothing() {
    let cases = [
        (9, vec![], "there is no node 9"),
        (0, vec![], "can't replace node `h`: nothing makes `h` any more"),
        (0, vec![node("Neg", &["x"], &["other"])], "nothing makes `h` any more"),
        (0, vec![node("Neg", &["s"], &["h"])], "`s` isn't made before `h`"),
        (0, vec![node("Neg", &["u"], &["h"])], "`u` isn't made before `h`"),
        (0, vec![node("Neg", &["x"], &["h", "s"])], "`s` exists already"),
        (0, vec![node("Neg", &["x"], &["w", "h"])], "`w` exists already"),
        (0, vec![node("Neg", &["r"], &["h"]), node("Neg", &["x"], &["r"])], "`r` isn't made"),
        (3, vec![branch("nowhere")], "`nowhere` isn't made before `z`"),
    ];
    for (index, with, part) in cases {
        let mut edited = graph();
        let error = replace_node(&mut edited, index, with).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(edited, graph());
    }
}

#[test]
fn nodes_of_a_body_can_be_replaced() {
    let mut around = branch("h");
    let body = around.attribute[0].g.as_mut().unwrap();
    let with = vec![node("Abs", &["h"], &["r"]), node("Neg", &["r"], &["hidden"])];
    replace_node(body, 0, with).unwrap();
    assert_eq!(body.node.len(), 3);
}

#[test]
fn initializers_are_added_as_the_others_are() {
    let mut plain = graph();
    add_initializer(&mut plain, weights("u"));
    assert_eq!((plain.initializer.len(), plain.input.len()), (3, 1));

    let mut listed = graph();
    listed.input.extend([value("w"), value("b")]);
    add_initializer(&mut listed, weights("u"));
    assert_eq!(listed.input[3].name(), "u");
    assert!(listed.input[3].r#type.is_some());

    listed.value_info.push(value("w"));
    add_initializer(&mut listed, TensorProto { dims: vec![2, 1], ..weights("w") });
    assert_eq!((listed.initializer.len(), listed.input.len()), (3, 4));
    assert_eq!(listed.initializer[0].dims, [2, 1]);
    assert!(format!("{:?}", listed.input[1]).contains("DimValue(2)"), "its listing follows");
    assert!(listed.value_info.iter().all(|v| v.name() != "w"));
}

#[test]
fn unused_constants_go() {
    let mut edited = graph();
    assert_eq!(remove_unused_constants(&mut edited), 0);
    assert_eq!(edited, graph());

    let annotation = |of: &str, scale: &str| TensorAnnotation {
        tensor_name: Some(of.to_owned()),
        quant_parameter_tensor_names: vec![StringStringEntryProto {
            key: Some("SCALE_TENSOR".to_owned()),
            value: Some(scale.to_owned()),
        }],
    };
    let names = ["unused", "unused scale", "scale of h", "in a body", "as output"];
    edited.initializer.extend(names.map(weights));
    edited.quantization_annotation =
        vec![annotation("unused", "unused scale"), annotation("h", "scale of h")];
    edited.node.extend([
        constant("dead", AttributeProto::from_int("value_int", 3)),
        constant("alive", AttributeProto::from_int("value_int", 3)),
        NodeProto { output: vec!["z2".into()], ..branch("in a body") },
        node("Neg", &["alive"], &["unused result"]),
    ]);
    edited.output.push(value("as output"));
    edited.input.push(value("unused"));
    edited.value_info.push(value("dead"));
    assert_eq!(remove_unused_constants(&mut edited), 3);
    let left: Vec<_> = edited.initializer.iter().map(|t| t.name()).collect();
    assert_eq!(left, ["w", "b", "scale of h", "in a body", "as output"]);
    assert_eq!(edited.quantization_annotation.len(), 1);
    assert_eq!(edited.input.len(), 1);
    assert_eq!(edited.value_info.len(), 2);
    assert!(edited.node.iter().any(|n| n.output[0] == "alive"));
    assert!(edited.node.iter().all(|n| n.output[0] != "dead"), "nothing reads it");
}

#[test]
fn stale_types_go() {
    let mut edited = graph();
    drop_value_info(&mut edited, &["h", "absent"]);
    assert_eq!(edited.value_info, [value("s")]);
}

/// `t = x W; y = t + c; z = d + y` with d of the shape `shape`.
fn two_additions(shape: &[i64]) -> GraphProto {
    let named = NodeProto {
        name: Some("layer".to_owned()),
        doc_string: Some("kept".to_owned()),
        ..node("Add", &["t", "c"], &["y"])
    };
    let count: usize = shape.iter().product::<i64>() as usize;
    let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
    let d = Tensor::from_vec(&shape, vec![10.0f32; count]).unwrap();
    GraphProto {
        node: vec![node("MatMul", &["x", "w"], &["t"]), named, node("Add", &["d", "y"], &["z"])],
        initializer: vec![weights("w"), weights("c"), TensorProto::from_tensor("d", &d)],
        input: vec![value("x")],
        output: vec![value("z")],
        value_info: vec![value("t"), value("y"), value("d")],
        ..Default::default()
    }
}

#[test]
fn additions_of_constants_become_one() {
    let mut edited = model(two_additions(&[1, 2]));
    assert!(fold_addition(&mut edited, 1).unwrap());
    let graph = edited.graph();
    let product = NodeProto {
        name: Some("layer".to_owned()),
        doc_string: Some("kept".to_owned()),
        ..node("MatMul", &["x", "w"], &["y"])
    };
    assert_eq!(graph.node, [product, node("Add", &["c", "y"], &["z"])]);
    let sum = Tensor::from_vec(&[1, 2], vec![11.0f32, 12.0]).unwrap();
    assert_eq!(constant_tensor(&edited, "c").unwrap(), Some(sum));
    assert_eq!(constant_tensor(&edited, "d").unwrap(), None, "nothing reads it");
    assert_eq!(graph.value_info, [value("y")]);

    // Others go on reading the constant that the sum replaces.
    let mut shared = two_additions(&[2]);
    shared.node.push(node("Neg", &["d"], &["n"]));
    let mut edited = model(shared);
    assert!(fold_addition(&mut edited, 1).unwrap());
    let ten = Tensor::from_vec(&[2], vec![10.0f32; 2]).unwrap();
    assert_eq!(constant_tensor(&edited, "d").unwrap(), Some(ten));
    model(edited.graph().clone());

    // And the constant that is added first, where they read it; additions of the same two share the sum.
    let mut shared = two_additions(&[2]);
    let again = [
        node("MatMul", &["x", "w"], &["t2"]),
        node("Add", &["t2", "c"], &["y2"]),
        node("Add", &["d", "y2"], &["z2"]),
    ];
    shared.node.extend(again);
    shared.output.push(value("z2"));
    let mut edited = model(shared);
    assert!(fold_addition(&mut edited, 4).unwrap());
    assert!(fold_addition(&mut edited, 1).unwrap());
    let graph = edited.graph();
    let sums: Vec<&String> = [1, 3].map(|add: usize| &graph.node[add].input[0]).into();
    assert_eq!(sums[0], sums[1], "{graph:?}");
    let sum = Tensor::from_vec(&[2], vec![11.0f32, 12.0]).unwrap();
    assert_eq!(constant_tensor(&edited, sums[0]).unwrap(), Some(sum));
    let (alone, read) = (two_additions(&[2]), node("Neg", &["c"], &["n"]));
    let mut edited = model(GraphProto { node: [alone.node.clone(), vec![read]].concat(), ..alone });
    assert!(fold_addition(&mut edited, 1).unwrap());
    let kept = model(two_additions(&[2]));
    assert_eq!(constant_tensor(&edited, "c").unwrap(), constant_tensor(&kept, "c").unwrap());
}

#[test]
fn additions_stay_where_something_else_would_change() {
    let mut read_between = two_additions(&[2]);
    read_between.node.push(node("Neg", &["y"], &["n"]));
    let mut read_before = two_additions(&[2]);
    read_before.node.push(node("Neg", &["t"], &["n"]));
    let mut output = two_additions(&[2]);
    output.output.push(value("y"));
    let mut computed = two_additions(&[2]);
    computed.initializer.pop();
    computed.input.push(value("d"));
    // A scalar, and a column that with a row makes a matrix.
    let grows = [two_additions(&[]), two_additions(&[2, 1])];
    let cases = [read_between, read_before, output, computed].into_iter().chain(grows);
    for (index, graph) in cases.enumerate() {
        let mut edited = model(graph.clone());
        assert!(!fold_addition(&mut edited, 1).unwrap(), "case {index}");
        assert_eq!(edited.graph(), &graph);
    }
    let mut product = model(two_additions(&[2]));
    assert!(!fold_addition(&mut product, 0).unwrap(), "not an addition");
    assert!(!fold_addition(&mut product, 9).unwrap());
}
