"""Compares int8-qdq files with those of ONNX Runtime's static quantizer, on labelled images.

    python benches/qdq_ort.py MODEL CALIBRATION-DIR TEST-DIR OURS.onnx .. [--mean M,M,M] [--std S,S,S] [--size 32] [--limit N]

The folders hold class folders of images, classes in sorted order. ONNX Runtime's quantizer gets all images of CALIBRATION-DIR (QDQ, per
channel, unsigned values, signed weights) with each of its calibration methods. Every file is judged by ONNX Runtime with
optimizations disabled, so that each node computes what the standard says: its fused kernels saturate on processors without VNNI.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime import quantization
from PIL import Image


def images(folder, mean, std, size, limit=None):
    """All images as [N,3,H,W] with labels; `limit` takes that many, evenly spread."""
    classes = sorted(p.name for p in Path(folder).iterdir() if p.is_dir())
    files = [(path, label) for label, name in enumerate(classes) for path in sorted(Path(folder, name).iterdir())]
    if limit and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    for path, label in files:
        image = Image.open(path).convert("RGB")
        if image.size != (size, size):
            left, top = (image.width - size) // 2, (image.height - size) // 2
            image = image.crop((left, top, left + size, top + size))
        pixels = np.asarray(image, np.float32) / 255
        yield ((pixels - mean) / std).transpose(2, 0, 1)[None].astype(np.float32), label


class Reader(quantization.CalibrationDataReader):
    def __init__(self, name, samples):
        self.feeds = iter([{name: x} for x, _ in samples])

    def get_next(self):
        return next(self.feeds, None)


def accuracy(path, samples):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = [int(session.run(None, {name: x})[0].argmax()) == label for x, label in samples]
    return 100 * np.mean(right)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("test")
    parser.add_argument("ours", nargs="*")
    numbers = lambda text: np.array([float(v) for v in text.split(",")], np.float32)
    parser.add_argument("--mean", type=numbers, default=np.zeros(3, np.float32))
    parser.add_argument("--std", type=numbers, default=np.ones(3, np.float32))
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--limit", type=int, help="images of TEST-DIR, evenly spread")
    parser.add_argument("--methods", default="MinMax,Entropy,Percentile")
    args = parser.parse_args()
    load = lambda folder, limit=None: list(images(folder, args.mean, args.std, args.size, limit))
    test, calibration = load(args.test, args.limit), load(args.calibration)
    name = onnxruntime.InferenceSession(args.model).get_inputs()[0].name
    print("| file | top-1 % | bytes |\n|---|---|---|")
    line = lambda title, path: print(f"| {title} | {accuracy(path, test):.2f} | {Path(path).stat().st_size:,} |", flush=True)
    line("original", args.model)
    for path in args.ours:
        line(Path(path).name, path)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        quantization.quant_pre_process(args.model, str(prepared), skip_symbolic_shape=True)
        for method in args.methods.split(","):
            out = Path(folder, f"{method}.onnx")
            quantization.quantize_static(
                str(prepared),
                str(out),
                Reader(name, calibration),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod[method],
            )
            line(f"ONNX Runtime, {method}", out)


if __name__ == "__main__":
    main()
