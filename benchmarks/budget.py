"""A limit of time for work that can be typed again, and where its time went.

Flow: minutes -> a timer -> ``OutOfTime`` in the main thread, which no ``except Exception`` catches -> the work ends as
it does when it is killed, and goes on when it is typed again. Progress of the work -> seconds of each of its phases.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fmcs_bench.core.progress import Progress, Task

EXIT_CODE = 3
"""Of a command that stopped because its time was over, and has to be typed again."""


class OutOfTime(BaseException):
    """The time is over."""


@contextmanager
def budget(minutes: float) -> Iterator[None]:
    """Raise ``OutOfTime`` in the block after so many minutes."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    # Again after a while: Python drops what is raised while it collects garbage.
    signal.setitimer(signal.ITIMER_REAL, max(60 * minutes, 1e-3), 20)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class PhaseClock:
    """Passes progress on, and adds up the seconds of tasks by their names without the number of a run.

    Attributes:
        seconds: of each phase so far; also of one that an error ended.
    """

    def __init__(self, shown: Progress) -> None:
        self.shown, self.seconds = shown, Counter[str]()

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        begin = time.monotonic()
        try:
            with self.shown.task(description, total) as task:
                yield task
        finally:
            self.seconds[re.sub(r"^run \d+: ", "", description)] += time.monotonic() - begin

    def say(self, message: str) -> None:
        self.shown.say(message)
