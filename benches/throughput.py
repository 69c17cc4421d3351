"""Compares the evaluator's throughput with ONNX Runtime's.

    cargo build --release --example throughput
    python benches/throughput.py MODEL.. [--batch 64] [--threads 1,2] [--rounds 5] [--length 32] [--json]

For every model and thread count the two programs run in turns, each in a process of its own, so that clock changes and other
load fall on both alike. Prints the median of the rounds and the median of the rounds' ratios with their range;
a ratio above one means that onnx-bsr is faster.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OURS = HERE.parent / "target" / "release" / "examples" / "throughput"


def images_per_s(command):
    run = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"`{' '.join(map(str, command))}` ended with code {run.returncode}")
    return json.loads(run.stdout.splitlines()[-1])["images_per_s"]


def compare(ours, model, batch, threads, rounds, length):
    arguments = [model, "--batch", batch, "--threads", threads, "--length", length]
    ort = [sys.executable, HERE / "throughput_ort.py"]
    pairs = []
    for number in range(rounds):
        pairs.append((images_per_s([ours, *arguments]), images_per_s([*ort, *arguments])))
        print(f"round {number + 1}/{rounds}: {pairs[-1][0]:.1f} against {pairs[-1][1]:.1f} images/s", file=sys.stderr)
    ratios = [a / b for a, b in pairs]
    return {
        "model": Path(model).name,
        "batch": batch,
        "threads": threads,
        "rounds": rounds,
        "onnx_bsr_images_per_s": statistics.median(a for a, _ in pairs),
        "onnxruntime_images_per_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=lambda text: [int(t) for t in text.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=32, help="what unknown dimensions other than the batch are (default: %(default)s)")
    parser.add_argument("--ours", type=Path, default=OURS, help="the onnx-bsr program (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line in place of the table")
    args = parser.parse_args()
    if not args.ours.exists():
        sys.exit(f"`{args.ours}` does not exist: run cargo build --release --example throughput, or give --ours")
    if not args.json:
        print("| model | batch | threads | onnx-bsr images/s | ONNX Runtime images/s | ratio (range) |")
        print("|---|---|---|---|---|---|")
    for model in args.models:
        for threads in args.threads:
            row = compare(args.ours, model, args.batch, threads, args.rounds, args.length)
            if args.json:
                print(json.dumps(row), flush=True)
                continue
            figures = f"{row['onnx_bsr_images_per_s']:.1f} | {row['onnxruntime_images_per_s']:.1f}"
            ratio = f"{row['ratio']:.3f} ({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"
            print(f"| {row['model']} | {row['batch']} | {threads} | {figures} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
