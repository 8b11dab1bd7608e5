"""A command that several processes were started for: one of them leads, and the others take part in its trainings.

Flow: ``torchrun`` starts the same command several times -> the main process alone runs it: it holds the workspace,
looks up, decides, writes -> it tells the others the next unit, and all of them train it (``processes``) -> the others
get the command's answer, or its error, and end with it.

They are told through the launcher's store and not by a collective: a process may wait there for hours while another
extracts maps, can be interrupted, and sees that another one failed.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import redirect_stdout
from typing import Any, TypeVar

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, but not in its __all__

from fmcs_bench import launcher
from fmcs_bench.core.errors import ConfigError, EngineError, FmcsBenchError, ProcessError
from fmcs_bench.core.progress import Progress
from fmcs_bench.jobs.local import LOCAL, Engine, Failure, Job, Result, Unit, in_turn
from fmcs_bench.processes import Processes
from fmcs_bench.training.loop import choose_device

Answer = TypeVar("Answer")
PATIENCE = 30.0
"""Seconds in which all processes must say that a unit failed; else some wait in a step of it that others left."""
FAREWELL = 10.0
"""Seconds that the main process waits at the end until the others know; it may be the one that keeps the store."""
_FAILED = "failed"
_commands = itertools.count()


def led(command: Callable[[Engine], Answer], engine: Engine, device: str) -> Answer:
    """Run a command; of several processes that were started together the main one alone, while the others help.

    All of them call this with the same arguments, and all get the answer, or the error, of the main process.

    Args:
        command: gets the engine that its units need; its answer can be pickled.
        engine: that was asked for.
        device: as for ``choose_device``.

    Raises:
        ConfigError: the engine is another than the local one, or the device names one GPU for all.
        ProcessError: another process failed, or this one did, which does not lead.

    Example:
        >>> led(lambda engine: type(engine).__name__, LOCAL, "cpu")
        'LocalEngine'
    """
    num = launcher.num_processes()
    if num == 1:
        return command(engine)
    if engine is not LOCAL:
        raise ConfigError(
            f"--engine ray starts processes of its own, and {num} were started here; leave out torchrun or --engine"
        )
    if ":" in device:
        raise ConfigError(f"device {device!r} is one, and each of {num} processes has its own; use auto, cpu or cuda")
    launch = _Launch(Processes.join(choose_device(device)))
    answer: Answer = launch.lead(command) if launch.team.is_main else launch.follow()
    return answer


class _Launch:
    """All processes of a command, seen from one of them; in the main one it is the engine of the units.

    Messages are numbered; to message ``n`` process ``r`` answers at ``n/r``.
    """

    def __init__(self, team: Processes) -> None:
        self.team = team
        place, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the store outlives it
        store = TCPStore(place, port, is_master=False, wait_for_workers=False)
        self._store = PrefixStore(f"fmcs-bench/{attempt}/{next(_commands)}", store)
        self._numbers = itertools.count()
        self._is_training = False

    # ---- the main process

    def lead(self, command: Callable[[Engine], Answer]) -> Answer:
        """Run the command and send its answer."""
        try:
            answer = command(self)
        except Exception as error:
            if not self._is_training:
                self._end("error", error if _can_travel(error) else self._told())
            elif not self._is_first_to_fail():  # the others are in the middle of it, and the launcher ends them
                raise self._told() from error
            raise
        self._end("answer", answer)
        return answer

    def room(self, device: str) -> int:  # noqa: ARG002  (all processes work at one)
        """See ``Engine``."""
        return 1

    def answers(
        self,
        job: Job[Unit, Result],
        units: Sequence[Unit],
        progress: Progress,  # noqa: ARG002  (as in ``LocalEngine``)
        then: Callable[[Unit, Result], Sequence[Unit]] | None = None,
    ) -> Generator[tuple[int, Result | Failure[Unit]]]:
        """See ``Engine``: one unit after another, in all processes."""
        self._tell("job", job)
        return in_turn(job, units, then, self._attempt)

    def _attempt(self, job: Job[Unit, Result], unit: Unit) -> Result | Failure[Unit]:
        if job.follow is None or not job.is_shared(unit):
            return job.attempt(unit)
        number = self._tell("unit", unit)
        self._is_training = True
        answer = job.attempt(unit)
        has_failed = isinstance(answer, Failure)
        for rank in range(1, self.team.num):
            try:
                fault = self._hear(f"{number}/{rank}", PATIENCE if has_failed else math.inf)
            except TimeoutError:
                assert isinstance(answer, Failure)  # else there was no limit
                raise EngineError(f"process 0 of {self.team.num} alone failed: {answer.error}") from answer.error
            if fault is not None and not has_failed:
                raise EngineError(f"process {rank} of {self.team.num} alone failed: {fault}")
        self._is_training = False
        return answer

    def _tell(self, kind: str, value: object) -> int:
        number = next(self._numbers)
        self._send(str(number), (kind, value))
        return number

    def _end(self, kind: str, value: object) -> None:
        number, deadline = self._tell(kind, value), time.monotonic() + FAREWELL
        known = [f"{number}/{rank}" for rank in range(1, self.team.num)]
        while not self._store.check(known) and time.monotonic() < deadline:
            time.sleep(0.01)

    # ---- the others

    def follow(self) -> Any:
        """Take part in what the main process does, until it ends; its answer.

        Raises:
            ProcessError: this process failed and the main one did not, or both, and another says why.
            Exception: the main process's own error.
        """
        try:
            with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123  (no file)
                kind, value = self._help()
        except Exception as error:
            if not self._is_first_to_fail():
                raise self._told() from error
            if isinstance(error, FmcsBenchError):
                raise ProcessError(f"process {self.team.rank} of {self.team.num} failed: {error}") from error
            raise
        if kind == "error":
            raise value
        return value

    def _help(self) -> tuple[str, Any]:
        job: Job[Any, Any] | None = None
        fault: FmcsBenchError | None = None
        for number in itertools.count():
            try:
                kind, value = self._hear(str(number), math.inf if fault is None else PATIENCE)
            except TimeoutError:
                assert fault is not None  # else there was no limit
                raise fault from fault.__cause__
            fault = None
            if kind == "job":
                job = value
                continue
            if kind == "unit":
                assert job is not None  # it comes before its units
                assert job.follow is not None
                alike: tuple[type[FmcsBenchError], ...] = (*job.survives, ConfigError)
                try:
                    job.follow(value)
                except alike as error:  # the main process finds the same, and says it
                    fault = error
            self._send(f"{number}/{self.team.rank}", None if fault is None else str(fault))
            if kind != "unit":
                return kind, value
        raise AssertionError  # numbers have no end

    # ---- all

    def _send(self, key: str, value: object) -> None:
        self._store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # bytes are fine; torch names text only

    def _hear(self, key: str, seconds: float) -> Any:
        """Wait for a message.

        Raises:
            TimeoutError: none came within these seconds.
            ProcessError: another process failed.
        """
        deadline = time.monotonic() + seconds
        while not self._store.check([key]):
            if self._store.check([_FAILED]):
                raise self._told()
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.01)
        return pickle.loads(self._store.get(key))  # noqa: S301  (from a process of this very command)

    def _is_first_to_fail(self) -> bool:
        """The first says why; what comes of it in the others is not worth saying."""
        return bool(self._store.add(_FAILED, 1) == 1)

    def _told(self) -> ProcessError:
        return ProcessError(f"another of {self.team.num} processes failed, and says why", is_told=True)


def _can_travel(error: Exception) -> bool:
    """Whether the others can raise it as it is, for a caller to catch."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (our own)
    except Exception:  # noqa: BLE001  (classes of other people may raise anything)
        return False
    return isinstance(error, FmcsBenchError)
