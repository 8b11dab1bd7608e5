"""Time and peak memory of `fmcs-bench quickstart` in a fresh workspace, and of typing it again; one JSON line.

    python benchmarks/quickstart.py [--out benchmarks/results/NAME.json]

Figures are of the machine at that moment. The quickstart's limits are 5 minutes and 3 GB on two CPU cores.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from result import report

LIMIT_SECONDS = 300
LIMIT_BYTES = 3e9


def run(workspace: str) -> float:
    program = shutil.which("fmcs-bench", path=str(Path(sys.executable).parent))
    if program is None:
        raise SystemExit("fmcs-bench is not installed beside this Python; type `pip install -e .` first")
    begin = time.monotonic()
    subprocess.run([program, "quickstart", "--device", "cpu", "--workspace", workspace], check=True, stdout=sys.stderr)
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as workspace:
        first = run(workspace)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        again = run(workspace)
        disk = sum(path.stat().st_size for path in Path(workspace).rglob("*") if path.is_file())
    result = {
        "seconds": round(first, 1),
        "seconds_when_finished_before": round(again, 1),
        "peak_bytes": peak,
        "workspace_bytes": disk,
        "within_limits": first <= LIMIT_SECONDS and peak <= LIMIT_BYTES,
    }
    report("quickstart", result, out=arguments.out)


if __name__ == "__main__":
    main()
