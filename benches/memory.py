"""Runs a command and prints the most memory that it had, its own pages and those of mapped files apart.

    python benches/memory.py onnx-bsr IN OUT --ratio 2

Pages of mapped files that were not written to cost nothing when memory gets scarce: the system drops them. With
`RUST_LOG=info` the times of what the command logs tell which stage a peak is of (`--trace FILE` as the first two
arguments writes a line of MB for every tenth of a second).
"""

import pathlib
import subprocess
import sys
import time


def fields(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssFile", "VmRSS")))
    return {key: int(value.split()[0]) // 1024 for key, value in values.items()}


def main():
    command, trace = sys.argv[1:], None
    if command[0] == "--trace":
        trace, command = open(command[1], "w"), command[2:]
    begin = time.monotonic()
    child = subprocess.Popen(command)
    peaks = {}
    while child.poll() is None:
        try:
            now = fields(child.pid)
        except (FileNotFoundError, ProcessLookupError):
            break
        peaks = {key: max(value, peaks.get(key, 0)) for key, value in now.items()}
        if trace:
            print(f"{time.monotonic() - begin:.1f}", now.get("RssAnon"), now.get("RssFile"), file=trace)
        time.sleep(0.1)
    code = child.wait()
    seconds = time.monotonic() - begin
    print(
        f"exit {code}, {seconds:.1f} s, peak MiB: own {peaks.get('RssAnon')}, mapped files {peaks.get('RssFile')}, "
        f"together {peaks.get('VmRSS')}",
        file=sys.stderr,
    )
    sys.exit(code)


main()
