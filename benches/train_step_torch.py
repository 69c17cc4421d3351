"""Measures PyTorch's training step on one model with random input: forward, the gradient of the loss (the sum of the output times
a fixed random tensor) and backward to all trained constants. Prints one JSON object.

    python benches/train_step_torch.py MODEL [--batch 64] [--threads 1] [--seconds 3] [--layout nchw|channels_last]
"""

import argparse
import json
import resource
import statistics
import time

import torch
from onnx_torch import Network


def random_inputs(network, batch, length):
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for value in network.inputs:
        kind = value.type.tensor_type
        shape = [batch, *(d.dim_value or length for d in kind.shape.dim[1:])]
        if kind.elem_type == 1:
            inputs.append(torch.randn(shape, generator=generator))
        else:
            inputs.append(torch.ones(shape, dtype=torch.int64))
    return inputs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--length", type=int, default=32, help="extent of symbolic dimensions other than the batch")
    parser.add_argument("--output", help="name of the output that the loss is of (default: the first)")
    parser.add_argument("--layout", choices=["nchw", "channels_last"], default="nchw")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = Network(args.model, args.output)
    inputs = random_inputs(network, args.batch, args.length)
    if args.layout == "channels_last":
        network.channels_last()
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    with torch.no_grad():
        slopes = torch.randn(network(inputs).shape, generator=torch.Generator().manual_seed(1))
    times, trained, warm = [], 0, 0.0
    end = time.perf_counter() + args.seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        gradients = network.backward((network(inputs) * slopes).sum())
        times.append(time.perf_counter() - start)
        if len(times) == 2:
            warm = time.process_time()
        trained = sum(gradient.numel() for gradient in gradients.values())
    processor = (time.process_time() - warm) / len(times[2:])
    print(
        json.dumps(
            {
                "runtime": f"torch {torch.__version__} {args.layout}",
                "threads": args.threads,
                "trained": trained,
                "samples_per_s": round(args.batch / statistics.median(times[2:]), 2),
                "samples_per_cpu_s": round(args.batch / processor, 2),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
