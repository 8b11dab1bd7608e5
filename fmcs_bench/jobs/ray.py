"""Runs trials on Ray, on one machine or many, with the interface of ``local``.

Workers are Ray actors with CPUs and GPUs of their own. Each checks that it has the caller's software and folder, builds
the job once, and does one trial after another. Ray is imported only where trials are sent.
"""

from __future__ import annotations

import io
import math
import os
import platform
import subprocess
import sys
import textwrap
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fmcs_bench.core import environment, files
from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import ConfigError, EngineError, FmcsBenchError
from fmcs_bench.core.progress import Progress
from fmcs_bench.jobs.local import LOCAL, Engine, Failure, Job, Result, Trial
from fmcs_bench.jobs.options import Execution

MAX_RETRIES = 3
"""Of a trial whose worker died."""
ANSWER_SECONDS = 40
"""That a cluster has to answer; connecting takes about five."""
LOOK_SECONDS = 30
"""Without any answer, after which the machines of the cluster are counted again."""
STORE_BYTES = 100 * 2**20
"""Shared memory of a Ray of our own: jobs and records are small, maps never travel."""
MARK = ".engine"
"""File in the folder of the results: a worker that reads it sees this very folder."""
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


@contextmanager
def engine_of(execution: Execution) -> Iterator[Engine]:
    """The engine of these options for the block; a Ray that it started ends with the block."""
    if execution.engine == "local":
        yield LOCAL
        return
    if find_spec("ray") is None:
        raise ConfigError(
            "the engine ray needs the package ray, which is not installed; type `pip install 'fmcs-bench[cluster]'`"
        )
    with ExitStack() as until_end:
        yield RayEngine(until_end, execution.address, execution.unit_cpus or 1, execution.unit_gpus)


