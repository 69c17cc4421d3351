//! Every form of a layer alone in a model: attributes of Conv and Gemm, sides of MatMul.

use onnx_bsr::factorize::Scheme;
use onnx_bsr::graph;
use onnx_bsr::layer::Form;
use onnx_bsr::onnx::{AttributeProto, Model};
use onnx_bsr::tensor::Tensor;

use super::models::{Builder, float, int, ints};
use super::written::{check, layers};

/// Inputs for a model whose shapes are all stated.
fn inputs(model: &Model) -> Vec<Tensor> {
    let specs = graph::inputs(model).unwrap();
    onnx_bsr::validate::random_inputs(&specs, &[], 3).unwrap()
}

fn conv(x: &[usize], weight: &[usize], bias: bool, attributes: &[AttributeProto]) -> Model {
    let mut b = Builder::new(x);
    b.weight("w", weight);
    b.weight("b", &weight[..1]);
    b.node("Conv", if bias { &["x", "w", "b"] } else { &["x", "w"] }, "y", attributes);
    b.finish(&["y"])
}

/// One convolution each, with the number of schemes that apply.
pub fn convolutions() -> Vec<(Model, usize)> {
    let same = |text: &str| AttributeProto::from_string("auto_pad", text);
    let (strides, dilations) = (|v: &[i64]| ints("strides", v), |v: &[i64]| ints("dilations", v));
    let pads = |v: &[i64]| ints("pads", v);
    vec![
        (conv(&[2, 6, 20], &[10, 6, 5], true, &[pads(&[3, 1])]), 3),
        (conv(&[2, 6, 20], &[10, 6, 4], false, &[strides(&[3]), dilations(&[2])]), 3),
        (conv(&[1, 8, 19], &[12, 4, 3], true, &[int("group", 2), same("SAME_LOWER")]), 2),
        (conv(&[2, 5, 9, 11], &[8, 5, 3, 3], true, &[pads(&[1, 1, 1, 1])]), 4),
        (conv(&[1, 5, 12, 10], &[8, 5, 4, 2], false, &[strides(&[2, 3]), pads(&[0, 1, 3, 2])]), 4),
        (conv(&[1, 5, 14, 15], &[8, 5, 3, 5], true, &[dilations(&[3, 2]), same("VALID")]), 4),
        (conv(&[1, 6, 13, 12], &[9, 6, 2, 4], true, &[strides(&[3, 2]), same("SAME_UPPER")]), 4),
        (conv(&[1, 6, 13, 12], &[9, 6, 4, 2], true, &[strides(&[2, 3]), same("SAME_LOWER")]), 4),
        (conv(&[1, 16, 9, 9], &[12, 16, 1, 1], true, &[strides(&[2, 2]), pads(&[1, 0, 0, 1])]), 1),
        (conv(&[1, 6, 9, 9], &[8, 6, 1, 5], true, &[pads(&[0, 2, 0, 2])]), 3),
        (conv(&[1, 6, 9, 9], &[8, 6, 5, 1], true, &[pads(&[2, 0, 2, 0]), strides(&[2, 1])]), 3),
        (conv(&[2, 12, 8, 8], &[15, 4, 3, 3], true, &[int("group", 3), strides(&[2, 2])]), 2),
        (conv(&[1, 12, 7, 7], &[16, 6, 1, 1], false, &[int("group", 2)]), 1),
        (
            conv(
                &[1, 4, 6, 7, 8],
                &[9, 4, 2, 3, 3],
                true,
                &[strides(&[1, 2, 1]), pads(&[1, 0, 2, 0, 1, 1]), dilations(&[2, 1, 1])],
            ),
            3,
        ),
        (conv(&[1, 6, 4, 5, 6], &[8, 3, 3, 1, 2], false, &[int("group", 2)]), 2),
    ]
}

