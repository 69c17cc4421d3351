"""Writes a small VGG-like network with seeded random weights for 32 x 32 images: the benchmarks' plain stack of convolutions.

    python benches/vgg_like.py OUT.onnx [--width 32]
"""

import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--width", type=int, default=32)
    args = parser.parse_args()
    rng = np.random.default_rng(7)
    nodes, weights = [], []

    def stored(name, *shape):
        fan_in = int(np.prod(shape[1:]))
        values = rng.standard_normal(shape) * np.sqrt(2 / fan_in) if len(shape) > 1 else rng.standard_normal(shape) * 0.1
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    value, channels, number = "input", 3, 0
    for stage, depth in enumerate([2, 2, 3]):
        for _ in range(depth):
            width = args.width << stage
            weight, bias = stored(f"conv{number}.weight", width, channels, 3, 3), stored(f"conv{number}.bias", width)
            convolved, active = f"conv{number}", f"relu{number}"
            nodes.append(helper.make_node("Conv", [value, weight, bias], [convolved], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [convolved], [active]))
            value, channels, number = active, width, number + 1
        nodes.append(helper.make_node("MaxPool", [value], [f"pool{stage}"], kernel_shape=[2, 2], strides=[2, 2]))
        value = f"pool{stage}"
    nodes.append(helper.make_node("Flatten", [value], ["flat"]))
    weight, bias = stored("dense.weight", 128, channels * 16), stored("dense.bias", 128)
    nodes.append(helper.make_node("Gemm", ["flat", weight, bias], ["dense"], transB=1))
    nodes.append(helper.make_node("Relu", ["dense"], ["hidden"]))
    weight, bias = stored("classes.weight", 10, 128), stored("classes.bias", 10)
    nodes.append(helper.make_node("Gemm", ["hidden", weight, bias], ["logits"], transB=1))
    graph = helper.make_graph(
        nodes,
        "vgg-like",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, args.out)


if __name__ == "__main__":
    main()
