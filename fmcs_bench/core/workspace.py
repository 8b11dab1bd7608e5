"""The workspace, a folder or a place in a bucket: one class owns its paths and its lock.

Flow: folder -> all paths in it. URL -> ``UrlPath`` of what is finished (data sets, records, fits, networks), read and
written in place, and paths in a scratch folder of this machine for what is under way or only shown.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from fmcs_bench import bucket_lock
from fmcs_bench.core.errors import ConfigError, WorkspaceError
from fmcs_bench.urls import UrlPath, is_url, without_secrets


class Workspace:
    """Where everything that the commands make is kept.

    Args:
        root: the folder, made when something is first written; or a URL such as ``s3://bucket/name``.

    Attributes:
        root: the folder. Of a URL it is a ``UrlPath``, which has those methods of a ``Path`` that are needed.
        scratch: folder of this machine for what is not finished; of a folder, the same.

    Raises:
        ConfigError: the name is empty, or a URL with a password or a query.

    Example:
        >>> Workspace("somewhere").dataset("digits-smallcnn-32px-base").as_posix()
        'somewhere/datasets/digits-smallcnn-32px-base'
    """

    def __init__(self, root: str | Path | UrlPath) -> None:
        if not str(root):
            raise ConfigError("the workspace (--workspace or FMCS_BENCH_WORKSPACE) is empty; name a folder")
        if isinstance(root, UrlPath) or is_url(root):
            url = str(root).rstrip("/")
            if url != without_secrets(url):
                raise ConfigError(
                    f"the workspace {without_secrets(url)} was given with a password or a query; see docs/scale.md"
                )
            self.root = cast("Path", UrlPath(url))
            name = f"{UrlPath(url).name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
            self.scratch = Path(os.environ.get("FMCS_BENCH_SCRATCH") or Path.home() / ".cache" / "fmcs-bench") / name
        else:
            assert not isinstance(root, UrlPath)
            self.root = self.scratch = Path(root)

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @property
    def is_here(self) -> bool:
        """Whether it is a folder, and not a place in a bucket."""
        return self.root is self.scratch

    def require_folder(self, what: str) -> None:
        """Refuse what needs a folder.

        Raises:
            ConfigError: the workspace is a URL.
        """
        if not self.is_here:
            raise ConfigError(f"{what} needs a folder, and the workspace is {self.root}; name one with --workspace")

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
        return self.scratch / "downloads"

    @property
    def published(self) -> Path:
        """Folder of what is published to the Hub, one folder for each dataset or part of one."""
        return self.scratch / "published"

    @property
    def records(self) -> Path:
        """Root of all records: see ``fmcs_bench.results.records``."""
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
        return self.scratch / "saliency"

    def state(self, unit: str) -> Path:
        """Where the unfinished training of a unit of work keeps its state; removed when the unit is done."""
        return self.scratch / "work" / f"{unit}.pt"

    @property
    def leaderboard(self) -> Path:
        """Folder of the generated page."""
        return self.scratch / "leaderboard"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace for this process while the block runs.

        Raises:
            WorkspaceError: it cannot be written, or another process holds it.
        """
        if isinstance(self.root, UrlPath):
            with bucket_lock.held(self.root / ".lock"):
                yield
            return
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
