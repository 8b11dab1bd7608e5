"""What benchmarks share: ratios of two things measured by turns, and one JSON line with figures and machine."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fmcs_bench.core import environment, files


def seconds(work: Callable[[], Any]) -> float:
    """What ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def per_second(amount: float, work: Callable[[], Any]) -> float:
    """``amount`` by the seconds that ``work`` takes."""
    return amount / seconds(work)


def by_turns(first: Callable[[], float], second: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Medians of two figures measured by turns, and the median over the rounds of first / second.

    What else runs on the machine disturbs both.
    """
    pairs = [(first(), second()) for _ in range(rounds)]
    medians = [statistics.median(pair[i] for pair in pairs) for i in range(2)]
    return medians[0], medians[1], statistics.median(a / b for a, b in pairs)


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
