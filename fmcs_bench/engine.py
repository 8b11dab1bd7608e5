"""Runs units of work. A finished unit is found, not repeated; a unit writes its own files and needs no other.

Flow: units -> those that are finished, found -> the others, done one by one -> results, and the failures that stop no
other unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fmcs_bench.errors import FmcsBenchError
from fmcs_bench.progress import SILENT, Progress

Unit = TypeVar("Unit")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure(Generic[Unit]):
    """A unit that has no result, and why."""

    unit: Unit
    error: FmcsBenchError


@dataclass(frozen=True)
class Outcome(Generic[Unit, Result]):
    """What came of some units of work, each in their order."""

    results: list[Result]
    failures: list[Failure[Unit]]


def run_units(
    units: Sequence[Unit],
    *,
    find: Callable[[Unit], Result | None],
    work: Callable[[Unit], Result],
    description: str,
    survives: tuple[type[FmcsBenchError], ...] = (),
    progress: Progress = SILENT,
) -> Outcome[Unit, Result]:
    """Results of all units, in their order, and the failures.

    Args:
        units: what is to be done.
        find: the result of a unit that is finished, else None.
        work: does one unit, keeps its result where ``find`` finds it, and returns it.
        description: of the whole, for the progress display.
        survives: errors of one unit that leave the others as they are: these go on, and the failure is returned. Every
            other error ends the work at once.
        progress: shows finished units and the time left.

    Example:
        >>> run_units([1, 2], find=lambda unit: None, work=lambda unit: unit * 10, description="tens").results
        [10, 20]
    """
    found = [find(unit) for unit in units]
    num_found = sum(result is not None for result in found)
    if num_found:
        progress.say(f"{description}: {num_found} of {len(units)} were finished before")
    outcome: Outcome[Unit, Result] = Outcome([], [])
    with progress.task(description, len(units) - num_found) as task:
        for unit, result in zip(units, found, strict=True):
            if result is None:
                try:
                    result = work(unit)
                except survives as error:
                    outcome.failures.append(Failure(unit, error))
                    progress.say(f"failed, the others go on: {error}")
                task.advance()
            if result is not None:
                outcome.results.append(result)
    return outcome
