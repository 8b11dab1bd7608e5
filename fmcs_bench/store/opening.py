"""What is looked at before a dataset is read: its manifest, which part of it is there, and that this part is complete.

Flow: location -> ``dataset.json``, valid -> ``part.json``, if any -> the files that must be there -> sizes compared.
"""

from __future__ import annotations

import json

from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.store import schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.subset import FILE as PART
from fmcs_bench.store.subset import Part


def read_manifest(location: Location) -> schema.Manifest:
    """The manifest in a dataset's folder, valid in itself; nothing is compared with it.

    Raises:
        MissingDataError: there is no such folder.
        DatasetError: there is none, or it is damaged, or of another schema.
    """
    file = location.shown(schema.MANIFEST)
    if location.local is not None:
        if not location.local.is_dir():
            raise MissingDataError(f"there is no FMCS dataset at {location}; build one with `fmcs-bench build`")
        if not (location.local / schema.MANIFEST).is_file():
            raise DatasetError(
                f"{location} is unfinished (no {schema.MANIFEST}); type its build command again to go on"
            )
    try:
        content = location.read_bytes(schema.MANIFEST)
    except MissingDataError:
        raise MissingDataError(f"there is no finished FMCS dataset at {location} (no {schema.MANIFEST})") from None
    try:
        value = json.loads(content)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != schema.SCHEMA_VERSION:
            raise DatasetError(
                f"{location} has schema {version!r}; this version of fmcs-bench reads {schema.SCHEMA_VERSION}"
            )
        return schema.Manifest.from_json(value)
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from None


def read_part(location: Location, manifest: schema.Manifest) -> Part:
    """What of a dataset is there: as its ``part.json`` says, or all.

    Raises:
        DatasetError: the file is damaged, or belongs to another dataset.
    """
    file = location.shown(PART)
    try:
        found = Part.from_json(json.loads(location.read_bytes(PART)))
        here = Part.of(manifest, kinds=found.kinds, runs=found.runs, stages=found.stages, splits=found.splits)
    except MissingDataError:
        return Part.of(manifest)
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from None
    if found.dataset_digest != manifest.dataset_digest:
        raise DatasetError(f"{file} belongs to another dataset: its digest is not that of {schema.MANIFEST}")
    return here


def check_files(location: Location, manifest: schema.Manifest, expected: frozenset[str]) -> None:
    """Refuse a half-copied dataset: every file is there, inside the folder, with its size.

    Args:
        location: of the dataset.
        manifest: its manifest.
        expected: names of the files that must be there.

    Raises:
        DatasetError: a file is missing, of another size, or outside the folder.
    """
    for name in manifest.files:
        if not location.keeps_inside(name):
            raise DatasetError(f"the manifest of {location} names a file outside its folder: {name!r}")
    sizes = location.sizes(expected)
    if sizes is None:
        return  # this place cannot list its files; each is looked at when it is read
    for name in sorted(expected):
        entry = manifest.files[name]
        if sizes.get(name) != entry.num_bytes:
            raise DatasetError(f"{location} is incomplete: {name} is missing or not of {entry.num_bytes:,} bytes")
