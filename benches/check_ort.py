"""Compares ONNX Runtime's outputs of a model with outputs that were stored.

    python benches/check_ort.py MODEL DATA.npz OUTPUTS.npz [--mean M,..] [--std S,..] [--tolerance 1e-4]

DATA holds the inputs under their names, OUTPUTS the outputs under theirs, for the first rows of DATA. uint8 data for a float
input is divided by 255, then normalised over axis 1. Prints, for each output, the largest difference relative to the largest
absolute stored value; exits with 1 if one is above the tolerance, is not a number, or has another shape.
"""

import argparse
import sys

import numpy as np
import onnxruntime


def floats(text):
    return [float(value) for value in text.split(",")]


def prepared(array, dtype, mean, std):
    """Returns `array` as the model wants it."""
    if array.dtype == np.uint8 and dtype == "tensor(float)":
        per_channel = [-1] + [1] * (array.ndim - 2)
        array = array.astype(np.float32) / 255
        array = (array - np.float32(mean).reshape(per_channel)) / np.float32(std).reshape(per_channel)
    return array


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("outputs")
    parser.add_argument("--mean", type=floats, default=[0.0])
    parser.add_argument("--std", type=floats, default=[1.0])
    parser.add_argument("--batch", type=int, default=64, help="rows a run, unless the model fixes them")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--no-optimize", action="store_true", help="turn ONNX Runtime's graph rewrites off")
    args = parser.parse_args()

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if args.no_optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    with np.load(args.data) as data, np.load(args.outputs) as outputs:
        stored = dict(outputs)
        if not stored:
            sys.exit(f"`{args.outputs}` holds no outputs")
        known = [value.name for value in session.get_outputs()]
        for name in stored:
            if name not in known:
                sys.exit(f"`{args.outputs}` has `{name}`, which is no output of the model: {', '.join(known)}")
        rows = min(len(value) for value in stored.values())
        inputs = session.get_inputs()
        feeds = {v.name: prepared(data[v.name], v.type, args.mean, args.std) for v in inputs if v.name in data}
    fixed = [v.shape[0] for v in inputs if v.shape and isinstance(v.shape[0], int) and v.shape[0] > 0]
    step = fixed[0] if fixed else args.batch
    parts = []
    for start in range(0, rows, step):
        chunk = {name: value[start : min(start + step, rows)] for name, value in feeds.items()}
        parts.append(session.run(list(stored), chunk))

    worst = 0.0
    for index, (name, reference) in enumerate(stored.items()):
        found = np.concatenate([part[index] for part in parts])
        if found.shape != reference.shape:
            print(f"{name}: shape {list(found.shape)} against stored {list(reference.shape)}")
            worst = float("inf")
            continue
        largest = np.abs(reference, dtype=np.float64).max(initial=0)
        difference = np.abs(found.astype(np.float64) - reference).max(initial=0) / max(largest, np.finfo(np.float32).tiny)
        print(f"{name}: {rows} rows, relative difference {difference:.3e}")
        # A NaN is no agreement, and max() would lose it.
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    sys.exit(0 if worst <= args.tolerance else 1)


if __name__ == "__main__":
    main()
