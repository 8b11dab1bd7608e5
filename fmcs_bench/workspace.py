"""The workspace folder: one class owns its paths and its lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fmcs_bench.errors import ConfigError, WorkspaceError


class Workspace:
    """Where everything that the commands make is kept.

    Args:
        root: the folder; made when something is first written.

    Raises:
        ConfigError: the name is empty.

    Example:
        >>> Workspace("somewhere").dataset("digits-smallcnn-32px-base").as_posix()
        'somewhere/datasets/digits-smallcnn-32px-base'
    """

    def __init__(self, root: str | Path) -> None:
        if not str(root):
            raise ConfigError("the workspace (--workspace or FMCS_BENCH_WORKSPACE) is empty; name a folder")
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @property
    def datasets(self) -> Path:
        """Folder of all FMCS datasets, one folder each."""
        return self.root / "datasets"

    def dataset(self, name: str) -> Path:
        """Folder of one FMCS dataset."""
        return self.datasets / name

    @property
    def downloads(self) -> Path:
        """Folder of unfinished downloads, one folder for each source."""
        return self.root / "downloads"

    @property
    def published(self) -> Path:
        """Folder of what is published to the Hub, one folder for each dataset or part of one."""
        return self.root / "published"

    @property
    def records(self) -> Path:
        """Root of all records: see ``fmcs_bench.records``."""
        return self.root / "records"

    def fitted(self, dataset_id: str, settings: str, evaluator: str, seed: int) -> Path:
        """Folder of one fitted evaluator, addressed as its record is."""
        return self.root / "evaluators" / dataset_id / settings / evaluator / f"seed-{seed}"

    def network(self, dataset_id: str, settings: str, method: str, seed: int) -> Path:
        """Weights that a training kept, addressed as its record is; ``trajectory.save_checkpoint`` writes them."""
        return self.root / "networks" / dataset_id / settings / method / f"seed-{seed}.safetensors"

    @property
    def saliency(self) -> Path:
        """Folder of the pictures of ``fmcs-bench explain``."""
        return self.root / "saliency"

    def state(self, unit: str) -> Path:
        """Where the unfinished training of a unit of work keeps its state; removed when the unit is done."""
        return self.root / "work" / f"{unit}.pt"

    @property
    def leaderboard(self) -> Path:
        """Folder of the generated page."""
        return self.root / "leaderboard"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace for this process while the block runs.

        Raises:
            WorkspaceError: it cannot be written, or another process holds it.
        """
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
