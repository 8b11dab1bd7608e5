"""The digits track on a Ray of this machine against one process. One JSON line.

    python benchmarks/cluster.py [--seeds 2] [--out FILE]

Each of `build`, `evaluate` and `train` is typed three times, in workspaces of their own: with `--engine ray` and one
thread for each unit, with one thread and no Ray, and with all threads and no Ray. Ray's own start is part of its time.
- seconds: of each command.
- ray_by_one_thread, ray_by_all_threads: seconds of all three commands with Ray by those without (goal: at most 1.2).
- equal_to_one_thread: whether the data set's digest, and key, metrics, curve and predictions of each record, are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from result import report, seconds

GOAL = 1.2
SAME = ("key", "dataset_digest", "metrics", "curve", "predictions_sha256")


def commands(seeds: int) -> dict[str, list[str]]:
    """The track, on a small network and the evaluators and methods of the quickstart."""
    return {
        "build": ["build", "--backbone", "smallcnn"],
        "evaluate": ["evaluate", "--seeds", str(seeds), *(f"--evaluator={name}" for name in ("norm", "conv", "set"))],
        "train": ["train", "--seeds", str(seeds), "--method=baseline", "--method=ral", "--method=dueheadnet-add-none"],
    }


def track(workspace: Path, seeds: int, threads: int, options: list[str]) -> dict[str, float]:
    """Seconds of each command."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "FMCS_BENCH_WORKSPACE": str(workspace)}
    found = {}
    for name, arguments in commands(seeds).items():
        program = [sys.executable, "-m", "fmcs_bench", *arguments, "--device", "cpu", *options]
        run = partial(subprocess.run, program, check=True, env=environment, stdout=sys.stderr)
        found[name] = round(seconds(run), 1)
    return found


def results(workspace: Path) -> dict[str, Any]:
    """What must be the same on a cluster, by the file it is in."""
    found = {}
    for file in sorted(workspace.glob("records/*/**/*.json")):
        record = json.loads(file.read_bytes())
        found[file.relative_to(workspace).as_posix()] = {name: record[name] for name in SAME}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    kinds: dict[str, tuple[int, list[str]]] = {
        "ray": (1, ["--engine", "ray", "--unit-cpus", "1"]),  # as many units at a time as there are cores
        "one_thread": (1, []),
        "all_threads": (cores, []),
    }
    with tempfile.TemporaryDirectory() as folder:
        times = {kind: track(Path(folder) / kind, arguments.seeds, *how) for kind, how in kinds.items()}
        on_ray, alone = (results(Path(folder) / kind) for kind in ("ray", "one_thread"))
    all_seconds = {kind: sum(of_kind.values()) for kind, of_kind in times.items()}
    ratios = {
        f"ray_by_{kind}": round(all_seconds["ray"] / all_seconds[kind], 3) for kind in ("one_thread", "all_threads")
    }
    figures = {
        "workers": cores,
        "seeds": arguments.seeds,
        "records": len(alone),
        "equal_to_one_thread": bool(alone) and on_ray == alone,
        "seconds": times,
        **ratios,
        "within_goal": max(ratios.values()) <= GOAL,
    }
    report("cluster", figures, out=arguments.out)


if __name__ == "__main__":
    main()
