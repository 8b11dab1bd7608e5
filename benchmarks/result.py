"""What every benchmark prints: one JSON line with its figures, the machine and the versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fmcs_bench import environment, files


def report(benchmark: str, figures: dict[str, Any], *, device: str = "cpu", out: Path | None = None) -> None:
    """Print the line, and write it to ``out``."""
    line = json.dumps(with_machine(benchmark, figures, device), sort_keys=True)
    print(line)
    if out:
        files.write_atomically(out, (line + "\n").encode())


def with_machine(benchmark: str, figures: dict[str, Any], device: str) -> dict[str, Any]:
    """The figures with date, machine and versions."""
    return {
        "benchmark": benchmark,
        "date": environment.now(),
        "environment": environment.Environment.current(device, torch.get_num_threads()).to_json(),
        **figures,
    }
