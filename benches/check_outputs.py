"""Checks written files in ONNX Runtime against tract, and against the original.

    cargo build --release --example outputs
    python benches/check_outputs.py ORIGINAL WRITTEN.. [--data D.npz] [--samples 16] [--shape NAME=D,D,..]

Without --data the inputs are random; integers are 0 or 1, which are valid in any table and as a mask. Each file has to pass
onnx.checker with full shape inference, to keep the original's inputs and outputs, to load in ONNX Runtime, and to give there
what tract gives: relative to the largest absolute value of an output, within --tolerance. How far ONNX Runtime's outputs are
from the original's is printed for information: that is what the compression lost. Ends with 1 if a file fails.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from check_ort import floats, prepared
from throughput_ort import random_feeds, shape_option

HERE = Path(__file__).parent
OUTPUTS = HERE.parent / "target" / "release" / "examples" / "outputs"


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make_feeds(session, args):
    """Returns `--samples` rows for every input."""
    inputs = session.get_inputs()
    if args.data is None:
        fixed = batch_of(session)
        feeds = random_feeds(session, fixed or args.samples, dict(args.shape))
        if fixed:
            feeds = {name: np.concatenate([value] * -(-args.samples // fixed)) for name, value in feeds.items()}
    else:
        with np.load(args.data) as data:
            feeds = {v.name: prepared(data[v.name][: args.samples], v.type, args.mean, args.std) for v in inputs}
    types = {v.name: v.type for v in inputs}
    return {n: v.astype(np.float32) if types[n] == "tensor(float)" else v for n, v in feeds.items()}


def batch_of(session):
    """Returns the batch size that the model demands, or None."""
    firsts = [v.shape[0] for v in session.get_inputs() if v.shape]
    return next((n for n in firsts if isinstance(n, int) and n > 0), None)


def ort_outputs(session, feeds):
    """Returns name -> outputs over all samples, run in the model's batch size or one by one."""
    step = batch_of(session) or 1
    rows = len(next(iter(feeds.values())))
    names = [value.name for value in session.get_outputs()]
    parts = []
    for start in range(0, rows, step):
        chunk = {name: value[start : start + step] for name, value in feeds.items()}
        count = len(next(iter(chunk.values())))
        # The last sample fills up the last batch.
        chunk = {n: np.concatenate([v, *[v[-1:]] * (step - count)]) for n, v in chunk.items()}
        parts.append([part.reshape(step, -1)[:count] for part in session.run(names, chunk)])
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}


def tract_outputs(program, model, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outputs.npz"
        run = subprocess.run([str(program), str(model), str(data), str(path)], stderr=subprocess.PIPE, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"tract: {run.stderr.strip()}")
        with np.load(path) as outputs:
            return {name: value.reshape(len(value), -1) for name, value in outputs.items()}


def difference(found, reference):
    """Returns the largest difference over all outputs, each relative to its largest absolute value."""
    worst = 0.0
    for name, wanted in reference.items():
        given = found.get(name)
        if given is None or given.shape != wanted.shape:
            return float("inf")
        wanted = wanted.astype(np.float64)
        scale = max(np.abs(wanted).max(initial=0), np.finfo(np.float32).tiny)
        relative = np.abs(given.astype(np.float64) - wanted).max(initial=0) / scale
        # A NaN is no agreement, and max() would lose it.
        worst = max(worst, relative if np.isfinite(relative) else float("inf"))
    return worst


def signature(session):
    values = [*session.get_inputs(), *session.get_outputs()]
    return [(value.name, value.type, value.shape) for value in values]


def dangling_types(model):
    """Returns names in value_info that no node makes and no constant has."""
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    made |= {tensor.name for tensor in graph.initializer}
    made |= {value.name for value in graph.input}
    return [value.name for value in graph.value_info if value.name not in made]


def check(path, original, data, feeds, program, tolerance):
    """Returns the row of one file and whether it passed."""
    faults = []
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # noqa: BLE001 - whatever the checker raises is its verdict
        faults.append(f"checker: {str(error).splitlines()[0]}")
    dangling = dangling_types(onnx.load(path, load_external_data=False))
    if dangling:
        faults.append(f"types of values that are gone: {', '.join(dangling)}")
    try:
        session = open_session(path)
        if signature(session) != original["signature"]:
            faults.append("other inputs or outputs than the original's")
        found = ort_outputs(session, feeds)
        apart = difference(tract_outputs(program, path, data), found)
        lost = difference(found, original["outputs"])
    except Exception as error:  # noqa: BLE001 - each runtime has its own kinds
        faults.append(str(error).splitlines()[0])
        apart = lost = float("nan")
    if not apart <= tolerance:
        faults.append("tract and ONNX Runtime differ")
    verdict = "; ".join(faults) or "ok"
    return f"| {path.name} | {path.stat().st_size} | {apart:.1e} | {lost:.1e} | {verdict} |", not faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("written", type=Path, nargs="*")
    parser.add_argument("--data", help="an .npz keyed by input name")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--shape", type=shape_option, action="append", default=[], metavar="NAME=D,D,..")
    parser.add_argument("--mean", type=floats, default=[0.0])
    parser.add_argument("--std", type=floats, default=[1.0])
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="the program that runs tract (default: %(default)s)")
    args = parser.parse_args()
    if not args.outputs.exists():
        sys.exit(f"`{args.outputs}` does not exist: run cargo build --release --example outputs, or give --outputs")
    session = open_session(args.original)
    feeds = make_feeds(session, args)
    original = {"signature": signature(session), "outputs": ort_outputs(session, feeds)}
    print("| file | bytes | tract against ONNX Runtime | against the original | verdict |")
    print("|---|---|---|---|---|")
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "inputs.npz"
        np.savez(data, **feeds)
        for path in [args.original, *args.written]:
            row, good = check(path, original, data, feeds, args.outputs, args.tolerance)
            print(row, flush=True)
            passed = passed and good
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
