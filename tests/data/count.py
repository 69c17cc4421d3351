"""Counts params and multiply-accumulates of the fixtures by benches/count_params_macs.py, into counts.json.

    python tests/data/count.py
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Inputs with open dims besides the batch, as name=dims.
SHAPES = {
    "attention": ["input_ids=1,7", "attention_mask=1,7"],
    "ppocr_cls": ["x=1,3,48,192"],
}


def count(model):
    """Returns the totals, and [params of the constant operands, macs] of every node by its name."""
    shapes = [part for shape in SHAPES.get(model.stem, []) for part in ("--shape", shape)]
    command = [sys.executable, ROOT / "benches/count_params_macs.py", model, *shapes]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    nodes = {layer["name"] or layer["output"]: [layer["params"], layer["macs"]] for layer in result["layers"]}
    assert len(nodes) == len(result["layers"])
    return {
        "shapes": SHAPES.get(model.stem, []),
        "params": result["params"],
        "macs": result["macs"],
        "nodes": nodes,
    }


def main():
    counts = {model.stem: count(model) for model in sorted((ROOT / "fixtures").glob("*.onnx"))}
    models = ",\n".join(f' "{name}": {json.dumps(value)}' for name, value in counts.items())
    (HERE / "counts.json").write_text(f"{{\n{models}\n}}\n")


if __name__ == "__main__":
    main()
