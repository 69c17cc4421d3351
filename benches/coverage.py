"""What the tool does with models that it has never seen: one row of a markdown table each.

    cargo build --release
    python benches/coverage.py MODEL.onnx.. [--program target/release/onnx-bsr] [--ways "1.5;2"] [--keep DIR] [--details FILE]

Each model is inspected, made 1.5 and 2 times smaller from its weights alone, 2 times smaller with 24 random samples, stored in eight
bits, and both; each file that is written goes through onnx.checker, is compared by `check` in tract, and is run in ONNX Runtime.
The fidelity of a file is the cosine, least over outputs, between ONNX Runtime's outputs of it and of the original, on random inputs;
`(tract e)` follows where the two runtimes differ on the written file by more than 1e-3 of the largest output, `no tract` where it
was not proven there. Random inputs say little about what a compression costs on real ones: the table is about what runs, and
whether what is written means what it should. Needs onnx, onnxruntime and numpy.

Rows marked `BAD` are faults of the tool: a panic, a signal, a time-out, an exit code that is none of 0, 1 and 3, a file that
ONNX Runtime or the checker refuse though they take the original, or outputs in other shapes. Ends with 1 if there are any.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

HERE = Path(__file__).parent
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(bool)": np.bool_}
TYPES |= {f"tensor({t})": np.dtype(t).type for t in ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]}
OPEN = [64, 16, 128, 224, 8, 32, 1]
SAMPLES = 24
MEMORY = 8 << 30
# Stands for the file of samples among options.
DATA = object()
WAYS = {
    "1.5": ["--ratio", 1.5],
    "2": ["--ratio", 2],
    "2, data": ["--ratio", 2, "--data", DATA],
    "int8": ["--quantize", "int8"],
    "int8 and 5": ["--quantize", "int8", "--ratio", 5],
    "int8, data": ["--quantize", "int8", "--data", DATA],
}


def limit_memory():
    """What no model here needs would take the machine down."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def call(command, limit):
    """Returns exit code, stdout, stderr, seconds and peak bytes."""
    begin = time.time()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, preexec_fn=limit_memory)
        while True:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            if time.time() - begin > limit:
                process.kill()
                _, status, usage = os.wait4(process.pid, 0)
                status = 124 << 8
                break
            time.sleep(0.02)
        process.returncode = 0
        out.seek(0), err.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return code, out.read().decode(errors="replace"), err.read().decode(errors="replace"), time.time() - begin, usage.ru_maxrss * 1024


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    # Rewrites of quantized weights are lossy.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds_of(session, extent, batch, random):
    """Random inputs; open dims but the first are `extent`, dims of one name alike."""
    feeds = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) and d >= 0 else (batch if axis == 0 else extent) for axis, d in enumerate(value.shape)]
        kind = TYPES.get(value.type)
        if kind is None:
            return None
        if np.issubdtype(kind, np.floating):
            feeds[value.name] = random.uniform(-1, 1, shape).astype(kind)
        else:
            feeds[value.name] = random.integers(0, 2, shape).astype(kind)
    return feeds


def open_inputs(path):
    """A session, with inputs that it takes, or why there are none."""
    try:
        session = open_session(path)
    except Exception as fault:
        return None, None, None, f"ORT: {str(fault).splitlines()[0][:120]}"
    reason = "inputs are no tensors"
    for extent in OPEN:
        feeds = feeds_of(session, extent, 1, np.random.default_rng(0))
        if feeds is None:
            break
        try:
            session.run(None, feeds)
            return session, feeds, extent, None
        except Exception as fault:
            reason = f"ORT: {str(fault).splitlines()[0][:120]}"
    return session, None, None, reason


def fidelity(a, b):
    """The least cosine of outputs, or what is wrong with them."""
    least = 1.0
    for x, y in zip(a, b, strict=True):
        if not isinstance(x, np.ndarray):
            continue
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"BAD {x.dtype}{x.shape} became {y.dtype}{y.shape}"
        if x.dtype.kind not in "fiub":
            continue
        x, y = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
        if not np.isfinite(y).all() and np.isfinite(x).all():
            return "BAD not finite"
        norm = np.linalg.norm(x) * np.linalg.norm(y)
        least = min(least, 1.0 if np.allclose(x, y, rtol=1e-6, atol=1e-9) else float(x @ y / norm) if norm else 0.0)
    return least


def one_line(text, length=160):
    line = next((line for line in text.splitlines() if "error" in line), text.strip().splitlines()[-1] if text.strip() else "")
    return line.removeprefix("error: ").replace("|", "/")[:length]