#[test]
fn convolutions_with_every_attribute() {
    for (model, schemes) in convolutions() {
        let layer = &layers(&model)[0];
        let name = format!("{:?}, {:?}", layer.shape, model.graph().node[0].attribute);
        assert_eq!(check(&name, &model, &inputs(&model)).len(), schemes, "{name}");
    }
}

fn transposed(
    x: &[usize],
    weight: &[usize],
    outputs: usize,
    attributes: &[AttributeProto],
) -> Model {
    let mut b = Builder::new(x);
    b.weight("w", weight);
    b.weight("b", &[outputs]);
    b.node("ConvTranspose", &["x", "w", "b"], "y", attributes);
    b.finish(&["y"])
}

/// One transposed convolution each, with the number of schemes that apply.
pub fn transposed_convolutions() -> Vec<(Model, usize)> {
    let (strides, dilations) = (|v: &[i64]| ints("strides", v), |v: &[i64]| ints("dilations", v));
    let (pads, added) = (|v: &[i64]| ints("pads", v), |v: &[i64]| ints("output_padding", v));
    vec![
        (transposed(&[2, 9, 6, 5], &[9, 7, 2, 2], 7, &[strides(&[2, 2])]), 2),
        (transposed(&[2, 9, 11], &[9, 7, 3], 7, &[strides(&[3]), pads(&[1, 0])]), 2),
        (
            transposed(
                &[1, 8, 6, 5],
                &[8, 6, 3, 3],
                6,
                &[strides(&[2, 2]), pads(&[1; 4]), added(&[1, 1])],
            ),
            2,
        ),
        (
            transposed(
                &[1, 8, 6, 5],
                &[8, 5, 3, 2],
                5,
                &[strides(&[1, 2]), dilations(&[2, 1]), added(&[0, 1])],
            ),
            2,
        ),
        (transposed(&[2, 12, 5, 4], &[12, 5, 2, 3], 15, &[int("group", 3), strides(&[2, 1])]), 2),
        (transposed(&[1, 6, 3, 4, 3], &[6, 5, 2, 1, 2], 5, &[strides(&[2, 1, 2])]), 2),
        (transposed(&[1, 9, 6, 5], &[9, 8, 1, 1], 8, &[strides(&[2, 2]), added(&[1, 0])]), 1),
    ]
}

#[test]
fn transposed_convolutions_with_every_attribute() {
    for (model, schemes) in transposed_convolutions() {
        let layer = &layers(&model)[0];
        let name = format!("{:?}, {:?}", layer.shape, model.graph().node[0].attribute);
        assert_eq!(check(&name, &model, &inputs(&model)).len(), schemes, "{name}");
    }
}

#[test]
fn gemm_in_every_form() {
    // Shape of C, or none; whether it stays apart from the map when the weight is on the right.
    let biases: [(Option<&[usize]>, bool); 6] = [
        (None, false),
        (Some(&[]), false),
        (Some(&[1]), false),
        (Some(&[9]), false),
        (Some(&[1, 9]), false),
        (Some(&[5, 9]), true),
    ];
    for flags in 0..16 {
        let (trans_a, trans_b, scaled, left) =
            (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 8 != 0);
        for (bias, free) in biases {
            let turned = |rows, columns, turn| if turn { [columns, rows] } else { [rows, columns] };
            // Y is [5, 9] with data [5, 13] on the left or [13, 9] on the right.
            let (a, b) = (turned(5, 13, trans_a), turned(13, 9, trans_b));
            let mut builder = Builder::new(if left { &b } else { &a });
            builder.weight("w", if left { &a } else { &b });
            let mut names = if left { vec!["w", "x"] } else { vec!["x", "w"] };
            if let Some(shape) = bias {
                builder.weight("c", shape);
                names.push("c");
            }
            let mut attributes = vec![int("transA", trans_a.into()), int("transB", trans_b.into())];
            if scaled {
                attributes.extend([float("alpha", 0.5), float("beta", -1.75)]);
            }
            builder.node("Gemm", &names, "y", &attributes);
            let model = builder.finish(&["y"]);
            let name = format!("left {left}, {bias:?}, {attributes:?}");

            let found = layers(&model);
            let map = found[0].map.as_ref().unwrap();
            assert_eq!((map.rows, map.columns), if left { (5, 13) } else { (9, 13) }, "{name}");
            match map.form {
                Form::Gemm { free_bias, .. } => assert!(!left && free_bias == free, "{name}"),
                Form::GemmLeft { .. } => assert!(left, "{name}"),
                ref other => panic!("{name}: {other:?}"),
            }
            assert_eq!(check(&name, &model, &inputs(&model)), [(Scheme::Matrix, 1)], "{name}");
        }
    }
}

