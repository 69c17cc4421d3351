"""A small interpreter of ONNX graphs in PyTorch, for comparing training steps and gradients.

Covers what convolutional networks and sentence encoders are made of; another operator is reported by name. Nodes that read
constants only are computed once. `Network(path, output).parameters` are the trained constants, by name.
"""

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

# Operators whose constants are trained; the Rust side has the same rule.
TRAINED_BY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "Add"}


def integers(tensor):
    return [int(v) for v in tensor.flatten().tolist()]


def spatial_padding(attributes, axes):
    pads = attributes.get("pads", [0] * 2 * axes)
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise NotImplementedError("auto_pad")
    return pads[:axes], pads[axes:]


def padded(x, begin, end, value=0.0):
    """Symmetric padding is left to the operator: returns the tensor and that padding."""
    if begin == end:
        return x, begin
    flat = [amount for pair in reversed(list(zip(begin, end))) for amount in pair]
    return F.pad(x, flat, value=value), [0] * len(begin)


def conv(a, x, weight, bias=None):
    axes = weight.dim() - 2
    x, padding = padded(x, *spatial_padding(a, axes))
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    ones = [1] * axes
    return run(x, weight, bias, a.get("strides", ones), padding, a.get("dilations", ones), a.get("group", 1))


def pool(kind):
    def run(a, x):
        kernel = a["kernel_shape"]
        strides = a.get("strides", [1] * len(kernel))
        begin, end = spatial_padding(a, len(kernel))
        ceil = bool(a.get("ceil_mode", 0))
        if kind == "max":
            x, padding = padded(x, begin, end, float("-inf"))
            return F.max_pool2d(x, kernel, strides, padding, a.get("dilations", 1), ceil)
        x, padding = padded(x, begin, end)
        return F.avg_pool2d(x, kernel, strides, padding, ceil, bool(a.get("count_include_pad", 0)))

    return run


def gemm(a, x, y, c=None):
    x = x.t() if a.get("transA", 0) else x
    y = y.t() if a.get("transB", 0) else y
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    return alpha * (x @ y) if c is None else torch.addmm(c, x, y, beta=beta, alpha=alpha)


def reshape(a, x, shape):
    sizes = integers(shape)
    if not a.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def slice_(a, x, starts=None, ends=None, axes=None, steps=None):
    starts = a["starts"] if starts is None else integers(starts)
    ends = a["ends"] if ends is None else integers(ends)
    axes = integers(axes) if axes is not None else a.get("axes", list(range(len(starts))))
    steps = integers(steps) if steps is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        size = x.shape[axis]
        places = range(size)[slice(start, end if abs(end) < 2**31 else (None if (end > 0) == (step > 0) else -size - 1), step)]
        if step < 0:
            x = x.index_select(axis, torch.tensor(list(places)))
        else:
            index = [slice(None)] * x.dim()
            index[axis] = slice(places.start, places.stop, step)
            x = x[tuple(index)]
    return x


def pad(a, x, pads=None, value=None, axes=None):
    if a.get("mode", b"constant") != b"constant" or axes is not None:
        raise NotImplementedError("Pad other than with a constant")
    pads = a["pads"] if pads is None else integers(pads)
    half = len(pads) // 2
    flat = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[half + axis])]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


def axes_of(a, x, axes):
    if axes is not None:
        return integers(axes)
    return a.get("axes", list(range(x.dim())))


def unsqueeze(a, x, axes=None):
    axes = a["axes"] if axes is None else integers(axes)
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(a, x, axes=None):
    axes = a.get("axes") if axes is None else integers(axes)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def gather(a, x, indices):
    axis = a.get("axis", 0)
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    if axis == 0 and x.dim() == 2 and indices.dim() > 0:
        return F.embedding(indices, x)
    picked = x.index_select(axis, indices.flatten())
    return picked.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def constant_of_shape(a, shape):
    value = torch.from_numpy(numpy_helper.to_array(a["value"]).copy()) if "value" in a else torch.zeros(1)
    return value.expand(integers(shape)).clone()


def layer_norm(a, x, scale, bias=None):
    axis = a.get("axis", -1) % x.dim()
    return F.layer_norm(x, x.shape[axis:], scale, bias, a.get("epsilon", 1e-5))


