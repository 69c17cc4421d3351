"""Writes a decoder-like model with random weights of decaying spectra and external data: for trying large files.

    python benches/decoder.py OUT.onnx [--layers 5] [--hidden 4096] [--wide 11008] [--vocab 4096]

The defaults give 4.2 GB of f32. Weights are streamed: memory stays at a few matrices.
"""

import argparse
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper

PAGE = 4096


class Writer:
    def __init__(self, path, seed):
        self.path = pathlib.Path(path)
        self.data = open(str(path) + ".data", "wb")
        self.location = self.path.name + ".data"
        self.random = np.random.default_rng(seed)
        self.initializers, self.nodes, self.bases = [], [], {}

    def external(self, name, array):
        offset = -(-self.data.tell() // PAGE) * PAGE
        self.data.seek(offset)
        array.astype("<f4", copy=False).tofile(self.data)
        tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in [("location", self.location), ("offset", offset), ("length", 4 * array.size)]:
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def small(self, name, values, dtype=np.float32):
        self.initializers.append(onnx.numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def basis(self, rows, columns):
        if (rows, columns) not in self.bases:
            self.bases[rows, columns] = self.random.standard_normal((rows, columns), np.float32)
        return self.bases[rows, columns]

    def weight(self, name, rows, columns, power):
        """A matrix whose singular values fall like a power of their number, from few to all directions."""
        inner = min(rows, columns)
        spectrum = ((1 + np.arange(inner) / 16) ** -power).astype(np.float32)
        left = self.basis(rows, inner)[self.random.permutation(rows)]
        right = self.basis(inner, columns)[:, self.random.permutation(columns)]
        made = (left * spectrum[self.random.permutation(inner)]) @ right
        made *= np.float32(0.6 / np.sqrt(rows) / made.std())
        return self.external(name, made)

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output


def norm(w, x, name, hidden):
    scale = w.external(f"{name}.scale", 1 + 0.1 * w.random.standard_normal(hidden, np.float32))
    square = w.node("Mul", [x, x], f"{name}/square")
    mean = w.node("ReduceMean", [square, "last_axis"], f"{name}/mean", keepdims=1)
    safe = w.node("Add", [mean, "epsilon"], f"{name}/safe")
    root = w.node("Sqrt", [safe], f"{name}/root")
    unit = w.node("Div", [x, root], f"{name}/unit")
    return w.node("Mul", [unit, scale], f"{name}/out")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    for key, default in dict(layers=5, hidden=4096, wide=11008, vocab=4096, heads=32, seed=0).items():
        parser.add_argument(f"--{key}", type=int, default=default)
    a = parser.parse_args()
    w = Writer(a.out, a.seed)
    w.small("last_axis", [-1], np.int64)
    w.small("epsilon", 1e-5)
    w.small("split", [0, 0, a.heads, a.hidden // a.heads], np.int64)
    w.small("joined", [0, 0, a.hidden], np.int64)
    w.small("temperature", (a.hidden // a.heads) ** -0.5)
    table = w.external("table", w.random.standard_normal((a.vocab, a.hidden), np.float32))
    x = w.node("Gather", [table, "tokens"], "embedded")
    for layer in range(a.layers):
        n, power = f"layer{layer}", 0.9 - 0.3 * layer / max(a.layers - 1, 1)
        linear = lambda x, part, rows, columns, p: w.node(
            "MatMul", [x, w.weight(f"{n}.{part}", rows, columns, p)], f"{n}/{part}")
        y = norm(w, x, f"{n}/before", a.hidden)
        heads = {}
        for part, p, order in [("q", 1.1, [0, 2, 1, 3]), ("k", 1.1, [0, 2, 3, 1]), ("v", 0.8, [0, 2, 1, 3])]:
            z = linear(y, part, a.hidden, a.hidden, power * p)
            z = w.node("Reshape", [z, "split"], f"{n}/{part}/split")
            heads[part] = w.node("Transpose", [z], f"{n}/{part}/heads", perm=order)
        z = w.node("MatMul", [heads["q"], heads["k"]], f"{n}/scores")
        z = w.node("Mul", [z, "temperature"], f"{n}/scaled")
        z = w.node("Softmax", [z], f"{n}/attention", axis=-1)
        z = w.node("MatMul", [z, heads["v"]], f"{n}/mixed")
        z = w.node("Transpose", [z], f"{n}/rows", perm=[0, 2, 1, 3])
        z = w.node("Reshape", [z, "joined"], f"{n}/joined")
        x = w.node("Add", [x, linear(z, "o", a.hidden, a.hidden, power)], f"{n}/middle")
        y = norm(w, x, f"{n}/after", a.hidden)
        gate, up = (linear(y, part, a.hidden, a.wide, power) for part in ("gate", "up"))
        soft = w.node("Sigmoid", [gate], f"{n}/soft")
        gate = w.node("Mul", [gate, soft], f"{n}/silu")
        z = w.node("Mul", [gate, up], f"{n}/gated")
        x = w.node("Add", [x, linear(z, "down", a.wide, a.hidden, power)], f"{n}/out")
    y = norm(w, x, "final", a.hidden)
    w.node("MatMul", [y, w.weight("head", a.hidden, a.vocab, 0.5)], "logits")
    info = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)
    graph = helper.make_graph(
        w.nodes, "decoder", [info("tokens", TensorProto.INT64, ["batch", "length"])],
        [info("logits", TensorProto.FLOAT, ["batch", "length", a.vocab])], w.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    w.data.close()
    pathlib.Path(a.out).write_bytes(model.SerializeToString())
    onnx.checker.check_model(a.out)
    print(a.out, w.path.with_name(w.location).stat().st_size, "bytes")


main()
