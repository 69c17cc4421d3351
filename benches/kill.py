"""Kills runs at random moments and checks that the output is the whole old file or the whole new one.

    cargo build --release
    python benches/kill.py fixtures/mnist_conv.onnx --ratio 4 [--runs 60]

One run goes to its end and gives the new file's bytes and the time that takes; each of the others starts over an older output and is
ended by SIGKILL, half of them at any time, half near the end, where files are written. What such a run leaves beside the output
(a hidden staging folder) is counted, not a fault: nothing can clean up after SIGKILL. Ends with 1 where an output is anything else.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--ratio", default="4")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--program", type=Path, default=HERE.parent / "target" / "release" / "onnx-bsr")
    args = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        out, plan = Path(temporary) / "out.onnx", Path(temporary) / "plan.json"
        command = [str(args.program), str(args.model), str(out), "--ratio", args.ratio, "--save-plan", str(plan), "--quiet"]
        begin = time.time()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        whole = time.time() - begin
        new = {out: out.read_bytes(), plan: plan.read_bytes()}
        old = {out: args.model.read_bytes(), plan: b"{}"}
        counts = {"old": 0, "new": 0, "broken": 0, "ended before": 0}
        for run in range(args.runs):
            for path, content in old.items():
                path.write_bytes(content)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(0, whole) if run % 2 else random.uniform(0.6 * whole, 1.1 * whole))
            if process.poll() is not None:
                counts["ended before"] += 1
            process.kill()
            process.wait()
            for path in (out, plan):
                content = path.read_bytes() if path.exists() else b""
                kind = "old" if content == old[path] else "new" if content == new[path] else "broken"
                counts[kind] += 1
        left = [p.name for p in Path(temporary).iterdir() if p not in (out, plan)]
        print(f"{args.runs} runs of {whole:.2f} s: {counts}; {len(left)} staging folders left")
        return counts["broken"] > 0


if __name__ == "__main__":
    sys.exit(main())
