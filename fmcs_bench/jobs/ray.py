"""Units of work on a Ray cluster: an engine as ``engine.LocalEngine`` is one, for as many machines as there are.

Flow: job, pickled once (inputs only) -> workers (Ray actors) with CPUs and GPUs of their own, as many as there is room
for, each of which builds the job once -> units, one after another to whoever is free, again where a worker died
-> answers and what was said -> the caller.

Ray is imported only where units are sent. ``remote`` has what runs in the worker.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from fmcs_bench.core import environment, files
from fmcs_bench.core.errors import ConfigError, EngineError, FmcsBenchError
from fmcs_bench.core.progress import Progress
from fmcs_bench.jobs import remote
from fmcs_bench.jobs.local import LOCAL, Engine, Failure, Job, Result, Unit
from fmcs_bench.jobs.options import Execution

MAX_RETRIES = 3
"""Of a unit whose worker died."""
ANSWER_SECONDS = 40
"""That a cluster has to answer; connecting takes about five."""
LOOK_SECONDS = 30
"""Without any answer, after which the machines of the cluster are looked at again."""
STORE_BYTES = 100 * 2**20
"""Of shared memory for a Ray of our own: jobs and records are small, maps never travel."""
MARK = ".engine"
"""In the folder of the results, while units are elsewhere: it shows a worker that it sees this very folder."""
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


@contextmanager
def engine_of(execution: Execution) -> Iterator[Engine]:
    """The engine of these options for the block; a Ray that it started ends with the block.

    Raises:
        ConfigError: Ray is not installed.

    Example:
        >>> with engine_of(Execution()) as engine:
        ...     type(engine).__name__
        'LocalEngine'
    """
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
    """Units on Ray; it connects when the first unit is sent. ``engine_of`` makes one.

    Attributes:
        until_end: gets what has to be undone.
        address: of the cluster; None is the one that this process is connected to, or one of our own.
        cpus: of each unit.
        gpus: of each unit; None is 1 where the device is a GPU.
    """

    until_end: ExitStack
    address: str | None = None
    cpus: int = 1
    gpus: float | None = None
    _ray: Any = field(default=None, init=False)

    def answers(
        self,
        job: Job[Unit, Result],
        units: Sequence[Unit],
        progress: Progress,
        then: Callable[[Unit, Result], Sequence[Unit]] | None = None,
    ) -> Generator[tuple[int, Result | Failure[Unit]]]:
        """See ``Engine``. Units that follow from others come last.

        Raises:
            ConfigError: a device with a number, or no machine has what a unit asks for.
            EngineError: no cluster answers, a worker lacks what it needs, or the workers of one unit die again and
                again.
        """
        gpus, ray, known = self._gpus(job.device), self._connected(), list(units)
        with _marked(job.folder) as mark, _Workers(ray, self.cpus, gpus, mark, job) as workers:
            todo, attempts, is_told = deque(range(len(known))), Counter[int](), False
            while todo or workers.busy:
                workers.start(min(self.room(job.device), len(todo) + len(workers.busy)))
                if not workers.wait() and not is_told:
                    progress.say(f"waiting for {len(workers.busy)} workers; `ray status` shows what the cluster does")
                is_told = True
                for worker, position, data in workers.ended():
                    if data is None:  # it died
                        attempts[position] += 1
                        if attempts[position] > MAX_RETRIES:
                            raise _lost(None if position < 0 else known[position])
                        if position >= 0:
                            todo.appendleft(position)
                        continue
                    lines, answer = remote.unpacked(data)
                    for line in lines:
                        progress.say(line)
                    if isinstance(answer, remote.Raised):
                        error = answer.error()
                        if not (answer.is_survived and isinstance(error, FmcsBenchError)):
                            raise error
                        answer = Failure(known[position], error)
                    elif then is not None and position >= 0:
                        more = then(known[position], answer)
                        todo.extend(range(len(known), len(known) + len(more)))
                        known.extend(more)
                    if todo:
                        following = todo.popleft()
                        workers.give(worker, following, known[following])
                    else:
                        workers.dismiss(worker)
                    if position >= 0:
                        yield position, answer
                    else:
                        attempts[position] = 0  # so that only deaths in a row count

    def _connected(self) -> Any:
        """Ray, connected.

        Raises:
            ConfigError: this process is connected to another cluster.
            EngineError: no cluster answers at the address.
        """
        if self._ray is not None:
            return self._ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        import ray

        # Ray prints what happens to workers on standard output, where results go.
        self.until_end.enter_context(redirect_stdout(sys.stderr))
        if ray.is_initialized():
            if self.address is not None:
                raise ConfigError(
                    f"address = {self.address!r}, but this process is connected to a cluster already; leave the "
                    "address out, or call ray.shutdown() first"
                )
        else:
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            self.until_end.callback(ray.shutdown)
            if self.address is None:
                cores = environment.usable_cores()
                ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
            else:
                _require_answer(self.address)
                ray.init(self.address, **quiet)
        self._ray = ray
        return ray

    def _gpus(self, device: str) -> float:
        """GPUs of each unit on this device.

        Raises:
            ConfigError: it names one GPU.
        """
        if ":" in device:
            raise ConfigError(f"device {device!r} names one GPU, but Ray hands them out; use --device cuda")
        return self.gpus if self.gpus is not None else float(device == "cuda")

    def room(self, device: str) -> int:
        """See ``Engine``. With no room, Ray would wait for ever and in silence.

        Raises:
            ConfigError: no machine of the cluster has what a unit asks for, or the device has a number.
            EngineError: no cluster answers.
        """
        gpus, ray = self._gpus(device), self._connected()
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = 0
        for there in machines:
            by_gpus = there.get("GPU", 0) // gpus if gpus else math.inf
            room += int(min(there.get("CPU", 0) // self.cpus, by_gpus))
        if room:
            return room
        shown = "; ".join(f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs" for there in machines[:8])
        raise ConfigError(
            f"a unit asks for {self.cpus} CPUs and {gpus:g} GPUs, and no machine of the cluster has them (there are: "
            f"{shown or 'none'}); change --unit-cpus, --unit-gpus or --device"
        )


class _Workers:
    """The processes that work at one job, and what each is at; -1 is its preparation.

    They are actors, and a dead one is replaced here: tasks that Ray retries itself have to be cancelled where an error
    ends the work, and Ray 2.60 ends the caller if a task starts in the moment in which it is cancelled.
    """

    def __init__(self, ray: Any, cpus: int, gpus: float, mark: tuple[str, str] | None, job: Job[Unit, Result]) -> None:
        self._ray = ray
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(remote.Worker)
        self._parcel = ray.put(
            {
                "job": remote.packed(job),
                "environment": environment.Environment.current(job.device, cpus).to_json(),
                "threads": cpus,
                "mark": mark,
            }
        )
        self.busy: dict[Any, tuple[Any, int]] = {}
        self._started: set[Any] = set()
        self._ready: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._started:
            self._ray.kill(worker)
        if self.busy:  # nobody writes into the folder once this is over
            self._ray.wait(list(self.busy), num_returns=len(self.busy), timeout=LOOK_SECONDS)

    def start(self, number: int) -> None:
        """Let there be so many."""
        for _ in range(number - len(self.busy)):
            worker = self._kind.remote()
            self._started.add(worker)
            self.busy[worker.prepare.remote(self._parcel)] = worker, -1

    def give(self, worker: Any, position: int, unit: object) -> None:
        """Send a unit."""
        self.busy[worker.attempt.remote(remote.packed(unit))] = worker, position

    def dismiss(self, worker: Any) -> None:
        """There is nothing more to do: its memory and its GPU are free for others."""
        self._started.remove(worker)
        self._ray.kill(worker)

    def wait(self) -> bool:
        """Whether an answer came within ``LOOK_SECONDS``."""
        self._ready, _ = self._ray.wait(list(self.busy), num_returns=1, timeout=LOOK_SECONDS)
        return bool(self._ready)

    def ended(self) -> Iterator[tuple[Any, int, bytes | None]]:
        """Worker, position of its unit, and its answer; None where it died.

        Raises:
            EngineError: it cannot run this package.
        """
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
                self.dismiss(worker)  # if only its answer was lost, nobody else shall work beside it
                data = None
            yield worker, position, data


def _lost(unit: object) -> EngineError:
    what = "a worker was prepared" if unit is None else f"it did this unit: {textwrap.shorten(str(unit), 200)}"
    return EngineError(
        f"{MAX_RETRIES + 1} times a worker was killed or crashed, perhaps for want of memory, while {what}; what is "
        "finished stays, and the same command goes on"
    )


def _require_answer(address: str) -> None:
    """Ask in another process: Ray tries for minutes, and then ends the process that it runs in.

    Raises:
        EngineError: no cluster answers in time, or it does not take us.
    """
    do = "check that `ray status` works on this machine, which must be part of the cluster, and give auto or HOST:PORT"
    try:
        done = subprocess.run(  # noqa: S603  (our own few words, and the address as an argument)
            [sys.executable, "-c", _PROBE, address],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"no Ray cluster answered at {address!r} within {ANSWER_SECONDS} seconds; {do}") from None
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise EngineError(f"the Ray cluster at {address!r} cannot be used ({reason}); {do}")


@contextmanager
def _marked(folder: Path | None) -> Iterator[tuple[str, str] | None]:
    """A file in the folder, and what it holds, for the block."""
    if folder is None:
        yield None
        return
    mark, content = folder.absolute() / MARK, uuid.uuid4().hex
    files.write_atomically(mark, content.encode())
    try:
        yield str(mark), content
    finally:
        mark.unlink(missing_ok=True)