def cast(a, x):
    return x.to(torch.from_numpy(onnx.helper.tensor_dtype_to_np_dtype(a["to"]).type([0])).dtype)


def divide(a, x, y):
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


OPERATORS = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": pool("average"),
    "Cast": cast,
    "Clip": lambda a, x, low=None, high=None: torch.clamp(x, low, high),
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "ConstantOfShape": constant_of_shape,
    "Conv": conv,
    "Div": divide,
    "Equal": lambda a, x, y: x == y,
    "Erf": lambda a, x: torch.erf(x),
    "Expand": lambda a, x, shape: x.expand(torch.broadcast_shapes(x.shape, integers(shape))),
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)) if a.get("axis", 1) else x.reshape(1, -1),
    "Gather": gather,
    "Gelu": lambda a, x: F.gelu(x, approximate=a.get("approximate", b"none").decode()),
    "Gemm": gemm,
    "GlobalAveragePool": lambda a, x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "Identity": lambda a, x: x,
    "LayerNormalization": layer_norm,
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": pool("max"),
    "Mul": lambda a, x, y: x * y,
    "Pad": pad,
    "Pow": lambda a, x, y: x**y,
    "ReduceMean": lambda a, x, axes=None: x.mean(axes_of(a, x, axes), keepdim=bool(a.get("keepdims", 1))),
    "ReduceSum": lambda a, x, axes=None: x.sum(axes_of(a, x, axes), keepdim=bool(a.get("keepdims", 1))),
    "Relu": lambda a, x: torch.relu(x),
    "Reshape": reshape,
    "Shape": lambda a, x: torch.tensor(x.shape),
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Slice": slice_,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Sqrt": lambda a, x: torch.sqrt(x),
    "Squeeze": squeeze,
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: torch.tanh(x),
    "Transpose": lambda a, x: x.permute(a.get("perm", list(reversed(range(x.dim()))))),
    "Unsqueeze": unsqueeze,
    "Where": lambda a, condition, x, y: torch.where(condition, x, y),
}


class Network:
    """One output of a model (its first, unless told) as a function of its inputs."""

    def __init__(self, path, output=None):
        graph = onnx.load(path).graph
        self.output = output or graph.output[0].name
        stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.inputs = [value for value in graph.input if value.name not in stored]
        readers = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, set()).add(node.op_type)
        needed, alive = {self.output}, []
        for node in reversed(graph.node):
            if needed & set(node.output):
                alive.append(node)
                needed |= set(node.input)
        self.parameters = {
            name: tensor.requires_grad_()
            for name, tensor in stored.items()
            if tensor.dtype == torch.float32
            and tensor.numel() > 1
            and name in needed
            and readers.get(name, set()) <= TRAINED_BY
        }
        self.known = dict(stored)
        self.steps = []
        for node in reversed(alive):
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self.known[node.output[0]] = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
                continue
            if node.op_type not in OPERATORS:
                raise SystemExit(f"operator {node.op_type} is not covered")
            step = (OPERATORS[node.op_type], attributes, list(node.input), node.output[0])
            constant = all(name in self.known and name not in self.parameters for name in node.input if name)
            if constant:
                self.run(step, self.known)
            else:
                self.steps.append(step)

    @staticmethod
    def run(step, values):
        operator, attributes, inputs, output = step
        values[output] = operator(attributes, *(values[name] if name else None for name in inputs))

    def channels_last(self):
        """Weights of four axes in the layout where channels come last."""
        for name, tensor in self.parameters.items():
            if tensor.dim() == 4:
                last = tensor.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
                self.parameters[name] = self.known[name] = last

    def __call__(self, inputs):
        values = {**self.known, **{value.name: given for value, given in zip(self.inputs, inputs)}}
        for step in self.steps:
            self.run(step, values)
        return values[self.output]

    def backward(self, loss):
        """Gradients of all parameters, by name; the others' are left out."""
        names = list(self.parameters)
        gradients = torch.autograd.grad(loss, [self.parameters[name] for name in names], allow_unused=True)
        return {name: gradient for name, gradient in zip(names, gradients) if gradient is not None}
