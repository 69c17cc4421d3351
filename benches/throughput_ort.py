"""Measures ONNX Runtime's throughput on one model with random input; one JSON object a line, one for each thread count.

    python benches/throughput_ort.py MODEL [--batch 64] [--threads 1,2] [--seconds 3] [--length 32]

After a warm-up, whole batches run until the time is up; the figure is batch / median time of a batch.
"""

import argparse
import json
import statistics
import time

import numpy as np
import onnxruntime

DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


def random_feeds(session, batch, length):
    """Returns a value for every input; the first dimension is the batch, other symbolic ones are `length`."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        shape = [batch, *(d if isinstance(d, int) and d > 0 else length for d in value.shape[1:])]
        if isinstance(value.shape[0], int) and value.shape[0] > 0 and value.shape[0] != shape[0]:
            raise SystemExit(f"input `{value.name}` has a fixed batch of {value.shape[0]}: give --batch {value.shape[0]}")
        dtype = DTYPES[value.type]
        if np.issubdtype(dtype, np.floating):
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            # Ids: 0 and 1 are valid in any table and as a mask.
            feeds[value.name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds


def measure(model, batch, threads, seconds, length):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = random_feeds(session, batch, length)
    for _ in range(3):
        session.run(None, feeds)
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return {
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "model": model,
        "batch": batch,
        "threads": threads,
        "images_per_s": round(batch / statistics.median(times), 2),
        "runs": len(times),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=lambda text: [int(t) for t in text.split(",")], default=[1])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--length", type=int, default=32, help="what unknown dimensions other than the batch are (default: %(default)s)")
    args = parser.parse_args()
    for threads in args.threads:
        print(json.dumps(measure(args.model, args.batch, threads, args.seconds, args.length)), flush=True)


if __name__ == "__main__":
    main()
