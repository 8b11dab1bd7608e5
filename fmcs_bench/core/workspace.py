"""The workspace: one class owns all its paths and its lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmcs_bench.core.errors import ConfigError, WorkspaceError

PathLike = str | os.PathLike[str]
DEFAULT_WORKSPACE = "fmcs-workspace"


class Workspace:
    """The folder of everything that the commands make.

    Args:
        root: the folder, made when something is first written. None: ``FMCS_BENCH_WORKSPACE``, or ``fmcs-workspace`` in
            the current folder.

    Attributes:
        datasets: all FMCS datasets, one folder each.
        published: folders that are published, one for each dataset or part of one.
        records: all records; see ``fmcs_bench.results.records``.
        saliency: pictures of ``fmcs-bench explain``.
        leaderboard: the generated pages.

    Raises:
        ConfigError: the name is empty, or a URL.

    Example:
        >>> Workspace("somewhere").dataset("digits-smallcnn-32px-base").as_posix()
        'somewhere/datasets/digits-smallcnn-32px-base'
    """

    def __init__(self, root: PathLike | None = None) -> None:
        if root is None:
            root = os.environ.get("FMCS_BENCH_WORKSPACE") or DEFAULT_WORKSPACE
        name = os.fspath(root)
        if not name:
            raise ConfigError("the workspace (--workspace or FMCS_BENCH_WORKSPACE) is empty; name a folder")
        if "://" in name:
            raise ConfigError(
                f"the workspace is a {name.partition('://')[0]} URL, and must be a folder; datasets can be read from "
                "and published to URLs"
            )
        self.root = Path(name)
        self.datasets, self.records = self.root / "datasets", self.root / "records"
        self.published, self.saliency = self.root / "published", self.root / "saliency"
        self.leaderboard = self.root / "leaderboard"

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    def dataset(self, name: str) -> Path:
        """Folder of one FMCS dataset."""
        return self.datasets / name

    def fitted(self, dataset_id: str, settings: str, evaluator: str, seed: int) -> Path:
        """Folder of one fitted evaluator; its address is that of its record."""
        return self.root / "evaluators" / dataset_id / settings / evaluator / f"seed-{seed}"

    def network(self, dataset_id: str, settings: str, method: str, seed: int) -> Path:
        """Weights of a training; their address is that of its record."""
        return self.root / "networks" / dataset_id / settings / method / f"seed-{seed}.safetensors"

    def state(self, trial: str) -> Path:
        """State of a trial's unfinished training; removed when the trial is done."""
        return self.root / "work" / f"{trial}.pt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace for this process while the block runs.

        Raises:
            WorkspaceError: it cannot be written, or another process holds it.
        """
        from filelock import FileLock, Timeout  # takes a tenth of the time of --help

        lock = FileLock(self.root / ".lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise WorkspaceError(
                f"the workspace {self.root} is in use by another fmcs-bench process; "
                "wait until it ends, or choose another with --workspace"
            ) from None
        except OSError as error:
            raise WorkspaceError(
                f"the workspace {self.root} cannot be written ({os.strerror(error.errno or 0)}); "
                "choose another folder with --workspace or FMCS_BENCH_WORKSPACE"
            ) from None
        try:
            yield
        finally:
            lock.release()
