"""Errors, callbacks, signals, and what is promised of types."""

import ast
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import onnx_bsr
import pytest
from conftest import SHORT

from onnx_bsr._options import flags

COMMANDS = {
    "compress": None,
    "inspect": "inspect",
    "evaluate": "eval",
    "check": "check",
    "bench": "bench",
    "apply_plan": "apply",
    "sweep": "sweep",
}


def test_errors_say_what_to_do(model, train, tmp_path):
    with pytest.raises(onnx_bsr.RatioError, match="out of reach") as caught:
        onnx_bsr.compress(model, ratio=1e4, data=train, **SHORT)
    assert caught.value.largest > 1 and "ratio" in caught.value.hint
    assert "--" not in str(caught.value) and "hint: ask for ratio" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.hint, again.largest) == (str(caught.value), caught.value.hint, caught.value.largest)
    for error, says, call in [
        (onnx_bsr.OptionError, "more than 1", lambda: onnx_bsr.compress(model, ratio=1)),
        (onnx_bsr.OptionError, "none of", lambda: onnx_bsr.compress(model, ratio=2, schemes=["svd"])),
        (onnx_bsr.OptionError, "needs? data|data", lambda: onnx_bsr.compress(model, ratio=2, train=train)),
        (onnx_bsr.FileError, "can't read", lambda: onnx_bsr.inspect(tmp_path / "none.onnx")),
        (onnx_bsr.FileError, "can't write", lambda: onnx_bsr.compress(model, tmp_path / "no" / "x", ratio=2)),
        (onnx_bsr.FileError, "overwrite", lambda: onnx_bsr.compress(model, model, ratio=2)),
        (onnx_bsr.ModelError, "not an ONNX model", lambda: onnx_bsr.inspect(b"hello")),
        (onnx_bsr.OptionError, "give ratio too", lambda: onnx_bsr.compress(model, max_drop=1, metric=len)),
    ]:
        with pytest.raises(error, match=says):
            call()
    with pytest.raises(TypeError, match="did you mean 'ratio'"):
        onnx_bsr.compress(model, ratoi=2)
    with pytest.raises(TypeError, match="True or False"):
        onnx_bsr.compress(model, ratio=2, force="yes")
    with pytest.raises(TypeError, match="a model is a path"):
        onnx_bsr.inspect(3)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told(model, train):
    seen = []
    caller = threading.get_ident()

    def progress(stage, done, total, note):
        assert threading.get_ident() == caller
        seen.append((stage, done, total, note))

    onnx_bsr.compress(model, ratio=3, data=train, progress=progress, **SHORT)
    stages = [stage for stage, *_ in seen]
    for stage in ("load", "calibrate", "factorize", "validate", "latency"):
        assert stage in stages, stages
    assert all(total is None or 0 <= done <= total for _, done, total, _ in seen)


def test_a_function_judges(model, train, tmp_path):
    seen = []

    def size(path):
        seen.append(Path(path).name)
        return os.path.getsize(path)

    report = onnx_bsr.compress(model, tmp_path / "out.onnx", ratio=2, metric=size, data=train, **SHORT)
    assert seen == ["mnist_conv.onnx", "out.onnx"]
    metric = report["file_metric"]
    assert (metric["name"], metric["original"]) == ("size", model.stat().st_size)
    assert metric["written"] == report["output"]["bytes"] and report["metric"]["name"] == "top1"
    assert report["missed"] == []
    report = onnx_bsr.compress(model, ratio=2, max_drop=5, metric=size)
    assert "points of size" in report["missed"][0]
    assert onnx_bsr.evaluate(model, metric=size)["metric"]["value"] == model.stat().st_size
    with pytest.raises(onnx_bsr.MetricError, match="not a finite number"):
        onnx_bsr.evaluate(model, metric=lambda path: float("nan"))


@pytest.mark.parametrize("callback", ["progress", "metric"])
def test_what_a_callback_raises_comes_out(model, train, tmp_path, callback):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"before")

    def fails(*_):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        onnx_bsr.compress(model, output, ratio=3, data=train, **{callback: fails}, **SHORT)
    assert output.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_leaves_everything_whole(model, train, tmp_path):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"before")
    started = threading.Event()

    def press():
        assert started.wait(60)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    def progress(stage, *_):
        if stage == "search":
            started.set()

    thread = threading.Thread(target=press)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        # Far longer than the test may take.
        onnx_bsr.compress(
            model, output, ratio=8, data=train, search="paper", search_samples=2000, train=train,
            epochs=1000, progress=progress,
        )
    thread.join()
    assert time.monotonic() - begin < 60
    assert output.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1
    assert onnx_bsr.inspect(model)["totals"]["params"] > 0


def test_the_interpreter_runs_meanwhile(model, train):
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.005):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.monotonic()
    onnx_bsr.compress(model, ratio=3, data=train, **SHORT)
    spent = time.monotonic() - begin
    done.set()
    thread.join()
    assert len(ticks) > spent / 0.05, (len(ticks), spent)


def test_stubs_list_every_option():
    package = Path(onnx_bsr.__file__).parent
    assert (package / "py.typed").exists()
    tree = ast.parse((package / "__init__.pyi").read_text())
    stubs = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert set(stubs) == set(COMMANDS)
    for name, command in COMMANDS.items():
        arguments = stubs[name].args
        listed = {a.arg for a in arguments.args + arguments.kwonlyargs}
        fixed = {"model", "output", "a", "b", "plan", "folder", "progress"}
        assert listed - fixed == set(flags(command)) - {"plan"}, name
        document = getattr(onnx_bsr, name).__doc__
        assert all(f"{keyword}: " in document for keyword in set(flags(command)) - listed), name
    exported = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    exported = {name for name in exported if not name.startswith("_")}
    assert exported == set(onnx_bsr.__all__) - {"__version__"}
