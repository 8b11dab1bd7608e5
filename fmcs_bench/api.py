"""The road as Python functions; each does what the command of its name does and returns an object that prints.

What takes a second to import, as statistics and figures do, is imported where it is needed: many only read maps. That
is also why ``train``, ``explain`` and ``load`` are not here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.store.location import Location
from fmcs_bench.store.reader import FmcsDataset, find_dataset

if TYPE_CHECKING:
    from fmcs_bench.hub.publish import Published


def publish(
    dataset: FmcsDataset | PathLike,
    *,
    to: PathLike | None = None,
    repo: str | None = None,
    public: bool = False,
    kinds: Iterable[str] | None = None,
    runs: Iterable[int] | None = None,
    stages: Iterable[int] | None = None,
    splits: Iterable[str] | None = None,
    superseded_by: str | None = None,
    fidelity: PathLike | None = None,
    workspace: PathLike | None = None,
    agree: Callable[[str], bool] | None = None,
    progress: Progress = SILENT,
) -> Published:
    """Make a Hugging Face dataset repository of an FMCS dataset, in a folder, on the Hub or at a URL such as a bucket.

    Args:
        dataset: opened, or a name or path.
        to: the folder or URL; new, empty, or an earlier publication of the same. With a URL, or ``repo`` alone, the
            folder lies in the workspace.
        repo: ``owner/name`` on the Hub; private unless ``public``.
        public: let everyone see the repository, once everything is there.
        kinds: ``maps``, ``parquet``, ``checkpoints``; None is all.
        runs: seeds; None is every run.
        stages: FMCS, 1 .. K; None is every stage.
        splits: ``train``, ``validation``, ``test``, ``unseen``; None is every split.
        superseded_by: repository or URL of the version to use instead; a notice is shown to whoever opens this one.
        fidelity: file with the line of ``benchmarks/fidelity.py`` about this dataset; its card shows it.
        workspace: see ``Workspace``.
        agree: asked before anything is sent, with what is about to be sent; None sends.
        progress: shows the work; silent by default.

    Raises:
        FmcsBenchError: see ``fmcs_bench.hub.publish`` and ``fmcs_bench.hub.upload``.
    """
    from fmcs_bench.hub import publish as publishing

    place = Workspace(workspace)
    return publishing.publish(
        find_dataset(place, dataset),
        place,
        to=None if to is None else Location(os.fspath(to)),
        repo=repo,
        public=public,
        wanted={"kinds": kinds, "runs": runs, "stages": stages, "splits": splits},
        superseded_by=superseded_by,
        fidelity=None if fidelity is None else Path(fidelity),
        agree=agree,
        progress=progress,
    )
