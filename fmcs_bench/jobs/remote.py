"""What runs in a worker of a cluster; see ``cluster``.

Flow: parcel -> same code, versions and folder as the caller's, or an error -> job, built once -> each unit, found or
done -> answer, or error with its causes, and every line that was said; as bytes.
"""

from __future__ import annotations

import io
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import EngineError
from fmcs_bench.jobs.local import Failure, Job


@dataclass(frozen=True)
class Raised:
    """An error of a unit, with its causes, which pickle would drop.

    Attributes:
        chain: the error, its cause, the cause of that, ...
        is_survived: it leaves other units as they are.
    """

    chain: tuple[Exception, ...]
    is_survived: bool

    @classmethod
    def of(cls, error: Exception, *, is_survived: bool) -> Raised:
        """What travels of an error."""
        told = "".join(traceback.format_exception(error)).rstrip()
        first, *causes = map(_portable, _causes(error))
        first.add_note(f"It was raised on {platform.node()}:\n{told}")
        return cls((first, *causes), is_survived)

    def error(self) -> Exception:
        """The error, its causes tied to it again."""
        for error, cause in zip(self.chain, self.chain[1:], strict=False):
            error.__cause__ = cause
        return self.chain[0]


def _causes(error: BaseException | None) -> Iterator[Exception]:
    while isinstance(error, Exception):
        yield error
        error = error.__cause__


def _portable(error: Exception) -> Exception:
    """The error without its traceback, or, if it cannot travel, one that names its type."""
    try:
        again = unpacked(packed(error))
    except Exception:  # noqa: BLE001  (classes of other people may raise anything)
        again = None
    if type(again) is type(error):
        assert isinstance(again, Exception)
        return again
    return EngineError(f"{type(error).__name__}: {error}")


def packed(value: object) -> bytes:
    """As bytes; classes and functions of scripts and notebooks too.

    Raises:
        EngineError: it cannot be sent.
    """
    from ray import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(value)
    except Exception as error:
        raise EngineError(f"{type(value).__name__} cannot be sent to a worker: {error}") from error
    return data


def unpacked(data: bytes) -> Any:
    """What ``packed`` took; only bytes of the same cluster are read."""
    from ray import cloudpickle

    return cloudpickle.loads(data)


class Worker:
    """A process of the cluster that works at one job, unit by unit."""

    _job: Job[Any, Any]

    def prepare(self, parcel: dict[str, Any]) -> bytes:
        """Build the job, once software and folder are known to be the caller's.

        Args:
            parcel: what ``cluster`` sends: plain values, so that other versions can read them too.

        Returns:
            Packed: the lines that were said, and None or ``Raised``.
        """

        def build() -> None:
            _require_same(parcel["environment"])
            _require_folder(parcel["mark"])
            self._job = unpacked(parcel["job"])
            torch = sys.modules.get("torch")  # a job that did not import it needs none
            if torch is not None:
                torch.set_num_threads(parcel["threads"])

        return _answered(build)

    def attempt(self, unit: bytes) -> bytes:
        """Find or do one unit.

        An earlier attempt may have died between its record and its answer, so that a unit is always looked for first.

        Args:
            unit: packed.

        Returns:
            Packed: the lines that were said, and the result or ``Raised``.
        """

        def do() -> Any:
            known = unpacked(unit)
            found = self._job.find(known)
            answer = self._job.attempt(known) if found is None else found
            return Raised.of(answer.error, is_survived=True) if isinstance(answer, Failure) else answer

        return _answered(do)


def _answered(do: Callable[[], Any]) -> bytes:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            answer = do()
        except Exception as error:  # noqa: BLE001  (it is raised again by the caller)
            answer = Raised.of(error, is_survived=False)
    return packed((said.getvalue().splitlines(), answer))


def _require_same(theirs: dict[str, Any]) -> None:
    ours = Environment.current(theirs["device"], theirs["threads"]).to_json()
    different = [
        f"{name} {there} there, {ours['libraries'].get(name)} here"
        for name, there in theirs["libraries"].items()
        if there != ours["libraries"].get(name)
    ]
    if theirs["code_digest"] != ours["code_digest"]:
        different.insert(0, f"fmcs-bench {theirs['fmcs_bench']} there, {ours['fmcs_bench']} with other code here")
    if different:
        raise EngineError(
            f"the worker on {platform.node()} has other software than the caller, and would make other results: "
            f"{'; '.join(different)}; install the same versions on every machine"
        )


def _require_folder(mark: tuple[str, str] | None) -> None:
    if mark is None:
        return
    path, content = mark
    try:
        seen = Path(path).read_text(encoding="ascii") == content
    except OSError:
        seen = False
    if not seen:
        raise EngineError(
            f"the worker on {platform.node()} does not see the workspace {Path(path).parent}; put it on a file system "
            "that all machines of the cluster share, under one path, and name that with --workspace"
        )
