"""What publishing adds to an FMCS dataset's folder: ``publication.json`` and the files that it names.

Flow: published folder or repository -> ``publication.json`` -> size and SHA-256 of every file that ``dataset.json``
does not name. The dataset's own manifest and digest stay as they are; only ``superseded_by`` and ``fidelity`` may
change later.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from fmcs_bench.core.environment import Sha256
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.core.options import Options
from fmcs_bench.store import schema
from fmcs_bench.store.fidelity import Fidelity
from fmcs_bench.store.location import Location, stays_inside

FILE = "publication.json"
PARQUET = "parquet"
"""Folder of the Parquet files, ``parquet/<configuration>/<split>-00000-of-00001.parquet``."""
CONFIGURATIONS: dict[str, dict[str, tuple[schema.Role, str]]] = {
    "default": {"train": ("training", "train"), "validation": ("validation", "validation"), "test": ("test", "test")},
    "same_run": {"test": ("training", "test")},
    "unseen": {"test": ("test", "unseen")},
}
"""Of the Parquet files: configuration -> its splits -> role of the runs and split of the images that they hold."""


class ParquetSplit(Options):
    """One split of one configuration, and its files in their order."""

    configuration: str
    split: str
    files: tuple[str, ...]
    num_rows: int = Field(ge=0)
    memory_bytes: int = Field(ge=0, description="as Arrow tables in memory")


class Publication(Options):
    """Content of ``publication.json``.

    ``files`` are all files beside it that are not named by ``dataset.json``, and ``dataset.json`` itself.
    """

    schema_version: Literal[1] = 1
    dataset_id: str
    dataset_digest: Sha256
    parquet: tuple[ParquetSplit, ...]
    files: dict[str, schema.FileEntry]
    superseded_by: str | None = Field(None, description="repository or URL of the version to use instead")
    fidelity: Fidelity | None = Field(None, description="what q8 does to the scores of evaluators")
    fmcs_bench: str
    created: str

    added_later = frozenset({"fidelity"})

    @property
    def stored_bytes(self) -> int:
        """Of ``files``."""
        return sum(entry.num_bytes for entry in self.files.values())


def read(location: Location, manifest: schema.Manifest) -> Publication | None:
    """The publication of a dataset, valid and of this manifest; None where it was not published.

    Raises:
        DatasetError: it is damaged, of another schema, of another dataset, or names files outside the folder.
    """
    file = location.shown(FILE)
    try:
        value = json.loads(location.read_bytes(FILE))
    except MissingDataError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from None
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != 1:
        raise DatasetError(f"{file} has schema {version!r}; this version of fmcs-bench reads 1")
    try:
        found = Publication.from_json(value)
    except ConfigError as error:
        raise DatasetError(f"{file} is damaged: {error}") from None
    if (found.dataset_id, found.dataset_digest) != (manifest.id, manifest.dataset_digest):
        raise DatasetError(f"{file} belongs to another dataset: {found.dataset_id}, and not {manifest.id}")
    if found.fidelity is not None and not found.fidelity.is_of(manifest):
        raise DatasetError(f"{file} has the fidelity of other datasets, and not of {manifest.id}")
    for name in found.files:
        if not stays_inside(name) or name in manifest.files:
            raise DatasetError(f"{file} names a file outside the folder, or one of {schema.MANIFEST}: {name!r}")
    return found
