"""Makes small models of many kinds for coverage.py: what exporters write, and what the format allows.

    python benches/coverage_models.py OUT_DIR

Needs torch, onnx, onnxscript and numpy. Nothing is trained; weights have decaying singular values, as trained ones do, so that a
compressed file can be near its original. Models that this version of an exporter can't write are named and left out.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

warnings.filterwarnings("ignore")
torch.manual_seed(0)
RANDOM = np.random.default_rng(0)


def decaying(shape):
    """Returns weights whose singular values fall like 1 / i."""
    shape = tuple(shape)
    matrix = RANDOM.standard_normal((shape[0], int(np.prod(shape[1:]))))
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = 1.0 / np.arange(1, len(s) + 1) ** 1.2
    weights = (u * s) @ v
    return (weights / weights.std() / np.sqrt(weights.shape[1])).reshape(shape).astype(np.float32)


class Conv1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(8, 32, 5, padding=2, dilation=1), nn.Conv1d(32, 64, 3, stride=2, dilation=2)
        self.n = nn.BatchNorm1d(64)

    def forward(self, x):
        return self.n(torch.relu(self.b(torch.relu(self.a(x))))).mean(-1)


class Conv3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv3d(2, 16, 3, padding=1), nn.Conv3d(16, 32, 3, groups=2), nn.Linear(32, 10)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3, 4)))


class ConvMix(nn.Module):
    """Grouped, dilated, asymmetrically padded and transposed."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding="same", dilation=2)
        self.b = nn.Conv2d(32, 64, (1, 5), groups=4, stride=(1, 2))
        self.c = nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1)
        self.d = nn.ConvTranspose2d(32, 16, 2, groups=2)
        self.e = nn.Conv2d(16, 3, 3)

    def forward(self, x):
        y = nn.functional.pad(torch.nn.functional.silu(self.a(x)), (1, 0, 2, 1))
        return torch.sigmoid(self.e(torch.relu(self.d(torch.relu(self.c(torch.relu(self.b(y))))))))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.rnn = getattr(nn, kind)(32, 48, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(96, 50)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[0])


class Transformer(nn.Module):
    """Fused attention projections, an encoder, a decoder, and an output tied to the embedding."""

    def __init__(self, decoder=True):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.place = nn.Parameter(torch.randn(1, 64, 64) * 0.02)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu", norm_first=True), 2,
            enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(64, 4, 128, batch_first=True), 1) if decoder else None

    def forward(self, ids):
        x = self.embed(ids) + self.place[:, : ids.shape[1]]
        y = self.encoder(x)
        if self.decoder is not None:
            y = self.decoder(x, y)
        return y @ self.embed.weight.t()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(64, 4, batch_first=True), nn.Linear(64, 8)

    def forward(self, x, mask):
        y, weights = self.attention(x, x, x, attn_mask=mask)
        return self.out(y), weights


