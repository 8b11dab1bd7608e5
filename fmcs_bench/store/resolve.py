"""What a person means by a workspace, a data set or a folder of images, found.

Flow: name, path, URL or nothing -> environment variables and defaults -> workspace, folder or opened FMCS dataset.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from fmcs_bench.core.errors import ConfigError, MissingDataError
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.store import schema
from fmcs_bench.store.location import Location, is_url
from fmcs_bench.store.reader import FmcsDataset, open_dataset


def all_datasets(workspace: Workspace) -> list[FmcsDataset]:
    """Every finished FMCS dataset of the workspace, by name.

    Raises:
        MissingDataError: there is none; the message says how to build one.
    """
    paths = sorted(path.parent for path in workspace.datasets.glob(f"[!.]*/{schema.MANIFEST}"))
    if not paths:
        raise MissingDataError(
            f"no FMCS dataset is in {workspace.datasets}; build one with `fmcs-bench build --backbone smallcnn`"
        )
    return [open_dataset(path) for path in paths]


def find_dataset(workspace: Workspace, dataset: FmcsDataset | PathLike) -> FmcsDataset:
    """A dataset by its name in the workspace, by its path or by its URL.

    Raises:
        MissingDataError: neither; the message has the nearest names.
    """
    return dataset if isinstance(dataset, FmcsDataset) else open_dataset(dataset_location(workspace, dataset))


def dataset_location(workspace: Workspace, dataset: FmcsDataset | PathLike) -> Location:
    """Where a dataset is, finished or not: an opened one, or by its name in the workspace, its path or its URL.

    Raises:
        ConfigError: the URL's protocol is unknown or needs a package.
        MissingDataError: neither; the message has the nearest names.
    """
    if isinstance(dataset, FmcsDataset):
        return dataset.location
    if is_url(dataset):
        return Location(os.fspath(dataset))
    for path in (workspace.dataset(str(dataset)), Path(dataset)):
        if path.is_dir():
            return Location(path)
    known = sorted(path.name for path in workspace.datasets.glob("[!.]*") if path.is_dir())
    close = difflib.get_close_matches(str(dataset), known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"it holds: {', '.join(known) or 'none'}"
    raise MissingDataError(f"there is no FMCS dataset {dataset} in {workspace.datasets}, nor a folder; {hint}")


def only_dataset(workspace: Workspace) -> FmcsDataset:
    """The workspace's only finished dataset.

    Raises:
        MissingDataError: there is none.
        ConfigError: there are several; nothing guesses which is meant.
    """
    found = all_datasets(workspace)
    if len(found) > 1:
        names = ", ".join(dataset.manifest.name for dataset in found)
        raise ConfigError(f"{workspace.datasets} holds several datasets ({names}); name the one to train on")
    return found[0]


def unfinished(workspace: Workspace) -> list[str]:
    """Names of the datasets of the workspace whose build was not finished."""
    return sorted(p.name for p in workspace.datasets.glob("[!.]*") if p.is_dir() and not (p / schema.MANIFEST).exists())


def workspace_at(workspace: PathLike | None) -> Workspace:
    """The workspace of that folder; see ``Workspace``."""
    return Workspace(workspace)


def image_folder(data_dir: PathLike | None) -> Path | None:
    """The folder with image files; None is ``FMCS_BENCH_DATA`` where it is set."""
    value = data_dir if data_dir is not None else os.environ.get("FMCS_BENCH_DATA")
    return Path(value) if value else None


def find_datasets(
    place: Workspace, datasets: FmcsDataset | PathLike | Iterable[FmcsDataset | PathLike]
) -> list[FmcsDataset]:
    """One or several, each as for ``find_dataset``."""
    several = [datasets] if isinstance(datasets, FmcsDataset | str | os.PathLike) else datasets
    return [find_dataset(place, dataset) for dataset in several]