@dataclass
class RayEngine:
    """Trials on Ray, to which it connects when the first is sent.

    Attributes:
        until_end: gets what has to be undone.
        address: of the cluster; None is the one that this process is connected to, or one of our own.
        cpus: of each trial.
        gpus: of each trial; None is 1 where the device is a GPU.
    """

    until_end: ExitStack
    address: str | None = None
    cpus: int = 1
    gpus: float | None = None
    _ray: Any = field(default=None, init=False)

    def answers(
        self, job: Job[Trial, Result], trials: Sequence[Trial], progress: Progress
    ) -> Generator[tuple[int, Result | Failure[Trial]]]:
        """See ``Engine``."""
        ray = self._connect()
        todo, deaths, has_said = deque(range(len(trials))), Counter[int](), False
        with _marked(job.folder) as mark, ExitStack() as end:
            workers = _Workers(ray, self.cpus, self._gpus(job.device), mark, job)
            end.callback(workers.end)
            while todo or workers.busy:
                workers.start(min(self.room(job.device), len(todo) + len(workers.busy)))
                if not workers.wait() and not has_said:
                    progress.say(f"waiting for {len(workers.busy)} workers; `ray status` shows what the cluster does")
                has_said = True
                for worker, position, data in workers.ended():
                    if data is None:  # it died; -1 is its preparation
                        deaths[position] += 1
                        if deaths[position] > MAX_RETRIES:
                            raise _lost(None if position < 0 else trials[position])
                        if position >= 0:
                            todo.appendleft(position)
                        continue
                    lines, answer = unpack(data)
                    for line in lines:
                        progress.say(line)
                    if isinstance(answer, Raised):
                        error = answer.error()
                        if not (answer.is_survived and isinstance(error, FmcsBenchError)):
                            raise error
                        answer = Failure(trials[position], error)
                    if todo:
                        following = todo.popleft()
                        workers.give(worker, following, trials[following])
                    else:
                        workers.dismiss(worker)
                    if position >= 0:
                        yield position, answer
                    else:
                        deaths[position] = 0  # so that only deaths in a row count

    def room(self, device: str) -> int:
        """See ``Engine``. No room is an error: Ray would wait for ever and in silence."""
        gpus, ray = self._gpus(device), self._connect()
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = 0
        for there in machines:
            by_gpus = there.get("GPU", 0) // gpus if gpus else math.inf
            room += int(min(there.get("CPU", 0) // self.cpus, by_gpus))
        if room:
            return room
        shown = "; ".join(f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs" for there in machines[:8])
        raise ConfigError(
            f"a trial asks for {self.cpus} CPUs and {gpus:g} GPUs, and no machine of the cluster has them (there are: "
            f"{shown or 'none'}); change --unit-cpus, --unit-gpus or --device"
        )

    def _gpus(self, device: str) -> float:
        return self.gpus if self.gpus is not None else float(device.startswith("cuda"))

    def _connect(self) -> Any:
        if self._ray is not None:
            return self._ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        import ray

        # Ray prints what happens to workers on standard output, where results go.
        self.until_end.enter_context(redirect_stdout(sys.stderr))
        if not ray.is_initialized():
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            self.until_end.callback(ray.shutdown)
            if self.address is None:
                cores = environment.usable_cores()
                ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
            else:
                _require_answer(self.address)
                ray.init(self.address, **quiet)
        elif self.address is not None:
            raise ConfigError(
                f"address = {self.address!r}, but this process is connected to a cluster already; leave the "
                "address out, or call ray.shutdown() first"
            )
        self._ray = ray
        return ray


class _Workers:
    """The workers of one job, and the position of the trial that each is at; -1 is its preparation.

    A dead one is replaced here. Ray would retry tasks itself, but they must be cancelled where an error ends the work,
    and Ray 2.60 ends the caller if a task starts in the moment in which it is cancelled.
    """

    def __init__(self, ray: Any, cpus: int, gpus: float, mark: tuple[str, str] | None, job: Job[Trial, Result]) -> None:
        self._ray = ray
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Worker)
        software = Environment.current(job.device, cpus).to_json()
        self._parcel = ray.put({"job": pack(job), "environment": software, "threads": cpus, "mark": mark})
        self.busy: dict[Any, tuple[Any, int]] = {}
        self._started: set[Any] = set()
        self._ready: list[Any] = []

    def end(self) -> None:
        for worker in self._started:
            self._ray.kill(worker)
        if self.busy:  # nothing is written into the folder after this
            self._ray.wait(list(self.busy), num_returns=len(self.busy), timeout=LOOK_SECONDS)

    def start(self, number: int) -> None:
        for _ in range(number - len(self.busy)):
            worker = self._kind.remote()
            self._started.add(worker)
            self.busy[worker.prepare.remote(self._parcel)] = worker, -1

    def give(self, worker: Any, position: int, trial: object) -> None:
        self.busy[worker.attempt.remote(pack(trial))] = worker, position

    def dismiss(self, worker: Any) -> None:
        """End a worker, so that its memory and its GPU are free."""
        self._started.remove(worker)
        self._ray.kill(worker)

    def wait(self) -> bool:
        """Whether an answer came within ``LOOK_SECONDS``."""
        self._ready, _ = self._ray.wait(list(self.busy), num_returns=1, timeout=LOOK_SECONDS)
        return bool(self._ready)

    def ended(self) -> Iterator[tuple[Any, int, bytes | None]]:
        """Worker, position of its trial, and its answer; None where it died."""
        for ref in self._ready:
            worker, position = self.busy.pop(ref)
            try:
                data = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                raise EngineError(
                    f"a worker cannot run fmcs-bench: {str(error).strip().splitlines()[-1]}; install the same versions "
                    "as here on every machine"
                ) from error
            except self._ray.exceptions.RayError:
                self.dismiss(worker)  # if only its answer was lost, it must not go on beside its successor
                data = None
            yield worker, position, data


def _lost(trial: object) -> EngineError:
    what = "a worker was prepared" if trial is None else f"it did this trial: {textwrap.shorten(str(trial), 200)}"
    return EngineError(
        f"{MAX_RETRIES + 1} times a worker was killed or crashed, perhaps for lack of memory, while {what}; finished "
        "trials stay, and the same command continues"
    )


def _require_answer(address: str) -> None:
    """Ask in another process: Ray tries for minutes, and then ends the process that it runs in."""
    do = "check that `ray status` works on this machine, which must be part of the cluster, and give auto or HOST:PORT"
    try:
        words = [sys.executable, "-c", _PROBE, address]
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise EngineError(f"no Ray cluster answered at {address!r} within {ANSWER_SECONDS} seconds; {do}") from None
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise EngineError(f"the Ray cluster at {address!r} cannot be used ({reason}); {do}")


@contextmanager
def _marked(folder: Path | None) -> Iterator[tuple[str, str] | None]:
    """A file in the folder, and its content, for the block."""
    if folder is None:
        yield None
        return
    mark, content = folder.absolute() / MARK, uuid.uuid4().hex
    files.write_atomically(mark, content.encode())
    try:
        yield str(mark), content
    finally:
        mark.unlink(missing_ok=True)


# ---- in the worker


class Worker:
    """A process of the cluster that does trials of one job."""

    _job: Job[Any, Any]

    def prepare(self, parcel: dict[str, Any]) -> bytes:
        """Check software and folder, and build the job; the answer is packed: printed lines, and None or ``Raised``.

        The parcel has plain values, so that other versions can read them too.
        """

        def build() -> None:
            _require_same(parcel["environment"])
            _require_folder(parcel["mark"])
            self._job = unpack(parcel["job"])
            torch = sys.modules.get("torch")  # a job that did not import it needs none
            if torch is not None:
                torch.set_num_threads(parcel["threads"])

        return _answer(build)

    def attempt(self, trial: bytes) -> bytes:
        """Find or do one trial: a worker may have died between a record and its answer."""

        def do() -> Any:
            known = unpack(trial)
            found = self._job.find(known)
            answer = self._job.attempt(known) if found is None else found
            return Raised.of(answer.error, is_survived=True) if isinstance(answer, Failure) else answer

        return _answer(do)


@dataclass(frozen=True)
class Raised:
    """An error, its cause, the cause of that, ...: pickle would drop causes."""

    chain: tuple[Exception, ...]
    is_survived: bool

    @classmethod
    def of(cls, error: Exception, *, is_survived: bool) -> Raised:
        """The error and its causes, each without its traceback."""
        text = "".join(traceback.format_exception(error)).rstrip()
        chain: list[Exception] = []
        cause: BaseException | None = error
        while isinstance(cause, Exception):
            chain.append(_portable(cause))
            cause = cause.__cause__
        chain[0].add_note(f"It was raised on {platform.node()}:\n{text}")
        return cls(tuple(chain), is_survived)

    def error(self) -> Exception:
        """The error, with its causes."""
        for error, cause in zip(self.chain, self.chain[1:], strict=False):
            error.__cause__ = cause
        return self.chain[0]


def _portable(error: Exception) -> Exception:
    """The error without its traceback, or, where it cannot be pickled, one that names its type."""
    try:
        copy = unpack(pack(error))
    except Exception:  # noqa: BLE001  (third-party classes may raise anything)
        copy = None
    if type(copy) is type(error):
        assert isinstance(copy, Exception)
        return copy
    return EngineError(f"{type(error).__name__}: {error}")


def pack(value: object) -> bytes:
    """As bytes; classes and functions of scripts and notebooks too."""
    from ray import cloudpickle

    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        raise EngineError(f"{type(value).__name__} cannot be sent to a worker: {error}") from error


def unpack(data: bytes) -> Any:
    """The value of ``pack``; only bytes of the same cluster are read."""
    from ray import cloudpickle

    return cloudpickle.loads(data)


def _answer(do: Callable[[], Any]) -> bytes:
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            answer = do()
        except Exception as error:  # noqa: BLE001  (it is raised again by the caller)
            answer = Raised.of(error, is_survived=False)
    return pack((printed.getvalue().splitlines(), answer))


def _require_same(theirs: dict[str, Any]) -> None:
    ours = Environment.current(theirs["device"], theirs["threads"]).to_json()
    here = ours["libraries"]
    different = [
        f"{name} {there} there, {here.get(name)} here"
        for name, there in theirs["libraries"].items()
        if there != here.get(name)
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
        is_same = Path(path).read_text(encoding="ascii") == content
    except OSError:
        is_same = False
    if not is_same:
        raise EngineError(
            f"the worker on {platform.node()} does not see the workspace {Path(path).parent}; put it on a file system "
            "that all machines of the cluster share, under one path, and name that with --workspace"
        )
