"""The main job from Python."""

import json
import subprocess

import numpy as np
import onnx
import onnx_bsr
import onnxruntime
import pytest
from conftest import FIXTURES, SHORT


def accuracy(model, heldout):
    """Percent of the held-out digits that ONNX Runtime gets right."""
    model = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    images = images_of(heldout).astype(np.float32) / 255
    shape = [dim if isinstance(dim, int) else len(images) for dim in entry.shape[1:]]
    scores = session.run(None, {entry.name: images.reshape(len(images), *shape)})[0]
    return 100 * np.mean(scores.argmax(1) == heldout["labels"])


def images_of(arrays):
    return next(array for name, array in arrays.items() if name != "labels")


def test_arrays_to_a_file_that_onnx_runtime_runs(model, train, heldout, tmp_path):
    output = tmp_path / "small.onnx"
    report = onnx_bsr.compress(model, output, ratio=4, data=train, test=heldout, **SHORT)
    assert report["ratio"]["reached"] >= 4 and report["missed"] == []
    assert output.stat().st_size == report["output"]["bytes"]
    assert report["metric"]["name"] == "top1" and report["metric"]["samples"] == 400
    found = accuracy(output, heldout)
    assert abs(found - report["metric"]["written"]) < 0.3 and found > 95
    assert report.model_bytes is None and report.plan is None
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_every_form_of_model_gives_the_same(model, train, tmp_path):
    output = tmp_path / "small.onnx"
    options = {"ratio": 3, "data": train, **SHORT}
    onnx_bsr.compress(str(model), output, **options)
    expected = output.read_bytes()
    for form in (model, model.read_bytes(), memoryview(model.read_bytes()), onnx.load(model)):
        report = onnx_bsr.compress(form, **options)
        assert report.model_bytes == expected, type(form)
        assert report["output"]["path"] == ""
    onnx.checker.check_model(onnx.load_from_string(expected), full_check=True)


def test_the_command_line_does_the_same(program, model, train, tmp_path):
    ours, theirs = tmp_path / "ours.onnx", tmp_path / "theirs.onnx"
    report = onnx_bsr.compress(
        model, ours, ratio=5, data=train, quantize=True, schemes=["channel", "matrix"], seed=3, **SHORT
    )
    np.savez(tmp_path / "digits.npz", **train)
    line = [program, model, theirs, "--ratio", "5", "--data", tmp_path / "digits.npz", "--quantize"]
    line += ["--schemes", "channel,matrix", "--seed", "3", "--json"]
    line += [part for name, value in SHORT.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    document = json.loads(subprocess.run(line, check=True, capture_output=True).stdout)
    assert ours.read_bytes() == theirs.read_bytes()
    assert report["metric"].pop("source").endswith("set aside from data")
    assert document["metric"].pop("source").endswith("set aside from digits.npz")
    for one in (report, document):
        for measured in ("seconds", "latency_ms", "peak_rss_bytes"):
            one[measured] = one[measured] and True
        for trial in one["search"]["trials"]:
            trial.pop("seconds")
        one["output"].pop("path")
        assert one["program"].pop("command")[0].endswith("onnx-bsr")
    assert report == document


def test_threads_change_nothing(model, train):
    options = {"ratio": 3, "data": train, **SHORT}
    one, two = (onnx_bsr.compress(model, threads=n, **options).model_bytes for n in (1, 2))
    assert one == two


def test_a_plan_is_replayed(model, train, tmp_path):
    first = onnx_bsr.compress(model, ratio=4, data=train, quantize="int8", save_plan=True, **SHORT)
    for plan in (first.plan, json.loads(first.plan)):
        assert onnx_bsr.apply_plan(model.read_bytes(), plan).model_bytes == first.model_bytes
    path = tmp_path / "plan.json"
    path.write_text(first.plan)
    onnx_bsr.apply_plan(model, path, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == first.model_bytes
    with pytest.raises(onnx_bsr.PlanError):
        onnx_bsr.apply_plan(FIXTURES / "residual.onnx", path)


def test_training_takes_the_data_again(model, train):
    report = onnx_bsr.compress(
        model, ratio=12, data=train, train=train, epochs=0.2, save_plan=False, threads=2, **SHORT
    )
    asked = len(train["labels"])
    assert 0 < report["training"]["samples"] < asked - report["metric"]["samples"]


def test_inspect_evaluate_check_bench(model, heldout):
    listing = onnx_bsr.inspect(model, include=["*"])
    assert listing["totals"]["params"] > 1e5 and any(layer["eligible"] for layer in listing["layers"])
    whole = onnx_bsr.evaluate(model, heldout)
    assert whole["runtime"] == "tract" and whole["metric"]["samples"] == 400
    assert abs(whole["metric"]["value"] - accuracy(model, heldout)) < 0.3
    assert onnx_bsr.evaluate(model, heldout, runtime="native")["metric"] == whole["metric"]
    images = {"x": images_of(heldout)[:50]}
    report = onnx_bsr.evaluate(model, images, reference=model.read_bytes(), metric="cosine")
    assert report["metric"]["value"] == pytest.approx(100)
    assert onnx_bsr.check(model, model.read_bytes(), data=images)["equal"]
    assert onnx_bsr.bench(model, model, runs=5)["runs"] == 5


def test_reports_are_documents(model):
    report = onnx_bsr.inspect(model)
    assert isinstance(report, dict) and json.loads(json.dumps(report)) == report
