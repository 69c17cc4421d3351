"""Table of the quantized forms of models: size, metric, latency, agreement with onnx's reference evaluator.

    cargo build --release --example outputs && cargo build --release
    python benches/quantize_table.py OUT-DIR --case 'NAME|MODEL|FLAGS' .. [--forms int8,fp16,..] [--samples 2] [--shape NAME=D,D,..]

FLAGS go to onnx-bsr as they are: data, test data, preprocessing. A case's NAME may end with @NAME=D,D,..: a shape for the inputs that
the comparison with the reference evaluator is made on; these are random (integers 0 or 1). Metric, bytes and latency are those of
onnx-bsr's report. `apart` is the largest difference of an output in tract from the same output in the reference evaluator, relative
to its largest element: rounding of float sums for weights alone, up to a level of the grid where values are rounded too. Where the
reference evaluator strays from tract on the float model, ONNX Runtime with optimizations disabled is the judge; the column says which.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

ROOT = Path(__file__).parent.parent
FORMS = ["int8", "fp16", "int4", "int4-dq", "int8-dynamic", "int8-qdq"]


class MatMulNBits(OpRun):
    """The 4-bit product of com.microsoft, which the onnx package lacks; by its documentation."""

    op_domain = "com.microsoft"

    def _run(self, a, b, scales, *rest, K=None, N=None, bits=None, block_size=None, **_):
        assert bits == 4 and not rest
        blocks = -(-K // block_size)
        codes = np.stack([b & 15, b >> 4], axis=-1).reshape(N, blocks, block_size).astype(np.float32)
        weight = (codes - 8) * scales.reshape(N, blocks, 1)
        return (a @ weight.reshape(N, -1)[:, :K].T.astype(a.dtype),)


class DequantizeLinear(OpRun):
    """The package has it from operator set 19 on; what it computes on integers is older."""

    op_domain = ""

    def _run(self, x, scale, zero=None, axis=1, **_):
        shape = [1] * x.ndim
        if scale.ndim == 1 and scale.size > 1:
            shape[1 if axis is None else axis] = scale.size
        zero = 0 if zero is None else zero.reshape(shape).astype(np.int64)
        difference = x.astype(np.int64) - zero
        return (difference.astype(np.float32) * scale.reshape(shape),)


def feeds_of(model, samples, shapes, seed=7):
    """Random inputs, batch first, in the sizes that the model or the caller states."""
    rng = np.random.default_rng(seed)
    initializers = {t.name for t in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in initializers:
            continue
        tensor = value.type.tensor_type
        dims = shapes.get(value.name) or [d.dim_value or 1 for d in tensor.shape.dim]
        dims = [samples] + list(dims[1:])
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(kind, np.floating):
            feeds[value.name] = rng.standard_normal(dims).astype(kind)
        else:
            feeds[value.name] = rng.integers(0, 2, dims).astype(kind)
    return feeds


def new_ops(model):
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return [MatMulNBits] + ([DequantizeLinear] if version < 19 else [])


def onnxruntime_session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def apart(path, samples, shapes, outputs, judge="onnx"):
    """Largest relative difference between tract and the judge: onnx's reference evaluator, or ONNX Runtime."""
    model = onnx.load(path)
    feeds = feeds_of(model, samples, shapes)
    if judge == "onnx":
        reference = ReferenceEvaluator(model, new_ops=new_ops(model))
    else:
        reference = onnxruntime_session(path)
    runs = []
    for at in range(samples):
        one = {n: v[at : at + 1] for n, v in feeds.items()}
        runs.append(reference.run(None, one))
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(data, **feeds)
        subprocess.run([outputs, path, data, out], check=True, capture_output=True)
        worst = 0.0
        with np.load(out) as found:
            for index, value in enumerate(model.graph.output):
                expected = np.stack([np.asarray(run[index]) for run in runs]).astype(np.float64)
                got = found[value.name].astype(np.float64).reshape(expected.shape)
                worst = max(worst, np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-12))
    return worst


def shape_option(text):
    name, dims = text.split("=")
    return name, [int(d) for d in dims.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", action="append", required=True)
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--target", type=Path, default=ROOT / "target" / "release")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    print("| model | form | metric | value | original | bytes | ratio | gzip | latency ms | original | apart |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    failed = False
    for case in args.case:
        title, model, flags = case.split("|")
        name, *shapes = title.split("@")
        shapes = dict(shape_option(s) for s in shapes)
        outputs = args.target / "examples" / "outputs"
        # Where the reference evaluator strays on the float model too, ONNX Runtime stands in for it.
        judge = "onnx" if apart(model, args.samples, shapes, outputs) < 1e-3 else "ORT"
        for form in args.forms.split(","):
            out = args.folder / f"{name.replace(' ', '-')}-{form}.onnx"
            command = [args.target / "onnx-bsr", model, out, "--quantize", form, "--json", "-q"]
            run = subprocess.run(command + shlex.split(flags), capture_output=True, text=True)
            if run.returncode not in (0, 3):
                print(f"| {name} | {form} | {run.stderr.strip().splitlines()[0]} |")
                continue
            report = json.loads(run.stdout)
            metric = report["metric"] or {}
            latency = report["latency_ms"] or {}
            value = metric.get("written") if metric.get("written") is not None else metric.get("quantized")
            loads = report["validation"] is not None
            try:
                far = f"{apart(out, args.samples, shapes, outputs, judge):.1e} {judge}" if loads else "not in tract"
            except Exception as error:  # a form that the reference evaluator lacks is a line of the table
                far, failed = f"{type(error).__name__}: {str(error)[:60]}", True
            figure = lambda v, digits=2: "" if v is None else f"{v:.{digits}f}"
            print(
                f"| {name} | {form} | {metric.get('name', '')} | {figure(value)} | {figure(metric.get('original'))} "
                f"| {report['output']['bytes']:,} | {report['ratio']['reached']:.2f} | {report['output']['gzip_bytes']:,} "
                f"| {figure(latency.get('output'), 3)} | {figure(latency.get('original'), 3)} | {far} |",
                flush=True,
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
