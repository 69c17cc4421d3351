"""Reads and writes every model of the onnx package's backend suites, and factorizes those with products at full rank.

    cargo build --release --example backend_suite
    python benches/backend_suite.py [--snapshot tests/snapshots/backend_suite.txt]

The suites are those of `onnx.backend.test`: node, simple, light, pytorch-converted and pytorch-operator. A written file has to hold
the same message, by the `onnx` package's own parser. Where a model has Conv, Gemm or MatMul, inputs that are their weights become
constants, and every layer takes every scheme that applies to it at a rank that loses nothing: the suite's outputs have to come
out of the evaluator, and of tract where that takes the file. With --snapshot the lines are compared with those of the file, which
--update writes. Ends with 1 for a fault or another line.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests, load_node_model_tests

HERE = Path(__file__).parent


def lay_out(folder):
    """Writes each case to a folder of its own."""
    import onnx.backend.test as suite
    data = Path(suite.__file__).parent / "data"
    for kind in ["simple", "pytorch-converted", "pytorch-operator"]:
        for case in load_model_tests(kind=kind):
            if case.model_dir:
                shutil.copytree(case.model_dir, folder / f"{kind}.{case.name}")
    for path in sorted((data / "light").glob("*.onnx")):
        target = folder / f"light.{path.stem}"
        target.mkdir()
        shutil.copy(path, target / "model.onnx")
    for case in load_node_model_tests():
        target = folder / f"node.{case.name}"
        if case.model is None:
            shutil.copytree(case.model_dir, target)
            continue
        (target / "test_data_set_0").mkdir(parents=True)
        onnx.save(case.model, str(target / "model.onnx"))
        for inputs, outputs in (case.data_sets or [])[:1]:
            for label, values, infos in [("input", inputs, case.model.graph.input), ("output", outputs, case.model.graph.output)]:
                for i, (value, info) in enumerate(zip(values, infos)):
                    try:
                        tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value, info.name)
                        (target / "test_data_set_0" / f"{label}_{i}.pb").write_bytes(tensor.SerializeToString())
                    except Exception:
                        # A sequence or an optional value.
                        (target / "test_data_set_0" / f"{label}_{i}.pb").write_bytes(b"\xff")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=HERE.parent / "target" / "release" / "examples" / "backend_suite")
    parser.add_argument("--snapshot", type=Path)
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cases, out = Path(temporary) / "cases", Path(temporary) / "out"
        cases.mkdir()
        lay_out(cases)
        run = subprocess.run([str(args.program), str(cases), str(out)], stdout=subprocess.PIPE, text=True, check=True)
        lines = run.stdout.splitlines()
        for i, line in enumerate(lines):
            name = line.split(":")[0]
            if (out / f"{name}.onnx").exists():
                load = lambda path: onnx.load(str(path), load_external_data=False)
                if load(cases / name / "model.onnx") != load(out / f"{name}.onnx"):
                    lines[i] = f"{name}: FAULT another message by the onnx package"
    faults = [line for line in lines if "FAULT" in line]
    factorized = sum("at full rank" in line for line in lines)
    print(f"{len(lines)} models, {factorized} factorized, {len(faults)} faults", *faults, sep="\n")
    # Cases that are merely the same would only make the list long.
    text = "".join(f"{line}\n" for line in lines if not line.endswith(": same"))
    text = f"{len(lines)} models are written as they were read, but for those named here otherwise\n{text}"
    if args.snapshot and args.update:
        args.snapshot.parent.mkdir(parents=True, exist_ok=True)
        args.snapshot.write_text(text)
    elif args.snapshot and args.snapshot.read_text() != text:
        print(f"{args.snapshot} has other lines: see what changed, then --update")
        return 1
    return len(faults) > 0


if __name__ == "__main__":
    sys.exit(main())
