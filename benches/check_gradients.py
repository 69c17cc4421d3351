"""Compares the gradients of all trained constants with PyTorch's.

    cargo build --release --example train_step
    python benches/check_gradients.py MODEL.. [--batch 16] [--data FILE.npz]

The loss is the sum of the output times a random tensor. Prints for every model the largest difference of a constant's gradient
relative to its largest absolute value; ends with 1 above 1e-3. Inputs are random, or the first samples of FILE.npz, which has an
array for every input. `MODEL:OUTPUT` takes another output than the first.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from onnx_torch import Network
from train_step import OURS
from train_step_torch import random_inputs


def worst(ours, model, batch, data):
    path, _, output = model.partition(":")
    network = Network(path, output or None)
    if data:
        arrays = np.load(data)
        inputs = [torch.from_numpy(arrays[value.name][:batch]) for value in network.inputs]
    else:
        inputs = random_inputs(network, batch, 32)
    result = network(inputs)
    slopes = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    expected = network.backward((result * slopes).sum())
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        np.savez(folder / "in.npz", **{value.name: x.numpy() for value, x in zip(network.inputs, inputs)})
        np.savez(folder / "slopes.npz", **{network.output: slopes.numpy()})
        command = [ours, path, "--output", network.output, "--data", folder / "in.npz"]
        command += ["--slopes", folder / "slopes.npz", "--gradients", folder / "out.npz"]
        subprocess.run([str(part) for part in command], check=True)
        given = dict(np.load(folder / "out.npz"))
    if set(given) != set(expected):
        sys.exit(f"{path}: gradients of different constants: {set(given) ^ set(expected)}")

    def difference(name):
        exact = expected[name].numpy().reshape(-1)
        return float(np.abs(given[name] - exact).max() / max(np.abs(exact).max(), 1e-30))

    # A softmax takes no notice of what is added to all its scores: such a gradient is zero but for rounding.
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    names = [name for name, gradient in expected.items() if float(gradient.abs().max()) > 1e-6 * largest]
    return len(names), max((difference(name), name) for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--data")
    parser.add_argument("--ours", type=Path, default=OURS, help="the onnx-bsr program (default: %(default)s)")
    args = parser.parse_args()
    bad = False
    for model in args.models:
        count, (difference, name) = worst(args.ours, model, args.batch, args.data)
        bad |= not difference <= 1e-3
        print(f"{Path(model).name}: {count} constants, worst {difference:.1e} ({name})", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
