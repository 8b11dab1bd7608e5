"""Runs units of work. A finished unit is found, not repeated; a unit writes its own files and needs no other.

Flow: units -> those that are finished, found -> the others, done by an engine: one by one here, or on a Ray cluster
(``cluster``) -> results in the order of the units, and the failures that stop no other unit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from fmcs_bench.core.errors import FmcsBenchError
from fmcs_bench.core.progress import SILENT, Progress

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


@dataclass(frozen=True)
class Job(Generic[Unit, Result]):
    """What is to be done with units, whoever does it.

    Attributes:
        find: the result of a unit that is finished, or the failure of one that is known to fail, else None.
        work: does one unit, keeps its result where ``find`` finds it, and returns it.
        survives: errors of one unit that leave the others as they are.
        device: of the work, as torch names it.
        folder: that results are kept in; whoever works must see it.
    """

    find: Callable[[Unit], Result | Failure[Unit] | None]
    work: Callable[[Unit], Result]
    survives: tuple[type[FmcsBenchError], ...] = ()
    device: str = "cpu"
    folder: Path | None = None

    def attempt(self, unit: Unit) -> Result | Failure[Unit]:
        """Do one unit; an error that it does not survive is raised."""
        try:
            return self.work(unit)
        except self.survives as error:
            return Failure(unit, error)


class Engine(Protocol):
    """Does units of work, each exactly once as far as the files show."""

    def room(self, device: str) -> int:
        """How many units on this device are done at a time."""
        ...

    def answers(
        self,
        job: Job[Unit, Result],
        units: Sequence[Unit],
        progress: Progress,
        then: Callable[[Unit, Result], Sequence[Unit]] | None = None,
    ) -> Generator[tuple[int, Result | Failure[Unit]]]:
        """Position and result, or failure, of every unit, as they come.

        An error that a unit does not survive is raised with its own type and message, and nothing works any more once
        the generator has ended or is closed.

        Args:
            job: what is to be done.
            units: at positions 0, 1, ...
            progress: gets what workers say.
            then: called in this process with each unit and its result, and says which units can be done now; they
                get the next positions.
        """
        ...


class LocalEngine:
    """One unit after another, in this process."""

    def room(self, device: str) -> int:  # noqa: ARG002  (one on every device)
        """See ``Engine``."""
        return 1

    def answers(
        self,
        job: Job[Unit, Result],
        units: Sequence[Unit],
        progress: Progress,  # noqa: ARG002  (whatever the work says, it says itself)
        then: Callable[[Unit, Result], Sequence[Unit]] | None = None,
    ) -> Generator[tuple[int, Result | Failure[Unit]]]:
        """See ``Engine``; units that follow from one come right after it."""
        todo, num = deque(enumerate(units)), len(units)
        while todo:
            i, unit = todo.popleft()
            answer = job.attempt(unit)
            if then is not None and not isinstance(answer, Failure):
                more = then(unit, answer)
                todo.extendleft(reversed(list(enumerate(more, num))))
                num += len(more)
            yield i, answer


LOCAL: Engine = LocalEngine()


def run_units(
    units: Sequence[Unit],
    *,
    find: Callable[[Unit], Result | Failure[Unit] | None],
    work: Callable[[Unit], Result],
    description: str,
    survives: tuple[type[FmcsBenchError], ...] = (),
    progress: Progress = SILENT,
    engine: Engine = LOCAL,
    device: str = "cpu",
    folder: Path | None = None,
) -> Outcome[Unit, Result]:
    """Results of all units, in their order, and the failures.

    Args:
        units: what is to be done.
        find: the result of a unit that is finished, or the failure of one that is known to fail, else None.
        work: does one unit, keeps its result where ``find`` finds it, and returns it.
        description: of the whole, for the progress display.
        survives: errors of one unit that leave the others as they are: these go on, and the failure is returned. Every
            other error ends the work at once.
        progress: shows finished units and the time left.
        engine: who works; one that works elsewhere needs ``find`` and ``work`` that can be pickled.
        device: of the work, as torch names it; engines that hand out GPUs ask.
        folder: that results are kept in.

    Example:
        >>> run_units([1, 2], find=lambda unit: None, work=lambda unit: unit * 10, description="tens").results
        [10, 20]
    """
    job: Job[Unit, Result] = Job(find, work, survives, device, folder)
    answers: dict[int, Result | Failure[Unit]] = {}
    for i, unit in enumerate(units):
        known = find(unit)
        if known is not None:
            answers[i] = known
    left = [i for i in range(len(units)) if i not in answers]
    failed = [answer for answer in answers.values() if isinstance(answer, Failure)]
    if len(answers) > len(failed):
        progress.say(f"{description}: {len(answers) - len(failed)} of {len(units)} were finished before")
    for failure in failed:
        progress.say(f"failed before, the others go on: {failure.error}")
    with progress.task(description, len(left)) as task:
        if left:
            coming = engine.answers(job, [units[i] for i in left], progress)
            with closing(coming):
                for position, answer in coming:
                    answers[left[position]] = answer
                    if isinstance(answer, Failure):
                        progress.say(f"failed, the others go on: {answer.error}")
                    task.advance()
    in_order = [answers[i] for i in range(len(units))]
    return Outcome(
        [answer for answer in in_order if not isinstance(answer, Failure)],
        [answer for answer in in_order if isinstance(answer, Failure)],
    )
