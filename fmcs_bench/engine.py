"""Runs units of work. A finished unit is found, not repeated; a unit writes its own files and needs no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fmcs_bench.progress import SILENT, Progress

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def run_units(
    units: Sequence[Unit],
    *,
    find: Callable[[Unit], Result | None],
    work: Callable[[Unit], Result],
    description: str,
    progress: Progress = SILENT,
) -> list[Result]:
    """Results of all units, in their order.

    Args:
        units: what is to be done.
        find: the result of a unit that is finished, else None.
        work: does one unit, keeps its result where ``find`` finds it, and returns it.
        description: of the whole, for the progress display.
        progress: shows finished units and the time left.

    Example:
        >>> run_units([1, 2], find=lambda unit: None, work=lambda unit: unit * 10, description="tens")
        [10, 20]
    """
    found = [find(unit) for unit in units]
    num_found = sum(result is not None for result in found)
    if num_found:
        progress.say(f"{description}: {num_found} of {len(units)} were finished before")
    results: list[Result] = []
    with progress.task(description, len(units) - num_found) as task:
        for unit, result in zip(units, found, strict=True):
            if result is None:
                result = work(unit)
                task.advance()
            results.append(result)
    return results
