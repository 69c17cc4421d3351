"""Each form of data is the same samples."""

import numpy as np
import onnx_bsr
import pytest
from conftest import FIXTURES


class Tensor:
    """What a tensor of PyTorch looks like from here."""

    def __init__(self, array):
        self._array = array
        self.dtype = f"torch.{array.dtype}"

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self._array


class Loader:
    """A DataLoader's shape: it can be walked again and again."""

    def __init__(self, make):
        self._make = make

    def __iter__(self):
        return iter(self._make())


def batches(images, labels, size=64):
    for start in range(0, len(labels), size):
        yield images[start : start + size], labels[start : start + size]


@pytest.fixture(scope="module")
def parts(heldout):
    name = next(name for name in heldout if name != "labels")
    # Part of the samples are wrong on purpose, so that labels that are lost or moved show.
    labels = heldout["labels"].copy()
    labels[::7] = (labels[::7] + 1) % 10
    return name, heldout[name], labels


@pytest.fixture(scope="module")
def expected(model, parts):
    name, images, labels = parts
    value = onnx_bsr.evaluate(model, {name: images, "labels": labels})["metric"]
    assert 80 < value["value"] < 90
    return value


def test_forms(model, parts, expected):
    name, images, labels = parts
    floats = np.asfortranarray(images.astype(np.float32) / 255)
    forms = {
        "dict": {name: images, "labels": labels},
        "floats": {name: floats, "y": labels.astype(np.uint8)},
        "big-endian": {name: floats.astype(">f4"), "labels": labels.astype(">i4")},
        "doubles": {name: images / 255.0, "labels": labels},
        "strided": {name: np.repeat(images, 2, axis=0)[::2], "labels": labels},
        "tuple": (images, labels),
        "tensors": (Tensor(images), Tensor(labels)),
        "generator": batches(images, labels),
        "loader": Loader(lambda: ((Tensor(x), Tensor(y)) for x, y in batches(images, labels, 133))),
        "lists": [[x, y] for x, y in batches(images, labels)],
        "dicts": [{"labels": y, name: x} for x, y in batches(images, labels, 300)],
        "dict and labels": [({name: x}, y) for x, y in batches(images, labels)],
    }
    for form, data in forms.items():
        assert onnx_bsr.evaluate(model, data)["metric"] == expected, form
    unlabelled = [images[:150], images[150:]]
    assert onnx_bsr.evaluate(model, unlabelled, labels=labels)["metric"] == expected
    assert onnx_bsr.evaluate(model, images, labels=list(labels))["metric"] == expected


def test_files_and_arrays_go_together(model, parts, expected, tmp_path):
    name, images, labels = parts
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    path = tmp_path / "images.npy"
    assert onnx_bsr.evaluate(model, path, labels=labels)["metric"] == expected
    assert onnx_bsr.evaluate(model, path, labels=tmp_path / "labels.npy")["metric"] == expected
    held = onnx_bsr.evaluate(model, {name: images}, labels=str(tmp_path / "labels.npy"))
    assert held["metric"] == expected


def test_inputs_by_name_and_in_order():
    model = FIXTURES / "attention.onnx"
    ids = np.arange(16).reshape(2, 8) % 40
    mask = np.ones((2, 8), np.int64)
    by_name = {"input_ids": ids, "attention_mask": mask}
    for data in (by_name, [((ids, mask), None)], [{k: v[i : i + 1] for k, v in by_name.items()} for i in (0, 1)]):
        report = onnx_bsr.check(model, model, data=data)
        assert report["equal"] and report["samples"] == 2


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        ({"x": np.zeros((2, 3))}, onnx_bsr.DataError, "shape"),
        ([], ValueError, "no batches"),
        (3, TypeError, "not int"),
        ({"x": np.array(["a", "b"])}, TypeError, "no data for a model"),
        ([np.zeros((2, 28, 28)), np.zeros((2, 28, 27))], ValueError, "batches before"),
        ((np.zeros((3, 28, 28)), np.zeros(2, int)), ValueError, "different lengths"),
        ([(1, 2, 3)], TypeError, "3 parts"),
        ((np.zeros((3, 28, 28)), np.array([0, 1, 10])), onnx_bsr.DataError, "10 classes"),
        (np.full((3, 28, 28), np.nan, np.float32), onnx_bsr.DataError, "clean the data"),
    ],
)
def test_data_that_can_not_be_used(model, data, error, says):
    with pytest.raises(error, match=says):
        onnx_bsr.evaluate(model, data, reference=model)
