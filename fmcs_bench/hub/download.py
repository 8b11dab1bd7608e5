"""Brings a published or built FMCS dataset, or a part of one, into a folder of this machine.

Flow: source -> its JSON files, checked -> wanted files that are not here yet -> staging folder, each verified -> the
dataset's folder, by one rename; or, where the dataset is here already, file by file and ``part.json`` last.
Nothing that was not verified is ever in the dataset's folder, and a kill at any moment leaves what the same command
goes on with.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmcs_bench import __version__
from fmcs_bench.core import files
from fmcs_bench.core.environment import now
from fmcs_bench.core.errors import ConfigError, FmcsBenchError, MissingDataError, WorkspaceError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.hub.contents import Contents, Download, fetch_contents
from fmcs_bench.hub.patience import Attempts, Patience, fetch_small, patiently
from fmcs_bench.hub.source import Source, find_source, without_links
from fmcs_bench.hub.target import Entries, Here, move, write
from fmcs_bench.hub.transfer import MB, Staging, Transfer
from fmcs_bench.store import publication, schema
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.subset import FILE as PART
from fmcs_bench.store.subset import Part


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Kinds of files, runs (seeds) and stages (FMCS) that are wanted; None is all that the source has."""

    only: Iterable[str] | None = None
    runs: Iterable[int] | None = None
    stages: Iterable[int] | None = None

    def of(self, contents: Contents) -> Part:
        """The part of these contents."""
        return contents.wanted(self.only, self.runs, self.stages)


def download(
    typed: str,
    workspace: Workspace,
    *,
    to: Path | None = None,
    wish: Wish | None = None,
    revision: str | None = None,
    offline: bool = False,
    patience: Patience | None = None,
    progress: Progress = SILENT,
) -> FmcsDataset:
    """Download a dataset, go on with an unfinished download, add what is missing, or open it where all is here.

    Args:
        typed: an existing folder, ``owner/name[@revision]`` of the Hub, or a URL.
        workspace: gets the dataset, unless ``to`` is given, and the files of unfinished downloads.
        to: the dataset's folder.
        wish: a part of it.
        revision: branch, tag or commit of a repository of the Hub.
        offline: use no network; what is missing is an error. ``HF_HUB_OFFLINE`` does the same.
        patience: with servers.
        progress: shows the work; silent by default.

    Raises:
        MissingDataError: there is no such source, or, offline, files are not here.
        ConfigError: the source does not have what is wanted, or is none.
        WorkspaceError: the folder holds something else, cannot be written, or the disk is too small.
        DatasetError: the source is damaged, or contradicts itself.
        HubError: the source may not be read, or fails for too long.
    """
    from huggingface_hub import constants

    wish, patience = wish or Wish(), patience or Patience()
    source, note = find_source(typed, revision=revision, timeout=patience.timeout)
    if note:
        progress.say(note)
    if not source.is_here and (offline or constants.HF_HUB_OFFLINE):
        return _offline(source, workspace, to, wish)
    with workspace.locked(), _told_plainly():
        arrival = _Arrival(source, workspace, to, patience, progress)
        try:
            return arrival.bring(wish)
        finally:
            if not arrival.staging.has_begun:
                shutil.rmtree(arrival.staging.root, ignore_errors=True)


