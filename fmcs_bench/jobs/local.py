"""Runs independent trials, one after another in this process. A finished trial is found, not repeated.

``run_trials`` finds what is finished, gives the rest to an ``Engine`` (``LocalEngine`` here, ``RayEngine`` in ``ray``),
and returns results and failures in the order of the trials.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from fmcs_bench.core.errors import FmcsBenchError
from fmcs_bench.core.progress import SILENT, Progress

Trial = TypeVar("Trial")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure(Generic[Trial]):
    """A trial that has no result, and why."""

    trial: Trial
    error: FmcsBenchError


@dataclass(frozen=True)
class Outcome(Generic[Trial, Result]):
    """Results and failures of some trials, each in their order."""

    results: list[Result]
    failures: list[Failure[Trial]]


@dataclass(frozen=True)
class Job(Generic[Trial, Result]):
    """How trials are done; see ``run_trials``."""

    find: Callable[[Trial], Result | Failure[Trial] | None]
    work: Callable[[Trial], Result]
    survives: tuple[type[FmcsBenchError], ...] = ()
    device: str = "cpu"
    folder: Path | None = None

    def attempt(self, trial: Trial) -> Result | Failure[Trial]:
        """Do one trial; an error that it does not survive is raised."""
        try:
            return self.work(trial)
        except self.survives as error:
            return Failure(trial, error)


class Engine(Protocol):
    """Does trials, each exactly once as far as the files show."""

    def room(self, device: str) -> int:
        """How many trials on this device are done at the same time."""

    def answers(
        self, job: Job[Trial, Result], trials: Sequence[Trial], progress: Progress
    ) -> Generator[tuple[int, Result | Failure[Trial]]]:
        """Position and result, or failure, of every trial, as they come.

        An error that a trial does not survive is raised with its own type and message. No worker is left when the
        generator ends or is closed. ``progress`` gets what workers print.
        """


class LocalEngine:
    """One trial after another, in this process."""

    def room(self, device: str) -> int:  # noqa: ARG002  (one on every device)
        """See ``Engine``."""
        return 1

    def answers(
        self,
        job: Job[Trial, Result],
        trials: Sequence[Trial],
        progress: Progress,  # noqa: ARG002  (the work prints by itself)
    ) -> Generator[tuple[int, Result | Failure[Trial]]]:
        """See ``Engine``."""
        yield from enumerate(map(job.attempt, trials))


LOCAL: Engine = LocalEngine()


def run_trials(
    trials: Sequence[Trial],
    *,
    find: Callable[[Trial], Result | Failure[Trial] | None],
    work: Callable[[Trial], Result],
    description: str,
    survives: tuple[type[FmcsBenchError], ...] = (),
    progress: Progress = SILENT,
    engine: Engine = LOCAL,
    device: str = "cpu",
    folder: Path | None = None,
) -> Outcome[Trial, Result]:
    """Results of all trials, in their order, and the failures.

    Args:
        trials: what is to be done.
        find: the result, or the failure, of a trial that was done before, else None.
        work: does one trial, keeps its result where ``find`` finds it, and returns it. Ray pickles both.
        description: of the whole, for the progress display.
        survives: errors that are returned as failures. Every other error ends the work at once.
        progress: shows finished trials and the time left.
        engine: does the trials.
        device: of the trials, as torch names it.
        folder: of the results; all workers must see it.

    Example:
        >>> run_trials([1, 2], find=lambda trial: None, work=lambda trial: trial * 10, description="tens").results
        [10, 20]
    """
    found = {i: answer for i, trial in enumerate(trials) if (answer := find(trial)) is not None}
    answers: dict[int, Result | Failure[Trial]] = dict(found)
    left = [i for i in range(len(trials)) if i not in answers]
    failed = [answer for answer in answers.values() if isinstance(answer, Failure)]
    if len(answers) > len(failed):
        progress.say(f"{description}: {len(answers) - len(failed)} of {len(trials)} were finished before")
    for failure in failed:
        progress.say(f"failed before; the others continue: {failure.error}")
    with progress.task(description, len(left)) as task:
        if left:
            job: Job[Trial, Result] = Job(find, work, survives, device, folder)
            coming = engine.answers(job, [trials[i] for i in left], progress)
            with closing(coming):
                for position, answer in coming:
                    answers[left[position]] = answer
                    if isinstance(answer, Failure):
                        progress.say(f"failed; the others continue: {answer.error}")
                    task.advance()
    in_order = [answers[i] for i in range(len(trials))]
    return Outcome(
        [answer for answer in in_order if not isinstance(answer, Failure)],
        [answer for answer in in_order if isinstance(answer, Failure)],
    )
