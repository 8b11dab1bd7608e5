"""The folder that a dataset is downloaded into: what is there already, and how files come into it.

Flow: folder -> ``Here``: its part, its files, or a refusal where it holds something else -> files moved in, each whole.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fmcs_bench.core import files
from fmcs_bench.core.errors import DatasetError, FmcsBenchError, WorkspaceError
from fmcs_bench.hub.contents import Contents
from fmcs_bench.hub.source import without_links
from fmcs_bench.store import publication, schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.opening import read_manifest, read_part
from fmcs_bench.store.subset import Part

Entries = Mapping[str, schema.FileEntry]


@dataclass(frozen=True)
class Here:
    """A dataset that is in the target folder already."""

    folder: Path
    part: Part
    published: Entries

    @classmethod
    def look(cls, target: Path, contents: Contents) -> Here | None:
        """What is in the folder; None where it is empty, or there is none.

        Raises:
            WorkspaceError: something else than this dataset.
        """
        way_out = "choose another folder with --to, or move this one away"
        if not target.exists() and not target.is_symlink():
            return None
        if not target.is_dir():
            raise WorkspaceError(f"{target} is no folder; {way_out}")
        if not (target / schema.MANIFEST).exists():
            if not any(target.iterdir()):
                return None
            raise WorkspaceError(
                f"{target} holds an unfinished build, or files that are no data set (there is no {schema.MANIFEST}); "
                f"{way_out}"
            )
        try:
            manifest = read_manifest(Location(target))
            part = read_part(Location(target), manifest)
        except FmcsBenchError as error:
            raise WorkspaceError(f"{error}; {way_out}") from None
        if manifest.dataset_digest != contents.manifest.dataset_digest or not manifest.states_its_digest:
            raise WorkspaceError(
                f"{target} holds another data set or version, {manifest.id}, and not {contents.manifest.id}; {way_out}"
            )
        found = None
        with suppress(DatasetError):  # a former download was killed while it wrote; this one goes on
            found = publication.read(Location(target), manifest)
        kinds = tuple(kind for kind in part.kinds if kind != "parquet" or found is not None)
        part = part.model_copy(update={"kinds": kinds})
        return cls(target, part, {} if found is None else found.files)

    def has(self, name: str, entry: schema.FileEntry) -> bool:
        """Whether the file is in the folder. What the manifest names was verified when it came; see `verify`."""
        path = without_links(self.folder, name)
        if not path.is_file() or path.stat().st_size != entry.num_bytes:
            return False
        return not self._may_differ(name, entry) or files.sha256_of_file(path) == entry.sha256

    def _may_differ(self, name: str, entry: schema.FileEntry) -> bool:
        # The manifest's files are the same in all versions with its digest; those that publishing adds are not.
        is_added = not name.startswith((f"{schema.MAPS}/", f"{schema.CHECKPOINTS}/", f"{schema.TRAJECTORIES}/"))
        return is_added and self.published.get(name) != entry

    def is_current(self, contents: Contents, goal: Part) -> bool:
        """Whether the JSON files are those of the source, and ``part.json`` says what it will have to."""
        return contents.written(self.part) == contents.written(goal) and all(
            bytes_or_none(self.folder / name) == data
            for name in (schema.MANIFEST, publication.FILE)
            if (data := bytes_or_none(contents.folder / name)) is not None
        )


def move(path: Path, target: Path) -> None:
    """Move a file over another, whole or not at all, also to another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.part")  # the dataset's folder is a link to another disk
        shutil.copyfile(path, beside)
        beside.replace(target)


def write(folder: Path, name: str, data: bytes) -> None:
    """Write a file of a folder, whole or not at all, unless it is the same already."""
    path = without_links(folder, name)
    if bytes_or_none(path) != data:
        files.write_atomically(path, data)


def bytes_or_none(path: Path) -> bytes | None:
    """The bytes of a file, or None where there is none."""
    return path.read_bytes() if path.is_file() else None
