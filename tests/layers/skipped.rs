//! Weights that are left alone, and why.

use half::f16;
use onnx_bsr::error::Error;
use onnx_bsr::layer::{Filter, Layer, find};
use onnx_bsr::onnx::{Model, TensorProto};
use onnx_bsr::tensor::Tensor;

use super::models::{Builder, int};
use super::written::fixture;

fn found(model: &Model) -> Vec<Layer> {
    find(model, &Filter::default()).unwrap()
}

/// Reasons by node, of a model that a function builds on an input.
fn reasons(x: &[usize], build: impl Fn(&mut Builder)) -> Vec<(String, String)> {
    let mut b = Builder::new(x);
    build(&mut b);
    let model = b.finish(&["y"]);
    let layers = found(&model);
    for layer in &layers {
        assert_ne!(layer.map.is_some(), layer.skip.is_some(), "{layer:?}");
    }
    layers.into_iter().filter_map(|l| Some((l.name, l.skip?))).collect()
}

#[track_caller]
fn assert_skipped(found: &[(String, String)], wanted: &[(&str, &str)]) {
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for ((node, reason), (wanted_node, text)) in found.iter().zip(wanted) {
        assert_eq!(node, wanted_node);
        assert!(reason.contains(text), "{node}: `{reason}` has no `{text}`");
    }
}

#[test]
fn depthwise_convolutions() {
    let skipped = reasons(&[1, 16, 9, 9], |b| {
        b.weight("w", &[16, 1, 3, 3]);
        b.node("Conv", &["x", "w"], "plain", &[int("group", 16)]);
        b.weight("v", &[32, 1, 3, 3]);
        b.node("Conv", &["plain", "v"], "y", &[int("group", 16)]);
    });
    assert_skipped(&skipped, &[("plain", "depthwise"), ("y", "depthwise")]);
}

/// Weights that nodes read in different ways can't have the same factors in all of them.
#[test]
fn shared_weights() {
    let skipped = reasons(&[16, 16], |b| {
        b.weight("w", &[16, 16]);
        b.node("MatMul", &["x", "w"], "first", &[]);
        b.node("Gemm", &["first", "w"], "y", &[int("transB", 1)]);
    });
    let wanted = [("first", "shared with Gemm `y`"), ("y", "shared with MatMul `first`")];
    assert_skipped(&skipped, &wanted);
    let skipped = reasons(&[16, 16], |b| {
        b.weight("w", &[16, 16]);
        b.node("MatMul", &["x", "w"], "first", &[]);
        b.node("MatMul", &["w", "first"], "y", &[]);
    });
    let wanted = [("first", "shared with MatMul `y`"), ("y", "shared with MatMul `first`")];
    assert_skipped(&skipped, &wanted);
    // One node that reads a weight twice shares it with itself.
    let skipped = reasons(&[16, 16], |b| {
        b.weight("w", &[16, 16]);
        b.node("Gemm", &["x", "w", "w"], "y", &[]);
    });
    assert!(skipped.iter().all(|(_, reason)| reason.contains("shared")), "{skipped:?}");
    // Factors come with one bias.
    let skipped = reasons(&[4, 16], |b| {
        b.weight("w", &[16, 16]);
        b.weight("b", &[16]);
        b.weight("c", &[16]);
        b.node("Gemm", &["x", "w", "b"], "first", &[]);
        b.node("Gemm", &["first", "w", "c"], "y", &[]);
    });
    let wanted = [("first", "shared with Gemm `y`"), ("y", "shared with Gemm `first`")];
    assert_skipped(&skipped, &wanted);
}

/// A weight that is also an output of the model has to stay.
#[test]
fn weights_that_are_outputs() {
    let mut b = Builder::new(&[4, 16]);
    b.weight("w", &[16, 16]);
    b.node("MatMul", &["x", "w"], "y", &[]);
    let layers = found(&b.finish(&["y", "w"]));
    assert!(layers[0].skip.as_ref().unwrap().contains("shared"));
}

#[test]
fn weights_too_small_to_gain() {
    let skipped = reasons(&[4, 7], |b| {
        // 63 elements.
        b.weight("few", &[7, 9]);
        b.node("MatMul", &["x", "few"], "a", &[]);
        // Rank 1 takes 9 + 100 of the 200 weights and is worth it.
        b.weight("flat", &[9, 100]);
        b.node("MatMul", &["a", "flat"], "b", &[]);
        // Rank 1 takes 101 of the 100 weights.
        b.weight("vector", &[100, 1]);
        b.node("MatMul", &["b", "vector"], "y", &[]);
    });
    assert_skipped(&skipped, &[("a", "too small"), ("y", "rank 1 takes 101 of 100 weights")]);
}

