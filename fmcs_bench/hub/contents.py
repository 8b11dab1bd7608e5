"""What a place holds: manifest, publication and part, read from a stranger, checked, and what of it is wanted.

Flow: source -> its few JSON files into ``heads/``, bounded -> ``Contents``, each compared with the others ->
``wanted`` kinds, runs, stages -> name, size and SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fmcs_bench.core import files
from fmcs_bench.core.environment import Sha256
from fmcs_bench.core.errors import ConfigError, DatasetError, FmcsBenchError, MissingDataError
from fmcs_bench.core.options import Options
from fmcs_bench.hub.names import check_names
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import publication, schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.subset import FILE as PART
from fmcs_bench.store.subset import KINDS, Part, chosen

LARGEST_HEAD = 256_000_000
"""Bytes of ``dataset.json`` or ``publication.json``; a million files need about 130 MB."""
HEADS = (publication.FILE, schema.MANIFEST, PART)
"""In this order: what is checked against what."""

Fetch = Callable[[str, int], bytes]
"""Bytes of a file by its name, at most so many; raises ``MissingDataError`` where there is none."""


class Download(Options):
    """Content of ``download.json``: where a folder came from, and how much there was to be had."""

    schema_version: Literal[1] = 1
    source: str
    asked: str | None
    revision: str | None
    dataset_digest: Sha256
    available: Part
    fmcs_bench: str
    downloaded: str


class Contents:
    """A folder with the JSON files of a dataset, valid, in agreement, and without anything that must not become a file.

    Args:
        folder: with ``dataset.json``; ``publication.json`` and ``part.json`` may be there.
        shown: what messages name, and not this folder.
        available: what of the dataset is there, where ``part.json`` does not say it.

    Attributes:
        manifest: content of ``dataset.json``.
        publication: content of ``publication.json``, or None.
        part: what of the dataset is there; without ``parquet`` where nothing of that was published.

    Raises:
        FmcsBenchError: see ``fmcs_bench.store``; and where one file contradicts another.
    """

    def __init__(self, folder: Path, shown: str, available: Part | None = None) -> None:
        self.folder, self.shown = folder, shown
        with blamed_on(folder, shown):
            self._dataset = FmcsDataset(folder, check=False)
            self.manifest = self._dataset.manifest
            self._check_manifest()
            self.publication = publication.read(Location(folder), self.manifest)
            published = {} if self.publication is None else self.publication.files
            self._check_heads(published)
            ours = {*HEADS, schema.DOWNLOAD}
            check_names([*self.manifest.files, *(published.keys() - ours), *ours], shown)
        self.has_parquet = any(_is_parquet(name) for name in published)
        part = available or self._dataset.part
        kinds = tuple(kind for kind in part.kinds if kind != "parquet" or self.has_parquet)
        if not kinds:
            raise DatasetError(f"{shown} has neither maps nor Parquet files nor checkpoints")
        self.part = part.model_copy(update={"kinds": kinds})

    def _check_manifest(self) -> None:
        manifest, file = self.manifest, f"{self.shown}/{schema.MANIFEST}"
        if not manifest.states_its_digest:
            raise DatasetError(f"{file} was changed: its content does not have its digest")
        if manifest.name != manifest.config.dataset_name:
            raise DatasetError(f"{file} is damaged: its name is not that of its configuration")
        if len({run.seed for run in manifest.runs}) != len(manifest.runs):
            raise DatasetError(f"{file} is damaged: two runs have one seed")
        if set(manifest.images.num_images) != set(SPLITS):
            raise DatasetError(f"{file} is damaged: its splits are not {', '.join(SPLITS)}")
        if wrong := {*HEADS, schema.DOWNLOAD} & manifest.files.keys():
            raise DatasetError(f"{file} is damaged: it names {min(wrong)}, which is no file of the data")

    def _check_heads(self, published: dict[str, schema.FileEntry]) -> None:
        if self.publication is None:
            return
        if wrong := {publication.FILE, schema.DOWNLOAD} & published.keys():
            raise DatasetError(f"{self.shown}/{publication.FILE} is damaged: it names {min(wrong)}")
        data = (self.folder / schema.MANIFEST).read_bytes()
        if (entry := published.get(schema.MANIFEST)) is None or not fits(data, entry):
            raise DatasetError(
                f"{self.shown}: {schema.MANIFEST} does not have the SHA-256 that {publication.FILE} says; one of them "
                "was changed"
            )

    def wanted(
        self,
        only: Iterable[str] | None = None,
        runs: Iterable[int] | None = None,
        stages: Iterable[int] | None = None,
    ) -> Part:
        """A part of what is there; None is all.

        Raises:
            ConfigError: something that is not there.
        """
        try:
            return self.part.model_copy(
                update={
                    "kinds": chosen(only, self.part.kinds, "only"),
                    "runs": chosen(runs, self.part.runs, "run"),
                    "stages": chosen(stages, self.part.stages, "stage"),
                }
            )
        except ConfigError as error:
            raise ConfigError(f"{self.shown} does not have all that was asked for: {error}") from None

    def files(self, part: Part) -> dict[str, schema.FileEntry]:
        """Size and SHA-256 of all files of a part, but those in ``HEADS``.

        Raises:
            DatasetError: the metadata of an array is damaged.
        """
        with blamed_on(self.folder, self.shown):
            names = part.files(self.manifest, self._dataset.maps_per_shard)
        found = {name: self.manifest.files[name] for name in sorted(names)}
        if self.publication is not None:
            found |= {
                name: entry
                for name, entry in sorted(self.publication.files.items())
                if name not in HEADS and ("parquet" in part.kinds or not _is_parquet(name))
            }
        return found

    def written(self, part: Part) -> Part | None:
        """What ``part.json`` says of a folder with this part; None where nothing is left out and there is none."""
        everything = Part.of(self.manifest)
        complete = {"maps", "checkpoints"} <= set(part.kinds) and not self.has_parquet
        filled = part.model_copy(update={"kinds": KINDS}) if complete else part
        return None if filled == everything else part


def fetch_contents(fetch: Fetch, heads: Path, shown: str) -> Contents:
    """The contents of a source, whose JSON files are written into ``heads``, where they replace all others.

    Args:
        fetch: reads a file of the source.
        heads: a folder for the JSON files.
        shown: the source, for messages.

    Raises:
        MissingDataError: the source is no FMCS dataset.
        FmcsBenchError: see ``Contents``.
    """
    for name in HEADS:
        (heads / name).unlink(missing_ok=True)
    published = _fetch_publication(fetch, heads, shown)
    try:
        data = fetch(schema.MANIFEST, LARGEST_HEAD)
    except MissingDataError:
        raise MissingDataError(
            f"{shown} has no {schema.MANIFEST}: it is no FMCS data set, or one whose build is not finished"
        ) from None
    files.write_atomically(heads / schema.MANIFEST, data)
    if published is None or PART in published:
        try:
            part = fetch(PART, LARGEST_HEAD)
        except MissingDataError:
            if published is not None:
                raise
        else:
            if published is not None and not fits(part, published[PART]):
                raise DatasetError(f"{shown}: {PART} does not have the SHA-256 that {publication.FILE} says")
            files.write_atomically(heads / PART, part)
    contents = Contents(heads, shown)
    if not set(SPLITS) <= set(contents.part.splits):
        _fetch_array_metadata(fetch, heads, contents)
    return contents


def _fetch_publication(fetch: Fetch, heads: Path, shown: str) -> dict[str, schema.FileEntry] | None:
    try:
        data = fetch(publication.FILE, LARGEST_HEAD)
    except MissingDataError:
        return None
    files.write_atomically(heads / publication.FILE, data)
    with blamed_on(heads, shown):
        value = json.loads(data)
        if not isinstance(value, dict) or value.get("schema_version") != 1:
            version = value.get("schema_version") if isinstance(value, dict) else None
            raise DatasetError(
                f"{shown}/{publication.FILE} has schema {version!r}; this version of fmcs-bench reads 1: "
                "install a newer one"
            )
        return publication.Publication.from_json(value).files


def _fetch_array_metadata(fetch: Fetch, heads: Path, contents: Contents) -> None:
    """What tells which shards hold maps of a split."""
    for run in contents.manifest.runs:
        name = f"{schema.MAPS}/{schema.run_group(run.seed)}/feature_maps/zarr.json"
        entry = contents.manifest.files.get(name)
        data = fetch(name, 1_000_000) if entry is not None else b""
        if entry is None or not fits(data, entry):
            raise DatasetError(f"{contents.shown}/{name} is missing, or does not have its SHA-256")
        files.write_atomically(heads / name, data)


def fits(data: bytes, entry: schema.FileEntry) -> bool:
    """Whether these are the bytes of a file."""
    return len(data) == entry.num_bytes and hashlib.sha256(data).hexdigest() == entry.sha256


def _is_parquet(name: str) -> bool:
    return name.startswith(f"{publication.PARQUET}/")


@contextmanager
def blamed_on(folder: Path, shown: str) -> Iterator[None]:
    """Errors of the readers of JSON, in one short line that names the source and not the folder that it was put in."""

    def line(error: Any) -> str:
        text = " ".join(str(error).replace(str(folder), shown).split())
        return text if len(text) <= 500 else f"{text[:500]}..."

    try:
        yield
    except FmcsBenchError as error:
        raise (MissingDataError if isinstance(error, MissingDataError) else DatasetError)(line(error)) from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{shown} is damaged: {line(error)}") from None
