"""Runs written files in other runtimes, and compares what they give.

    cargo build --release --example outputs
    cargo build --release --manifest-path benches/rten/Cargo.toml
    pip install openvino
    python benches/peers.py MODEL.onnx.. [--data D.npz] [--samples 4] [--shape NAME=D,D,..]

Each file has to pass onnx.checker with full shape inference, and is run on the same samples in ONNX Runtime with optimizations
disabled, which the others are compared with, in ONNX Runtime as it comes, in tract, in rten and in OpenVINO. A cell is the largest
difference of an output, relative to the largest absolute value of that output; `no` with the reason where a runtime doesn't take the
file. Inputs are those of --data, keyed by input name, else random; integers are then 0 or 1. Ends with 1 where the checker refuses a
file, where a runtime takes the original (the first file) and not another, or where one is apart by more than --tolerance.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from check_outputs import OUTPUTS, batch_of, difference, make_feeds, tract_outputs
from check_ort import floats
from throughput_ort import shape_option

HERE = Path(__file__).parent
RTEN = HERE / "rten" / "target" / "release" / "peer-rten"


def reason(error):
    text = str(error).strip().splitlines()
    return "no: " + (text[0] if text else type(error).__name__).replace("|", "/")[:90]


def by_sample(run, feeds, step):
    """Runs the samples in the model's batch size and joins outputs, each as rows of numbers."""
    rows = len(next(iter(feeds.values())))
    parts = {}
    for start in range(0, rows, step):
        chunk = {name: value[start : start + step] for name, value in feeds.items()}
        for name, value in run(chunk).items():
            parts.setdefault(name, []).append(np.asarray(value).reshape(step, -1))
    return {name: np.concatenate(values) for name, values in parts.items()}


def ort(path, level):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_ort(path, feeds, step, level):
    session = ort(path, level)
    names = [value.name for value in session.get_outputs()]
    return by_sample(lambda chunk: dict(zip(names, session.run(names, chunk))), feeds, step)


def run_openvino(path, feeds, step):
    import openvino

    core = openvino.Core()
    # Floats of 32 bits as in the file, not what the processor would like.
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0})
    names = [value.name for value in onnx.load(path, load_external_data=False).graph.output]

    def run(chunk):
        results = compiled(chunk)
        return {name: results[index] for index, name in enumerate(names)}

    return by_sample(run, feeds, step)


def without_node_names(path, folder):
    """rten takes a node's name for a value's where both are the same; names of nodes mean nothing."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    named = Path(folder) / "model.onnx"
    onnx.save(model, named)
    return named


def run_rten(program, path, feeds, step):
    def run(chunk):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            lines = []
            for index, (name, value) in enumerate(chunk.items()):
                kind = "f32" if value.dtype.kind == "f" else "i32"
                value.astype({"f32": "<f4", "i32": "<i4"}[kind]).tofile(folder / f"in{index}.bin")
                lines.append(f"{name}\t{kind}\t{','.join(map(str, value.shape))}\n")
            (folder / "inputs.txt").write_text("".join(lines))
            done = subprocess.run([str(program), str(without_node_names(path, folder)), str(folder)], stderr=subprocess.PIPE, text=True)
            if done.returncode != 0:
                raise RuntimeError(done.stderr.strip())
            outputs = {}
            for index, line in enumerate((folder / "outputs.txt").read_text().splitlines()):
                name, kind, dims = line.split("\t")
                shape = [int(d) for d in dims.split(",") if d]
                outputs[name] = np.fromfile(folder / f"out{index}.bin", {"f32": "<f4", "i32": "<i4"}[kind]).reshape(shape)
            return outputs

    return by_sample(run, feeds, step)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", help="an .npz keyed by input name")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--shape", type=shape_option, action="append", default=[], metavar="NAME=D,D,..")
    parser.add_argument("--mean", type=floats, default=[0.0])
    parser.add_argument("--std", type=floats, default=[1.0])
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="the program that runs tract")
    parser.add_argument("--rten", type=Path, default=RTEN, help="the program that runs rten")
    parser.add_argument("--no-header", action="store_true")
    args = parser.parse_args()
    levels = onnxruntime.GraphOptimizationLevel
    session = ort(args.models[0], levels.ORT_DISABLE_ALL)
    feeds = make_feeds(session, args)
    step = batch_of(session) or 1
    runtimes = {
        "ONNX Runtime": lambda path, _: run_ort(path, feeds, step, levels.ORT_ENABLE_ALL),
        "tract": lambda path, data: tract_outputs(args.outputs, path, data),
        "rten": lambda path, _: run_rten(args.rten, path, feeds, step),
        "OpenVINO": lambda path, _: run_openvino(path, feeds, step),
    }
    if not args.no_header:
        print(f"| file | checker | {' | '.join(runtimes)} |\n|{'---|' * (len(runtimes) + 2)}")
    faults = 0
    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "inputs.npz"
        np.savez(data, **feeds)
        for index, path in enumerate(args.models):
            cells = []
            try:
                onnx.checker.check_model(str(path), full_check=True)
                cells.append("passes")
            except Exception as error:  # noqa: BLE001 - whatever the checker raises is its verdict
                cells.append(reason(error))
                faults += index > 0
            reference = run_ort(path, feeds, step, levels.ORT_DISABLE_ALL)
            for name, run in runtimes.items():
                try:
                    apart = difference(run(path, data), reference)
                    cells.append(f"{apart:.1e}")
                    faults += not apart <= args.tolerance
                    taken.setdefault(name, True)
                except Exception as error:  # noqa: BLE001 - each runtime has its own kinds
                    cells.append(reason(error))
                    faults += taken.setdefault(name, False)
            print(f"| {path.name} | {' | '.join(cells)} |", flush=True)
    return faults > 0


if __name__ == "__main__":
    sys.exit(main())