class _Arrival:
    """One download, from the source's JSON files to the opened dataset."""

    def __init__(
        self, source: Source, workspace: Workspace, to: Path | None, patience: Patience, progress: Progress
    ) -> None:
        self.source, self.workspace, self.to = source, workspace, to
        self.patience, self.progress = patience, progress
        self.staging = Staging(self._staging_root())

    def bring(self, wish: Wish) -> FmcsDataset:
        patiently(self.source.pin, Attempts(self.source.shown, self.patience, self.progress.say))
        contents = self._contents()
        target = self.to or self.workspace.dataset(contents.manifest.name)
        here = Here.look(target, contents)
        wanted = wish.of(contents)
        goal = wanted if here is None else _both(here.part, wanted, contents)
        needed = contents.files(goal)
        missing = needed if here is None else {n: e for n, e in needed.items() if not here.has(n, e)}
        self._say_what_else(contents, goal, wanted, here)
        if here is not None and not missing and here.is_current(contents, goal):
            self.progress.say(f"{target} has all of it; nothing was downloaded")
            return FmcsDataset(target)
        if absent := sorted(missing.keys() - contents.files(contents.part).keys()):
            raise ConfigError(
                f"{self.source.shown} does not have {len(absent)} files that {target} would need beside what is there, "
                f"such as {absent[0]}; download into a folder of its own with --to"
            )
        self._belongs_to(contents)
        self._check_space(missing, target)
        if missing:
            transfer = Transfer(self.source, missing, self.staging, self.patience, self.progress)
            transfer.run(f"downloading {contents.manifest.name}")
        if here is None:
            self._appear(target, contents, goal)
        else:
            self._add(target, contents, goal, missing, here)
        shutil.rmtree(self.staging.root)
        return FmcsDataset(target)

    def _staging_root(self) -> Path:
        """A folder for this source, on the disk where the dataset goes, so that it can be moved there."""
        name = re.sub(r"[^\w.-]+", "-", self.source.shown)[-60:].strip("-.")
        name += "-" + hashlib.sha256(f"{self.source.shown} {self.source.asked}".encode()).hexdigest()[:12]
        goes_to = self.to.absolute().parent if self.to is not None else self.workspace.datasets
        nearest = next(path for path in (goes_to, *goes_to.absolute().parents) if path.exists())
        if nearest.stat().st_dev == self.workspace.root.stat().st_dev:
            return without_links(self.workspace.downloads, name)
        goes_to.mkdir(parents=True, exist_ok=True)
        return without_links(goes_to, f".{name}.download")

    def _contents(self) -> Contents:
        """What the source holds; from here, where the same revision of it was downloaded before."""
        for folder, former in _received(self.source, self.workspace, self.to):
            if self.source.revision is not None and former.revision == self.source.revision:
                with suppress(FmcsBenchError):  # the folder was changed: read the source instead
                    return Contents(folder, self.source.shown, former.available)
        heads = without_links(self.staging.root, "heads")

        def fetch(name: str, limit: int) -> bytes:
            return fetch_small(self.source, name, limit, self.patience, self.progress.say)

        contents = fetch_contents(fetch, heads, self.source.shown)
        if contents.publication is not None and contents.publication.superseded_by is not None:
            newer = "".join(c for c in contents.publication.superseded_by[:200] if c.isprintable())
            self.progress.say(f"{self.source.shown} is superseded by {newer}")
        return contents

    def _say_what_else(self, contents: Contents, goal: Part, wanted: Part, here: Here | None) -> None:
        if here is None:
            return
        asked = contents.files(wanted).keys() | contents.files(here.part).keys()
        if also := contents.files(goal).keys() - asked:
            self.progress.say(
                f"{len(also)} more files come with it: a folder holds the same kinds of files and the same stages of "
                f"each of its runs; here {', '.join(goal.kinds)} of runs {_listed(goal.runs)}, stages "
                f"{_listed(goal.stages)}. Use --to for a folder of its own"
            )

    def _belongs_to(self, contents: Contents) -> None:
        """Drop what was fetched of another version."""
        note = without_links(self.staging.root, "of")
        heads = [contents.folder / name for name in (schema.MANIFEST, publication.FILE)]
        key = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in heads if path.is_file()).hex().encode()
        if not note.is_file() or note.read_bytes() != key:
            for name in ("files", "partial"):
                folder = without_links(self.staging.root, name)
                if folder.exists():
                    shutil.rmtree(folder)
            files.write_atomically(note, key)

    def _check_space(self, missing: Entries, target: Path) -> None:
        per_file = 4096  # the smallest unit of most file systems
        needed = sum(e.num_bytes - self.staging.bytes_of(n, e) + per_file for n, e in missing.items())
        free = shutil.disk_usage(self.staging.root).free
        if needed > free:
            raise WorkspaceError(
                f"{target} needs {needed:,} bytes more, and {free:,} bytes are free; free some space, choose another "
                "disk with --workspace or --to, or ask for less with --only, --runs and --stages"
            )

    def _appear(self, target: Path, contents: Contents, goal: Part) -> None:
        """The first download: everything is put together beside, and appears by one rename."""
        folder = self.staging.files
        folder.mkdir(parents=True, exist_ok=True)
        needed = contents.files(goal)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # not empty
                    path.rmdir()
            elif path.relative_to(folder).as_posix() not in needed:
                path.unlink()  # of a former, larger wish
        self._write_heads(folder, contents, goal)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            target.rmdir()  # it is empty
        folder.rename(target)

    def _add(self, target: Path, contents: Contents, goal: Part, missing: Entries, here: Here) -> None:
        for name in missing:
            move(without_links(self.staging.root, f"files/{name}"), without_links(target, name))
        if contents.publication is not None:
            for name in here.published.keys() - contents.publication.files.keys():
                without_links(target, name).unlink(missing_ok=True)
        self._write_heads(target, contents, goal)

    def _write_heads(self, folder: Path, contents: Contents, goal: Part) -> None:
        """Manifest, publication and where it is from; what is there comes last."""
        for name in (schema.MANIFEST, publication.FILE):
            if (contents.folder / name).is_file():
                write(folder, name, (contents.folder / name).read_bytes())
        former = Download.make(
            source=self.source.shown,
            asked=self.source.asked,
            revision=self.source.revision,
            dataset_digest=contents.manifest.dataset_digest,
            available=contents.part,
            fmcs_bench=__version__,
            downloaded=now(),
        )
        write(folder, schema.DOWNLOAD, files.to_json(former.to_json()))
        if (part := contents.written(goal)) is not None:
            write(folder, PART, files.to_json(part.to_json()))
        else:
            (folder / PART).unlink(missing_ok=True)


