"""Shows progress: bars with the time left for a person, now and then a line for a pipe. Results go elsewhere (stdout).

Both follow ``fmcs_bench.core.progress.Progress`` and write to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from fmcs_bench.core.progress import Progress, Task

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def shown() -> Iterator[Progress]:
    """A progress display that fits standard error: bars on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as bars:
        yield _Bars(bars)


class _Bars:
    """A bar for each running task, inner ones indented; an inner bar goes away when its task ends."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._depth = 0

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        number = self._bars.add_task("  " * self._depth + description, total=total)
        self._depth += 1
        try:
            yield _Bar(self._bars, number)
        finally:
            self._depth -= 1
            if self._depth:
                self._bars.remove_task(number)

    def say(self, message: str) -> None:
        self._bars.console.print(message, highlight=False, markup=False)


class _Bar:
    def __init__(self, bars: RichProgress, number: TaskID) -> None:
        self._bars, self._number = bars, number

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._number, steps)


class _Lines:
    """A line when an outer task starts and ends, and at most every ten seconds in between."""

    def __init__(self) -> None:
        self._depth = 0

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        line = _Line(description, total, is_outer=self._depth == 0)
        self._depth += 1
        try:
            yield line
        finally:
            self._depth -= 1
        line.end()

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class _Line:
    def __init__(self, description: str, total: int, *, is_outer: bool) -> None:
        self._description, self._total, self._is_outer = description, total, is_outer
        self._done, self._begin, self._last = 0, time.monotonic(), time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if self._done and now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            left = (now - self._begin) / self._done * (self._total - self._done)
            self._print(f"{self._done}/{self._total}, about {left:.0f} s left")

    def end(self) -> None:
        if self._is_outer and self._total:
            self._print(f"done in {time.monotonic() - self._begin:.0f} s")

    def _print(self, text: str) -> None:
        print(f"{self._description}: {text}", file=sys.stderr, flush=True)