/// W x + bias is what the node computes, worked out by hand for one position.
#[test]
fn gemm_scales_are_part_of_the_weight() {
    let mut b = Builder::new(&[1, 16]);
    b.weight("w", &[16, 8]);
    b.weight("c", &[8]);
    b.node("Gemm", &["x", "w", "c"], "y", &[float("alpha", 3.0), float("beta", -0.5)]);
    let model = b.finish(&["y"]);
    let weight = layers(&model)[0].weight(&model).unwrap();
    let stored = |name: &str| graph::constant_tensor(&model, name).unwrap().unwrap().to_f64_vec();
    let (w, c) = (stored("w"), stored("c"));
    for (o, bias) in weight.bias.iter().enumerate() {
        assert_eq!(*bias, -0.5 * c[o]);
        for i in 0..16 {
            assert_eq!(weight.groups[0][[o, i]], 3.0 * w[i * 8 + o]);
        }
    }
}

#[test]
fn matmul_with_the_weight_on_either_side() {
    for x in [&[6, 12][..], &[2, 6, 12], &[2, 3, 6, 12]] {
        let mut b = Builder::new(x);
        b.weight("w", &[12, 10]);
        b.node("MatMul", &["x", "w"], "y", &[]);
        let model = b.finish(&["y"]);
        let map = layers(&model)[0].map.clone().unwrap();
        assert!(matches!(map.form, Form::MatMulRight) && (map.rows, map.columns) == (10, 12));
        assert_eq!(check("right", &model, &inputs(&model)), [(Scheme::Matrix, 1)]);

        let mut b = Builder::new(x);
        b.weight("w", &[24, 6]);
        b.node("MatMul", &["w", "x"], "y", &[]);
        let model = b.finish(&["y"]);
        let map = layers(&model)[0].map.clone().unwrap();
        assert!(matches!(map.form, Form::MatMulLeft) && (map.rows, map.columns) == (24, 6));
        assert_eq!(check("left", &model, &inputs(&model)), [(Scheme::Matrix, 1)]);
    }
}

/// A vector has no row for a bias of one number per output to be added along.
#[test]
fn matmul_with_a_vector() {
    let mut b = Builder::new(&[12]);
    b.weight("w", &[12, 10]);
    b.node("MatMul", &["x", "w"], "y", &[]);
    let model = b.finish(&["y"]);
    assert_eq!(check("right of a vector", &model, &inputs(&model)), [(Scheme::Matrix, 1)]);
}

/// Before operator set 11 the third input of Gemm was required.
#[test]
fn gemm_keeps_three_inputs_in_old_operator_sets() {
    for opset in [7, 9, 10, 11, 17] {
        for bias in [&[1][..], &[9], &[5, 9]] {
            let mut b = Builder::new(&[5, 13]);
            b.opset(opset);
            b.weight("w", &[13, 9]);
            b.weight("c", bias);
            b.node("Gemm", &["x", "w", "c"], "y", &[]);
            let model = b.finish(&["y"]);
            let plan = super::written::plan(&model, Scheme::Matrix, super::written::Ranks::Full).0;
            let applied = plan.apply(&model).unwrap();
            for node in &applied.graph().node {
                assert!(opset >= 11 || node.input.len() == 3, "opset {opset}: {node:?}");
            }
            check("an old Gemm", &model, &inputs(&model));
        }
    }
}