def _offline(source: Source, workspace: Workspace, to: Path | None, wish: Wish) -> FmcsDataset:
    """The dataset, where all that is wanted of it is here.

    Raises:
        MissingDataError: it is not.
    """
    found = [
        (folder, former)
        for folder, former in _received(source, workspace, to)
        if source.asked in (None, former.asked, former.revision)
    ]
    where = source.shown + (f"@{source.asked}" if source.asked else "")
    if not found:
        raise MissingDataError(
            f"offline, and no download of {where} is in {to or workspace.datasets}; type the command again without "
            "--offline and HF_HUB_OFFLINE"
        )
    if len(found) > 1:
        names = ", ".join(str(folder) for folder, _ in found)
        raise ConfigError(f"several downloads of {where} are here ({names}); name one with --to")
    folder, former = found[0]
    contents = Contents(folder, where, former.available)
    missing = {
        name: entry
        for name, entry in contents.files(wish.of(contents)).items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != entry.num_bytes
    }
    if missing:
        size = sum(entry.num_bytes for entry in missing.values())
        raise MissingDataError(
            f"offline, and {len(missing)} files ({size / MB:,.1f} MB) of {where} are not in {folder}: "
            f"{', '.join(sorted(missing)[:10])}{', ...' if len(missing) > 10 else ''}; type the command again without "
            "--offline and HF_HUB_OFFLINE"
        )
    return FmcsDataset(folder)


def _received(source: Source, workspace: Workspace, to: Path | None) -> Iterator[tuple[Path, Download]]:
    """Folders that a download of this source wrote."""
    for folder in [to] if to is not None else sorted(workspace.datasets.glob("*")):
        with suppress(OSError, ValueError, RecursionError):  # not written by us: then it is not one of these
            former = Download.from_json(json.loads((folder / schema.DOWNLOAD).read_bytes()))
            if former.source == source.shown:
                yield folder, former


def _both(here: Part, wanted: Part, contents: Contents) -> Part:
    """The smallest part that holds two."""
    whole = Part.of(contents.manifest)
    both: dict[str, Any] = {
        name: tuple(v for v in getattr(whole, name) if v in getattr(here, name) or v in getattr(wanted, name))
        for name in ("kinds", "runs", "stages", "splits")
    }
    return whole.model_copy(update=both)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


@contextmanager
def _told_plainly() -> Iterator[None]:
    """Faults of the disk as our errors; that it is full has its own line at the command."""
    try:
        yield
    except FmcsBenchError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        place = error.filename or "a file"
        raise WorkspaceError(
            f"{place} cannot be written ({os.strerror(error.errno or 0)}); choose another folder with --workspace or "
            "--to"
        ) from None