class Shared(nn.Module):
    """One Linear used twice, and a convolution used at two scales."""

    def __init__(self):
        super().__init__()
        self.conv, self.line, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(64, 64), nn.Linear(64, 10)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.conv(x)) + nn.functional.interpolate(self.conv(nn.functional.avg_pool2d(x, 2)), scale_factor=2.0)
        y = nn.functional.adaptive_avg_pool2d(y, (8, 1)).flatten(1)
        return self.head(torch.relu(self.line(torch.relu(self.line(y)))))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(48, 64), nn.Linear(48, 64), nn.Linear(64, 10)

    def forward(self, x):
        if x.sum() > 0:
            y = torch.relu(self.a(x))
        else:
            y = torch.tanh(self.b(x))
        return self.c(y)


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(48, 48), nn.Linear(48, 10)

    def forward(self, x, n):
        for _ in range(int(n)):
            x = torch.tanh(self.a(x))
        return self.b(x)


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(40, 96), nn.ReLU(), nn.Linear(96, 96), nn.GELU(), nn.LayerNorm(96), nn.Linear(96, 7))

    def forward(self, x):
        return self.layers(x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(24, 64), nn.Conv1d(4, 64, 3), nn.Linear(64, 5)

    def forward(self, x, y):
        z = torch.relu(self.a(x)) + torch.relu(self.b(y)).amax(-1)
        return self.c(z), z.softmax(-1), z.argmax(-1)


def exports(folder):
    ids, ids16 = torch.randint(0, 50, (2, 12)), torch.randint(0, 50, (1, 16))
    batch = {0: "batch"}
    cases = {
        "conv1d": (Conv1d(), (torch.randn(2, 8, 40),), ["x"], {"x": batch}),
        "conv3d": (Conv3d(), (torch.randn(2, 2, 6, 8, 8),), ["x"], {"x": batch}),
        "convmix": (ConvMix(), (torch.randn(2, 3, 16, 16),), ["x"], {"x": batch}),
        "convmix_batch1": (ConvMix(), (torch.randn(1, 3, 16, 16),), ["x"], None),
        "convmix_open": (ConvMix(), (torch.randn(2, 3, 16, 16),), ["x"], {"x": {0: "batch", 2: "height", 3: "width"}}),
        "lstm": (Recurrent("LSTM"), (ids,), ["ids"], {"ids": batch}),
        "gru": (Recurrent("GRU"), (ids,), ["ids"], {"ids": {0: "batch", 1: "length"}}),
        "rnn": (Recurrent("RNN"), (ids16,), ["ids"], None),
        "transformer": (Transformer(), (ids,), ["ids"], {"ids": {0: "batch", 1: "length"}}),
        "encoder": (Transformer(False), (ids,), ["ids"], {"ids": batch}),
        "attention": (Attention(), (torch.randn(2, 10, 64), torch.zeros(10, 10)), ["x", "mask"], {"x": batch}),
        "shared": (Shared(), (torch.randn(2, 3, 16, 16),), ["x"], {"x": batch}),
        "perceptron": (Perceptron(), (torch.randn(2, 40),), ["x"], {"x": batch}),
        "two_inputs": (TwoInputs(), (torch.randn(2, 24), torch.randn(2, 4, 12)), ["x", "y"], {"x": batch, "y": batch}),
    }
    with torch.no_grad():
        for module, *_ in cases.values():
            for parameter in module.parameters():
                if parameter.ndim >= 2:
                    parameter.copy_(torch.from_numpy(decaying(parameter.shape)))
    for name, (module, inputs, names, dynamic) in cases.items():
        module.eval()
        for kind in ["legacy", "dynamo"]:
            path = folder / f"{name}_{kind}.onnx"
            try:
                if kind == "legacy":
                    torch.onnx.export(module, inputs, str(path), input_names=names, dynamic_axes=dynamic, dynamo=False)
                else:
                    shapes = tuple({a: torch.export.Dim.DYNAMIC for a in dynamic.get(n, {})} for n in names) if dynamic else None
                    program = torch.onnx.export(module, inputs, input_names=names, dynamic_shapes=shapes, dynamo=True, verbose=False)
                    program.save(str(path), external_data=name == "perceptron")
            except Exception as fault:
                print(f"{path.name}: not exported: {str(fault).splitlines()[0][:150]}")
    for name, module, inputs, names in [
        ("branches", Branches(), (torch.randn(2, 48),), ["x"]),
        ("loop", Loop(), (torch.randn(2, 48), torch.tensor(3)), ["x", "n"]),
    ]:
        try:
            torch.onnx.export(torch.jit.script(module.eval()), inputs, str(folder / f"{name}_script.onnx"), input_names=names, dynamo=False)
        except Exception as fault:
            print(f"{name}: not exported: {str(fault).splitlines()[0][:150]}")


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def save(folder, name, nodes, inputs, outputs, weights=(), opset=17, ir=9, domains=(), **more):
    graph = helper.make_graph(nodes, name, inputs, outputs, [w if isinstance(w, TensorProto) else numpy_helper.from_array(w[1], w[0]) for w in weights],
                              sparse_initializer=more.pop("sparse", None))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir, producer_name="handmade", **more)
    onnx.save(model, str(folder / f"{name}.onnx"))