class Case:
    def __init__(self, path, args, folder):
        self.path, self.args, self.folder = path, args, folder
        self.session, self.feeds, self.extent, self.fault = open_inputs(path)
        self.reference = self.session.run(None, self.feeds) if self.feeds else None
        self.shapes = []
        if self.feeds:
            for value in self.session.get_inputs():
                if any(not isinstance(d, int) for d in value.shape[1:]):
                    dims = "x".join(map(str, self.feeds[value.name].shape))
                    self.shapes += ["--shape", f"{value.name}={dims}"]
        self.peak = self.seconds = 0
        self.details = {"model": str(path), "fault": self.fault, "results": {}}

    def data(self):
        """A file of random samples, where the inputs have samples along their first axis."""
        if not self.feeds or any(not v.shape for v in self.feeds.values()):
            return None
        firsts = [d.shape[0] if isinstance(d.shape[0], int) else None for d in self.session.get_inputs()]
        batch = next((f for f in firsts if f), 1)
        if any(f not in (None, batch) for f in firsts):
            return None
        random = np.random.default_rng(1)
        runs = [feeds_of(self.session, self.extent, batch, random) for _ in range(-(-SAMPLES // batch))]
        path = self.folder / "data.npz"
        np.savez(path, **{n: np.concatenate([r[n] for r in runs]) for n in runs[0]})
        return path

    def run(self, label, options):
        target = self.folder / f"{self.path.stem}_{label}.onnx"
        for old in self.folder.glob(f"{target.name}*"):
            old.unlink()
        shapes = [] if "--data" in options else self.shapes
        command = [self.args.program, self.path, target, *options, *shapes, "--json", "--threads", 2, "--max-evals", 12, "--quiet"]
        code, out, err, seconds, peak = call(command, self.args.limit)
        self.seconds += seconds
        self.peak = max(self.peak, peak)
        result = {"code": code, "stderr": err[-2000:], "seconds": seconds, "peak": peak}
        self.details["results"][label] = result
        if code == 124:
            return f"BAD no end in {self.args.limit} s"
        if "panicked" in err or code not in (0, 1, 3):
            return f"BAD exit {code}: {one_line(err)}"
        if code == 1:
            return one_line(err)
        report = json.loads(out)
        result["warnings"], result["ratio"], result["missed"] = report["warnings"], report["ratio"], report["missed"]
        text = []
        if report["ratio"]["reached"] is not None:
            text.append(f"{report['ratio']['reached']:.2f}x")
        else:
            text.append(f"{report['model']['bytes'] / report['output']['bytes']:.2f}x")
        try:
            onnx.checker.check_model(str(self.path))
            onnx.checker.check_model(str(target))
        except Exception as fault:
            if not self.checker_refuses():
                return f"BAD checker: {one_line(str(fault))}"
        if self.reference is not None:
            try:
                outputs = open_session(target).run(None, self.feeds)
            except Exception as fault:
                return f"BAD ORT: {one_line(str(fault))}"
            found = fidelity(self.reference, outputs)
            if isinstance(found, str):
                return found
            text.append(f"{found:.4f}")
        else:
            text.append("not compared")
        validation = report["validation"]
        if validation is None:
            text.append("(no tract)")
        elif validation["max_relative_difference"] > 1e-3:
            text.append(f"(tract {validation['max_relative_difference']:.0e})")
        if code == 3:
            text.append("[3]")
        code, out, err, _, _ = call([self.args.program, "check", self.path, target, "--json", "--quiet", *self.shapes], self.args.limit)
        result["check"] = [code, err[-500:]]
        if code not in (0, 1, 3) or "panicked" in err:
            return f"BAD check: exit {code}"
        return " ".join(text)

    def checker_refuses(self):
        try:
            onnx.checker.check_model(str(self.path))
            return False
        except Exception:
            return True

    def row(self, ways):
        proto = onnx.load(str(self.path), load_external_data=False)
        operators = Counter(n.op_type for n in proto.graph.node)
        top = ", ".join(f"{n} {c}" for n, c in operators.most_common(4))
        code, out, err, _, _ = call([self.args.program, "inspect", self.path, "--json", *self.shapes], self.args.limit)
        if code == 0:
            totals = json.loads(out)["totals"]
            share = f"{100 * totals['eligible_params'] / max(totals['params'], 1):.0f} %"
        else:
            share = ("BAD " if code != 1 or "panicked" in err else "") + one_line(err)
        self.details["inspect"] = [code, err[-1000:]]
        data = self.data()
        cells = []
        for way in ways:
            options = [data if option is DATA else option for option in WAYS[way]]
            cells.append("no samples" if None in options else self.run(way.replace(", ", "_").replace(" ", "_"), options))
        self.details["cells"] = cells
        producer = f"{proto.producer_name} {proto.producer_version}".strip() or "not stated"
        name = f"{self.path.stem} {self.path.stat().st_size / 1e6:.1f} MB"
        ort = "" if self.reference is not None else f" ({self.fault})"
        return [name + ort, producer, top, share, *cells, f"{self.seconds:.0f}", f"{self.peak / 1e6:.0f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--program", type=Path, default=HERE.parent / "target" / "release" / "onnx-bsr")
    parser.add_argument("--limit", type=float, default=300, help="seconds that one command may take")
    parser.add_argument("--keep", type=Path, help="folder for what is written")
    parser.add_argument("--details", type=Path, help="file for one JSON object per model")
    parser.add_argument("--ways", help=f"some of the ways, as in `1.5;2, data`: {'; '.join(WAYS)}")
    args = parser.parse_args()
    args.program = args.program.resolve()
    ways = list(WAYS) if args.ways is None else args.ways.split(";")
    columns = ["model", "exporter", "operators", "compressible", *ways, "s", "MB"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for path in args.models:
            try:
                case = Case(path, args, folder)
                row = case.row(ways)
            except Exception as fault:
                print(f"| {path.name} | the script failed: {type(fault).__name__} {one_line(str(fault))} |", flush=True)
                bad += 1
                continue
            bad += any("BAD" in cell for cell in row)
            print("| " + " | ".join(row) + " |", flush=True)
            if args.details:
                with args.details.open("a") as file:
                    file.write(json.dumps(case.details) + "\n")
    print(f"\n{len(args.models)} models, {bad} with faults")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
