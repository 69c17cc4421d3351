"""Kills runs at random moments and checks that the output is the whole old file or the whole new one.

    cargo build --release
    python benches/kill.py fixtures/mnist_conv.onnx --ratio 4 [--data fixtures/mnist_train.npz] [--runs 200]

A few runs go to their ends and give the new file's bytes, and how much processor time a run takes; each of the others starts over an
older output and is ended by SIGKILL: half of them when they have used a random share of that processor time, which other load on the
machine doesn't change, half at a random moment after the staging folder has appeared, where files are written. What such a run leaves
beside the output (a hidden staging folder) is counted, not a fault: nothing can clean up after SIGKILL. Ends with 1 where an output
is anything else. Linux.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(process):
    """What the threads of a process have used so far; the process may be over but not waited for."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def over(process):
    """Whether a process has ended; it stays there to be looked at."""
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def staged(folder):
    return any(name.startswith(".onnx-bsr-") for name in os.listdir(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--ratio", default="4")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--runs", type=int, default=200, help="runs to kill")
    parser.add_argument("--program", type=Path, default=HERE.parent / "target" / "release" / "onnx-bsr")
    args = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        out, plan = folder / "out.onnx", folder / "plan.json"
        command = [str(args.program), str(args.model), str(out), "--ratio", args.ratio, "--save-plan", str(plan), "--quiet"]
        command += ["--threads", args.threads] + (["--data", str(args.data)] if args.data else [])
        whole, writing = [], []
        for _ in range(3):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            begin = None
            while not over(process):
                used = processor_seconds(process)
                begin = begin or (used if staged(folder) else None)
                time.sleep(0.001)
            whole.append(processor_seconds(process))
            writing.append(whole[-1] - (begin or used))
            if process.wait() not in (0, 3):
                sys.exit("a run that nothing disturbs fails")
        whole, writing = max(whole), max(writing)
        new = {out: out.read_bytes(), plan: plan.read_bytes()}
        old = {out: args.model.read_bytes(), plan: b"{}"}
        counts = {"old": 0, "new": 0, "broken": 0}
        before, moments = 0, []
        left = killed = run = 0
        while killed < args.runs:
            run += 1
            for name in os.listdir(folder):
                if name.startswith("."):
                    left += 1
                    subprocess.run(["rm", "-r", str(folder / name)], check=True)
            for path, content in old.items():
                path.write_bytes(content)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if run % 2:
                share = random.random()
                while not over(process) and processor_seconds(process) < share * whole:
                    time.sleep(0.0005)
            else:
                while not over(process) and not staged(folder):
                    time.sleep(0.0005)
                start, share = processor_seconds(process), random.random()
                # Clock ticks are coarse: part of the moments are by time.
                time.sleep(random.uniform(0, 1 / TICKS))
                while not over(process) and processor_seconds(process) < start + share * writing:
                    time.sleep(0.0005)
            ended, used = over(process), processor_seconds(process)
            process.kill()
            process.wait()
            before += ended
            killed += not ended
            if not ended:
                moments.append(used / whole)
            for path in (out, plan):
                content = path.read_bytes() if path.exists() else b""
                kind = "old" if content == old[path] else "new" if content == new[path] else "broken"
                counts[kind] += 1
        print(f"runs of {whole:.2f} s of processor time, {writing:.2f} s of it with staged files")
        print(f"{killed} killed, {before} over before; files: {counts}; {left} staging folders left")
        quarters = [sum(q / 4 <= m < (q + 1) / 4 or (q == 3 and m >= 1) for m in moments) for q in range(4)]
        print(f"kills by quarter of a run: {quarters}")
        return counts["broken"] > 0


if __name__ == "__main__":
    sys.exit(main())
