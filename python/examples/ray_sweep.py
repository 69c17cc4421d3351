"""Tries ratios side by side on a Ray cluster, and prints what each costs.

    pip install ray ./python
    python python/examples/ray_sweep.py fixtures/mnist_conv.onnx fixtures/mnist_train.npz --ratios 2,4,8

Without `--address` it starts a cluster of `--workers` on this machine, one processor each. Models and data go to the
workers as bytes and arrays, so that on a cluster of several machines they need not share files.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import onnx_bsr
import ray


@ray.remote(num_cpus=1)
def compress(model, data, ratio, options):
    """One ratio: the report and the model, or what was wrong."""
    try:
        report = onnx_bsr.compress(model, ratio=ratio, data=data, threads=1, **options)
    except onnx_bsr.OnnxBsrError as error:
        return ratio, None, None, str(error)
    return ratio, dict(report), report.model_bytes, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", help="an npz of arrays by input name, and labels")
    parser.add_argument("--ratios", default="2,4,8")
    parser.add_argument("--quantize", help="a form, to divide bits too")
    parser.add_argument("--search", help="start takes the predicted optimum alone, which is fast")
    parser.add_argument("--folder", type=Path, help="where the models go")
    parser.add_argument("--address", help="of a cluster that is running")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.address:
        ray.init(address=args.address)
    else:
        ray.init(num_cpus=args.workers, include_dashboard=False)
    # Sent to each worker once, however many ratios it tries.
    model, data = ray.put(args.model.read_bytes()), ray.put(dict(np.load(args.data)))
    options = {"quantize": args.quantize, "search": args.search}
    waiting = [
        compress.remote(model, data, float(ratio), options)
        for ratio in args.ratios.split(",")
    ]
    print(f"{'ratio':>6} {'bytes':>9} {'original':>9} {'written':>9} {'seconds':>8}")
    while waiting:
        (ready,), waiting = ray.wait(waiting)
        ratio, report, result, fault = ray.get(ready)
        if fault:
            print(f"{ratio:6g} {fault}")
            continue
        metric, output, seconds = report["metric"], report["output"], report["seconds"]
        values = f"{metric['original']:9.2f} {metric['written']:9.2f} {seconds['total']:8.1f}"
        print(f"{ratio:6g} {output['bytes']:9d} {values}", flush=True)
        if args.folder:
            args.folder.mkdir(parents=True, exist_ok=True)
            path = args.folder / f"{args.model.stem}-{ratio:g}x.onnx"
            partial = path.with_suffix(".partial")
            partial.write_bytes(result)
            os.replace(partial, path)
    ray.shutdown()


if __name__ == "__main__":
    main()
