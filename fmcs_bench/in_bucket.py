"""What a workspace in a bucket needs a folder of this machine for: builds, and the page.

Flow: configuration -> built in the scratch folder, or gone on with -> copied, each file read back, the manifest last ->
removed here. Records and manifests -> a folder for the while -> the page, in the scratch folder.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from fmcs_bench.build.runner import build_dataset
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.store import schema
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.location import Location
from fmcs_bench.store.reader import FmcsDataset, open_dataset


def build(config: BuildConfig, place: Workspace, *, progress: Progress = SILENT, **options: Any) -> FmcsDataset:
    """Build a dataset here and bring it to the workspace, or open it where it is there.

    Args:
        config: what to build.
        place: the workspace, a folder or not; the caller holds its lock.
        progress: shows the work.
        **options: of ``fmcs_bench.build.runner.build_dataset``.

    Raises:
        FmcsBenchError: see ``build_dataset`` and ``fmcs_bench.hub.bucket``.
    """
    target = place.dataset(config.dataset_name)
    if place.is_here or (target / schema.MANIFEST).exists():
        return build_dataset(config, place, progress=progress, **options)
    from fmcs_bench.hub import bucket

    built = build_dataset(config, Workspace(place.scratch), progress=progress, **options)
    bucket.copy(built.path, Location(target), progress=progress)
    shutil.rmtree(built.path)
    return open_dataset(target)


def build_page(place: Workspace) -> Path:
    """Make the page of all records of the workspace; see ``fmcs_bench.leaderboard.build``."""
    from fmcs_bench.leaderboard import build as leaderboard

    if place.is_here:
        return leaderboard.build(place.records, place.leaderboard, datasets=[place.datasets])
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for path in (*place.records.glob("*/*/*/*/seed-*"), *place.datasets.glob(f"*/{schema.MANIFEST}")):
            copy = here / path.relative_to(place.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        return leaderboard.build(here / "records", place.leaderboard, datasets=[here / "datasets"])
