"""Counts parameters and multiply-accumulates of Conv, Gemm and MatMul, independently of onnx-bsr.

    python benches/count_params_macs.py MODEL [--shape input=1,3,32,32]..

Shapes come from onnx.shape_inference; what it leaves open is read off a run in ONNX Runtime. Symbolic dimensions are 1 unless
--shape gives them. Prints one JSON object:

    params        elements of all float constants (initializers and Constant nodes), each counted once
    layer_params  elements of the layers' weights and biases, shared ones counted once
    macs          multiply-accumulates of all layers, products of two activations included; biases are free
    layers        name, op_type, constant (whether an operand is constant), params (weight and bias), macs

Nodes inside subgraphs (If, Loop, Scan) and local functions are not counted.
"""

import argparse
import json
from math import prod

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, shape_inference

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def constant_tensors(graph):
    """Returns name -> TensorProto of initializers and of Constant nodes that hold a tensor, and float Constants' sizes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensors[node.output[0]] = attribute.t
                elif attribute.name in ("value_float", "value_floats"):
                    values = [attribute.f] if attribute.name == "value_float" else list(attribute.floats)
                    tensors[node.output[0]] = helper.make_tensor("", TensorProto.FLOAT, [len(values)], values)
    return tensors


def constant_names(graph, tensors):
    """Returns the names of all values computed from constants alone."""
    names = set(tensors) | {node.output[0] for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if inputs and all(name in names for name in inputs) and not any(a.HasField("g") for a in node.attribute):
            names.update(node.output)
    return names


def fix_inputs(graph, overrides, tensors):
    """Replaces symbolic dimensions of the graph's inputs, in place, and drops those of its other shapes."""
    for value in graph.input:
        if value.name in tensors:
            continue
        dims = value.type.tensor_type.shape.dim
        given = overrides.pop(value.name, None)
        if given is not None and len(given) != len(dims):
            raise SystemExit(f"--shape {value.name} has {len(given)} dimensions, the model {len(dims)}")
        for index, dim in enumerate(dims):
            size = given[index] if given else (dim.dim_value if dim.dim_value > 0 else 1)
            dim.Clear()
            dim.dim_value = size
    if overrides:
        raise SystemExit(f"--shape names no input of the model: {', '.join(overrides)}")
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def inferred_shapes(model, tensors):
    """Returns name -> dims for every value of known shape."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return shapes


def measured_shapes(model, names, tensors):
    """Runs the model on zeros and returns the dims of the values in `names`."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for value in model.graph.input:
        if value.name not in tensors:
            kind = value.type.tensor_type
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feeds[value.name] = np.zeros([dim.dim_value for dim in kind.shape.dim], dtype)
    return {name: result.shape for name, result in zip(names, session.run(names, feeds), strict=True)}


def macs_of(node, shapes):
    output = prod(shapes[node.output[0]])
    first, second = shapes[node.input[0]], shapes[node.input[1]]
    if node.op_type == "Conv":
        # Weight [M, C / group, kernel..]: one output element takes C / group * kernel products.
        return output * prod(second[1:])
    if node.op_type == "Gemm":
        trans_a = any(a.name == "transA" and a.i for a in node.attribute)
        return output * first[0 if trans_a else 1]
    return output * first[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=D,D,..")
    args = parser.parse_args()
    overrides = {}
    for option in args.shape:
        name, _, dims = option.rpartition("=")
        overrides[name] = [int(dim) for dim in dims.split(",")]

    model = onnx.load(args.model)
    graph = model.graph
    tensors = constant_tensors(graph)
    constants = constant_names(graph, tensors)
    fix_inputs(graph, overrides, tensors)
    nodes = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and node.domain in ("", "ai.onnx")]
    shapes = inferred_shapes(model, tensors)
    wanted = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name and name not in shapes)
    if wanted:
        shapes |= measured_shapes(model, list(wanted), tensors)

    layers, counted = [], {}
    for node in nodes:
        own = {name: prod(shapes[name]) for name in node.input if name in constants}
        counted |= own
        layers.append(
            {
                "name": node.name,
                "op_type": node.op_type,
                "output": node.output[0],
                "constant": bool(own),
                "params": sum(own.values()),
                "macs": macs_of(node, shapes),
            }
        )
    result = {
        "params": sum(prod(tensor.dims) for tensor in tensors.values() if tensor.data_type in FLOATS),
        "layer_params": sum(counted.values()),
        "macs": sum(layer["macs"] for layer in layers),
        "layers": layers,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
