"""Compares the training step's throughput with PyTorch's.

    cargo build --release --example train_step
    python benches/train_step.py MODEL.. [--batch 64] [--threads 1,2] [--rounds 5]

A step is forward, the gradient of the loss and backward to all weights and biases of layers. For every model and thread count
the programs (ours, PyTorch in NCHW, PyTorch in channels_last) run in turns, each in a process of its own. Prints medians of the
rounds and the median of the rounds' ratios to the better PyTorch figure, with its range: above one, onnx-bsr is faster; the same
ratio of samples per second of processor time is what other load on the machine changes least (one thread; with more, PyTorch's
waiting counts too). Peak
memory is the process's, for PyTorch with what the library itself takes. `MODEL:OUTPUT` takes the loss of another output than
the first.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OURS = HERE.parent / "target" / "release" / "examples" / "train_step"


def run(command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(map(str, command))}` ended with code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(ours, model, batch, threads, rounds, seconds):
    path, _, output = model.partition(":")
    arguments = [path, "--batch", batch, "--threads", threads, "--seconds", seconds]
    if output:
        arguments += ["--output", output]
    torch = [sys.executable, HERE / "train_step_torch.py", *arguments]
    layouts = ["nchw", "channels_last"]
    results = []
    for number in range(rounds):
        results.append((run([ours, *arguments]), *(run([*torch, "--layout", layout]) for layout in layouts)))
        rates = [result["samples_per_s"] for result in results[-1]]
        print(f"round {number + 1}/{rounds}: {rates[0]:.1f} against {rates[1:]} samples/s", file=sys.stderr)
        if len({result["trained"] for result in results[-1]}) != 1:
            sys.exit("the programs don't train the same constants")
    rate = [statistics.median(result[i]["samples_per_s"] for result in results) for i in range(3)]
    memory = [max(result[i]["peak_mb"] for result in results) for i in range(3)]
    ratios = [
        [r[0][figure] / max(r[1][figure], r[2][figure]) for r in results] for figure in ("samples_per_s", "samples_per_cpu_s")
    ]
    return rate, memory, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=lambda text: [int(t) for t in text.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--ours", type=Path, default=OURS, help="the onnx-bsr program (default: %(default)s)")
    args = parser.parse_args()
    if not args.ours.exists():
        sys.exit(f"`{args.ours}` does not exist: run cargo build --release --example train_step, or give --ours")
    print("| model | threads | onnx-bsr samples/s | PyTorch NCHW | PyTorch channels_last | ratio (range) | by processor time | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for model in args.models:
        for threads in args.threads:
            rate, memory, ratios = compare(args.ours, model, args.batch, threads, args.rounds, args.seconds)
            ratio = " | ".join(f"{statistics.median(r):.3f} ({min(r):.3f} to {max(r):.3f})" for r in ratios)
            figures = " | ".join(f"{value:.1f}" for value in rate)
            peak = " / ".join(f"{value:.0f}" for value in memory)
            print(f"| {Path(model.partition(':')[0]).name} | {threads} | {figures} | {ratio} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