#[test]
fn weights_that_are_not_float() {
    let skipped = reasons(&[4, 16], |b| {
        let half = Tensor::from_vec(&[16, 16], vec![f16::ONE; 256]).unwrap();
        b.constant("half", &half);
        b.node("Cast", &["x"], "narrow", &[int("to", 10)]);
        b.node("MatMul", &["narrow", "half"], "a", &[]);
        let bytes = Tensor::from_vec(&[16, 16], vec![3i32; 256]).unwrap();
        b.constant("bytes", &bytes);
        b.node("Cast", &["a"], "whole", &[int("to", 6)]);
        b.node("MatMul", &["whole", "bytes"], "y", &[]);
    });
    assert_skipped(&skipped, &[("a", "FLOAT16"), ("y", "not float but INT32")]);
}

#[test]
fn weights_that_are_computed() {
    let skipped = reasons(&[16, 16], |b| {
        b.node("MatMul", &["x", "x"], "square", &[]);
        b.node("Transpose", &["square"], "turned", &[]);
        b.node("MatMul", &["square", "turned"], "product", &[]);
        b.weight("seed", &[16, 16]);
        b.node("Sigmoid", &["seed"], "gate", &[]);
        b.node("Gemm", &["product", "gate"], "y", &[]);
    });
    let wanted = [
        ("square", "dynamic: the second factor is an input"),
        ("product", "dynamic: the second factor is computed"),
        ("gate", "a weight of Sigmoid"),
        ("y", "dynamic: the second factor is computed"),
    ];
    assert_skipped(&skipped, &wanted);
}

#[test]
fn convolutions_with_a_computed_bias() {
    let skipped = reasons(&[1, 8, 9, 9], |b| {
        b.weight("w", &[16, 8, 3, 3]);
        b.input("bias", &[16]);
        b.node("Conv", &["x", "w", "bias"], "y", &[]);
    });
    assert_skipped(&skipped, &[("y", "bias is not constant")]);
}

#[test]
fn stacks_of_matrices_and_tables() {
    let skipped = reasons(&[2, 16, 16], |b| {
        b.weight("stack", &[2, 16, 16]);
        b.node("MatMul", &["x", "stack"], "y", &[]);
        b.weight("table", &[40, 16]);
        b.constant("rows", &Tensor::from_vec(&[3], vec![1i64, 5, 7]).unwrap());
        b.node("Gather", &["table", "rows"], "picked", &[]);
    });
    assert_skipped(&skipped, &[("y", "a batch of matrices [2, 16, 16]"), ("picked", "table")]);
}

#[test]
fn filters_choose_by_node_or_weight() {
    let model = Model::read(&fixture("mnist_conv.onnx")).unwrap();
    let globs = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
    let all = found(&model);
    let eligible: Vec<&Layer> = all.iter().filter(|l| l.map.is_some()).collect();
    assert!(eligible.len() >= 3);
    let (node, weight) = (eligible[0].name.as_str(), eligible[1].weight.as_str());

    let excluded = Filter::new(&[], &globs(&[node, weight])).unwrap();
    let layers = find(&model, &excluded).unwrap();
    for (layer, before) in layers.iter().zip(&all) {
        let hit = layer.name == node || layer.weight == weight;
        let wanted = if hit { Some("excluded") } else { before.skip.as_deref() };
        assert_eq!(layer.skip.as_deref(), wanted, "{}", layer.name);
    }

    let included = Filter::new(&globs(&[weight]), &[]).unwrap();
    let layers = find(&model, &included).unwrap();
    let left: Vec<&str> =
        layers.iter().filter(|l| l.map.is_some()).map(|l| l.weight.as_str()).collect();
    assert_eq!(left, [weight]);
    let reason = layers.iter().find(|l| l.name == node).unwrap().skip.as_deref();
    assert_eq!(reason, Some("not among the included layers"));

    // What is excluded stays so when it is included too.
    let both = Filter::new(&globs(&["*"]), &globs(&["*"])).unwrap();
    assert!(find(&model, &both).unwrap().iter().all(|l| l.map.is_none()));

    // A glob that hits nothing is a mistake, and so is one that can't be read.
    let (include, exclude) = (globs(&["nothing*"]), globs(&[node]));
    let filter = Filter::new(&include, &exclude).unwrap();
    let error = filter.check(&include, &exclude, &all).unwrap_err().to_string();
    assert!(error.contains("--include") && error.contains("nothing*"), "{error}");
    assert!(filter.check(&[], &exclude, &all).is_ok());
    assert!(matches!(Filter::new(&globs(&["["]), &[]), Err(Error::Option { .. })));
}

/// Weights with NaN are found, and refused only when they are to be used.
#[test]
fn weights_with_nan() {
    let mut b = Builder::new(&[4, 16]);
    b.weight("w", &[16, 16]);
    b.node("MatMul", &["x", "w"], "y", &[]);
    let mut model = b.finish(&["y"]);
    let mut elements = vec![1f32; 256];
    elements[100] = f32::NAN;
    let bad = Tensor::from_vec(&[16, 16], elements).unwrap();
    model.graph_mut().initializer[0] = TensorProto::from_tensor("w", &bad);
    let error = found(&model)[0].weight(&model).unwrap_err();
    assert!(matches!(&error, Error::BadTensor { tensor, .. } if tensor == "w"), "{error}");
    assert!(error.to_string().contains("NaN"));
}