def handmade(folder):
    node = helper.make_node
    a, b = decaying((32, 64)), decaying((64, 10))
    x, y = value("x", ["N", 32]), value("y", ["N", 10])
    chain = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])]
    constants = [node("Constant", [], [n], value=numpy_helper.from_array(w, n)) for n, w in [("a", a), ("b", b)]]
    save(folder, "constants", constants + chain, [x], [y])
    save(folder, "weights_as_inputs", chain, [x, value("a", a.shape), value("b", b.shape), ], [y], [("a", a), ("b", b)], ir=3, opset=8)
    for kind, code in [(np.float16, TensorProto.FLOAT16), (np.float64, TensorProto.DOUBLE)]:
        save(folder, f"all_{np.dtype(kind).name}", chain, [value("x", ["N", 32], code)], [value("y", ["N", 10], code)],
             [("a", a.astype(kind)), ("b", b.astype(kind))])
        casts = [node("Cast", [n], [m], to=TensorProto.FLOAT) for n, m in [("a16", "a"), ("b16", "b")]]
        save(folder, f"stored_{np.dtype(kind).name}", casts + chain, [x], [y], [("a16", a.astype(kind)), ("b16", b.astype(kind))])
    bf = [helper.make_tensor(n, TensorProto.BFLOAT16, w.shape, w.flatten()) for n, w in [("a16", a), ("b16", b)]]
    save(folder, "stored_bfloat16", casts + chain, [x], [y], bf)
    save(folder, "transposed", [node("Transpose", ["at"], ["a"], perm=[1, 0]), node("Identity", ["bi"], ["b"])] + chain, [x], [y], [("at", a.T.copy()), ("bi", b)])
    save(folder, "reshaped", [node("Reshape", ["flat", "shape"], ["a"])] + chain, [x], [y], [("flat", a.flatten()), ("shape", np.array([32, 64])), ("b", b)])
    rows, columns = np.nonzero(np.abs(a) > 0.05)
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(a[rows, columns], "a"), numpy_helper.from_array(rows * 64 + columns, "a_indices"), a.shape)
    save(folder, "sparse", chain, [x], [y], [("b", b)], sparse=[sparse])
    dense = helper.make_function("local", "Dense", ["u", "w"], ["v"], [node("MatMul", ["u", "w"], ["m"]), node("Relu", ["m"], ["v"])], [helper.make_opsetid("", 17)])
    save(folder, "function", [node("Dense", ["x", "a"], ["r"], domain="local"), node("MatMul", ["r", "b"], ["y"])], [x], [y], [("a", a), ("b", b)], domains=["local"], functions=[dense])
    held = helper.make_function("local", "Held", ["u"], ["v"], [constants[0], node("MatMul", ["u", "a"], ["m"]), node("Relu", ["m"], ["v"])], [helper.make_opsetid("", 17)])
    save(folder, "function_weights", [node("Held", ["x"], ["r"], domain="local"), node("MatMul", ["r", "b"], ["y"])], [x], [y], [("b", b)], domains=["local"], functions=[held])
    square = decaying((64, 64))
    save(folder, "tied", [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "s"], ["i"]), node("Relu", ["i"], ["j"]), node("MatMul", ["j", "s"], ["k"]), node("MatMul", ["k", "b"], ["y"])],
         [x], [y], [("a", a), ("s", square), ("b", b)])
    table = decaying((100, 64))
    save(folder, "tied_embedding", [node("Gather", ["t", "ids"], ["e"]), node("Transpose", ["t"], ["tt"], perm=[1, 0]), node("MatMul", ["e", "tt"], ["logits"])],
         [value("ids", ["N", 8], TensorProto.INT64)], [value("logits", ["N", 8, 100])], [("t", table)])
    save(folder, "fused", [node("FusedMatMul", ["x", "a"], ["h"], domain="com.microsoft", alpha=0.5), node("BiasGelu", ["h", "c"], ["g"], domain="com.microsoft"), node("FusedMatMul", ["g", "bt"], ["y"], domain="com.microsoft", transB=1)],
         [x], [y], [("a", a), ("bt", b.T.copy()), ("c", np.full(64, 0.1, np.float32))], domains=["com.microsoft"])
    k = decaying((32, 16, 3, 3))
    save(folder, "fused_conv", [node("FusedConv", ["x", "k", "c"], ["h"], domain="com.microsoft", activation="Relu", pads=[1, 1, 1, 1]), node("Conv", ["h", "l"], ["y"])],
         [value("x", ["N", 16, 12, 12])], [value("y", ["N", 8, 10, 10])], [("k", k), ("c", np.zeros(32, np.float32)), ("l", decaying((8, 32, 3, 3)))], domains=["com.microsoft"])
    save(folder, "auto_pad", [node("Conv", ["x", "k"], ["h"], auto_pad="SAME_UPPER", strides=[2, 2]), node("Relu", ["h"], ["r"]), node("Conv", ["r", "l"], ["y"], pads=[0, 1, 2, 0], auto_pad="NOTSET")],
         [value("x", ["N", 16, 13, 13])], [value("y", ["N", 8, None, None])], [("k", k), ("l", decaying((8, 32, 3, 3)))])
    save(folder, "strings", [node("StringNormalizer", ["words"], ["lower"], case_change_action="LOWER")], [value("words", [2], TensorProto.STRING)], [value("lower", [2], TensorProto.STRING)])
    save(folder, "no_rows", [node("Concat", ["x", "none"], ["z"], axis=0)] + [node("MatMul", ["z", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])],
         [x], [value("y", ["M", 10])], [("none", np.zeros((0, 32), np.float32)), ("a", a), ("b", b)])
    body = lambda tag, w: helper.make_graph([node("MatMul", ["x", w], [f"m{tag}"]), node("Relu", [f"m{tag}"], [f"o{tag}"])], f"body{tag}", [], [value(f"o{tag}", None)], [numpy_helper.from_array(decaying((32, 64)), w)])
    save(folder, "if_weights", [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "zero"], ["c"]),
                                node("If", ["c"], ["r"], then_branch=body("t", "at"), else_branch=body("e", "ae")), node("MatMul", ["r", "b"], ["y"])],
         [x], [y], [("zero", np.float32(0)), ("b", b)])
    step = helper.make_graph([node("MatMul", ["state", "s"], ["m"]), node("Tanh", ["m"], ["next"]), node("Identity", ["cond"], ["go"])], "step",
                             [value("i", [], TensorProto.INT64), value("cond", [], TensorProto.BOOL), value("state", ["N", 64])],
                             [value("go", [], TensorProto.BOOL), value("next", ["N", 64])], [numpy_helper.from_array(square, "s")])
    save(folder, "loop_weights", [node("MatMul", ["x", "a"], ["h"]), node("Loop", ["trips", "", "h"], ["r"], body=step), node("MatMul", ["r", "b"], ["y"])], [x], [y],
         [("trips", np.int64(3)), ("a", a), ("b", b)])
    scan = helper.make_graph([node("Concat", ["one", "state"], ["j"], axis=0), node("MatMul", ["j", "w"], ["m"]), node("Tanh", ["m"], ["next"]), node("Identity", ["next"], ["out"])], "scan",
                             [value("state", [64]), value("one", [32])], [value("next", [64]), value("out", [64])], [numpy_helper.from_array(decaying((96, 64)), "w")])
    save(folder, "scan_weights", [node("Scan", ["start", "x"], ["last", "all"], body=scan, num_scan_inputs=1), node("MatMul", ["all", "b"], ["y"])], [x], [y],
         [("start", np.zeros(64, np.float32)), ("b", b)])
    wide = [node("Gemm", ["x", "a", "c"], ["h"], alpha=0.5, beta=2.0), node("Add", ["h", "d"], ["i"]), node("Sigmoid", ["i"], ["j"]), node("Gemm", ["j", "bt", "e"], ["y"], transB=1)]
    save(folder, "gemms", wide, [x], [y], [("a", a), ("c", np.ones((1, 64), np.float32)), ("d", np.ones(64, np.float32)), ("bt", b.T.copy()), ("e", np.zeros((), np.float32))])
    save(folder, "einsum", [node("Einsum", ["x", "a"], ["h"], equation="ni,io->no"), node("MatMul", ["h", "b"], ["y"])], [x], [y], [("a", a), ("b", b)])
    save(folder, "unknown_operator", [node("Magic", ["x"], ["z"], domain="org.example"), node("MatMul", ["z", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])], [x], [y], [("a", a), ("b", b)], domains=["org.example"])
    save(folder, "opset25", chain, [x], [y], [("a", a), ("b", b)], opset=25, ir=13)
    save(folder, "sequence", [node("SequenceConstruct", ["x", "x"], ["s"]), node("ConcatFromSequence", ["s"], ["z"], axis=0), node("MatMul", ["z", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])], [x], [value("y", ["M", 10])], [("a", a), ("b", b)])


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    handmade(target)
    exports(target)
    print(len(list(target.glob("*.onnx"))), "models")
