"""Data in the forms Python has them, as arrays for the native part."""

import os
from collections.abc import Iterable, Mapping

import numpy as np

from . import _native

# ONNX's numbers of element types.
_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}

# Bytes that are handed over at once.
_PORTION = 64 << 20

# Keys under which a dict may hold labels, as in an npz archive.
_LABELS = ("labels", "label", "y", "targets", "target", "classes")


class Sources:
    """The data of one call; the same object given twice is read once."""

    def __init__(self, scratch):
        self._scratch = scratch
        self._read = {}

    def flags(self, name, data, labels):
        """The command line's part for `--name`, and the samples where they are in memory."""
        if data is None:
            if labels is not None:
                raise TypeError(f"labels are given, but no {name}")
            return [], None
        label_flag = "--labels" if name == "data" else f"--{name}-labels"
        if is_path(data):
            line = [f"--{name}={os.fsdecode(data)}"]
            samples = None
        else:
            line = [f"--{name}={name}"]
            in_memory = None if is_path(labels) else labels
            key = id(data), id(in_memory)
            if key not in self._read:
                # The objects are kept: an id is only an object's while it lives.
                self._read[key] = read(data, in_memory), data, in_memory
            samples = self._read[key][0]
        if is_path(labels):
            line.append(f"{label_flag}={os.fsdecode(labels)}")
        elif labels is not None and samples is None:
            path = self._scratch.path(f"{name}-labels.npy")
            np.save(path, array(labels))
            line.append(f"{label_flag}={path}")
        return line, samples


def is_path(value):
    return isinstance(value, (str, os.PathLike))


def array(value):
    """An array of what may be a tensor of PyTorch or another library."""
    if not isinstance(value, np.ndarray):
        for step in ("detach", "cpu"):
            value = getattr(value, step, lambda value=value: value)()
        if str(getattr(value, "dtype", "")) == "torch.bfloat16":
            value = value.float()
        if hasattr(value, "numpy"):
            value = value.numpy()
    value = np.asarray(value)
    if value.dtype.name not in _TYPES:
        raise TypeError(f"arrays of {value.dtype} are no data for a model")
    return value


def read(data, labels=None):
    """Samples for the native part: of a dict of arrays, an array, a tuple (inputs, labels), or an iterable of
    any of these, each a batch."""
    samples = _native.Samples()
    if labels is not None:
        add(samples, None, "labels", array(labels))
    if isinstance(data, (Mapping, tuple)) or hasattr(data, "__array__"):
        batch(samples, data, labels is None)
        return samples
    if not isinstance(data, Iterable):
        raise TypeError(
            f"data are a path, a dict of arrays, an array, (inputs, labels), or batches of these, not "
            f"{type(data).__name__}"
        )
    count = 0
    for count, part in enumerate(data, 1):
        batch(samples, part, labels is None)
    if count == 0:
        raise ValueError("data: there are no batches")
    return samples


def batch(samples, part, takes_labels):
    """Adds one batch."""
    labels = None
    if isinstance(part, (tuple, list)):
        if len(part) > 2:
            raise TypeError(
                f"a batch of {len(part)} parts: give (inputs, labels), where inputs may be a dict by input name"
            )
        part, labels = (*part, None)[:2]
    if isinstance(part, Mapping):
        # In the order of the first batch, whatever that of the others.
        columns = sorted(part.items())
    elif isinstance(part, (tuple, list)):
        columns = [("", value) for value in part]
    else:
        columns = [("", part)]
    if labels is not None and takes_labels:
        add(samples, None, "labels", array(labels))
    arrays = [(name, array(value)) for name, value in columns if value is not None]
    lengths = {name: value.shape[:1] for name, value in arrays}
    if labels is not None:
        lengths["labels"] = array(labels).shape[:1]
    if len(set(lengths.values())) > 1:
        raise ValueError(f"data: a batch has arrays of different lengths: {lengths}")
    for column, (name, value) in enumerate(arrays):
        add(samples, column, name, value)


def add(samples, column, name, value):
    """Hands an array over, in portions of whole samples."""
    if value.ndim == 0:
        raise ValueError(f"data: `{name}` has no axis of samples")
    kind = _TYPES[value.dtype.name]
    # The native part takes little-endian elements.
    value = value.astype(value.dtype.newbyteorder("<"), copy=False) if value.dtype.kind in "iuf" else value
    step = max(1, _PORTION // max(1, value.nbytes // max(1, len(value))))
    for start in range(0, max(1, len(value)), step):
        part = value[start : start + step]
        samples.add(column, name, kind, list(part.shape), part.tobytes())
