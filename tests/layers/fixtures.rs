//! The fixtures of `make_shapes.py`, every layer by every scheme.

use onnx_bsr::factorize::Scheme;
use onnx_bsr::onnx::Model;

use super::written::{arrays, check, fixture};

/// Factorizes a fixture and counts the layers, scheme by scheme.
fn run(name: &str, wanted: &[(Scheme, usize)]) {
    let model = Model::read(&fixture(&format!("{name}.onnx"))).unwrap();
    let inputs = arrays(&fixture(&format!("expected/{name}.npz")), &model);
    assert_eq!(check(name, &model, &inputs), wanted, "{name}");
}

#[test]
fn convolutions_over_one_axis() {
    use Scheme::*;
    run("conv1d", &[(ChannelOut, 4), (ChannelIn, 4), (Tucker, 3), (Matrix, 1)]);
}

#[test]
fn convolutions_over_three_axes() {
    use Scheme::*;
    run("conv3d", &[(ChannelOut, 4), (ChannelIn, 3), (Tucker, 3)]);
}

#[test]
fn grouped_convolutions() {
    use Scheme::*;
    run("grouped", &[(ChannelOut, 5), (ChannelIn, 4), (Spatial, 3), (Tucker, 3)]);
}

#[test]
fn matrix_products() {
    run("matmul", &[(Scheme::Matrix, 10)]);
}

#[test]
fn attention() {
    run("attention", &[(Scheme::Matrix, 7)]);
}

#[test]
fn residual_blocks() {
    use Scheme::*;
    run("residual", &[(ChannelOut, 6), (ChannelIn, 5), (Spatial, 5), (Tucker, 5), (Matrix, 1)]);
}
