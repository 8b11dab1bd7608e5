"""The JSON files of a dataset that somebody else wrote, checked before anything that they name is fetched."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fmcs_bench.core import files
from fmcs_bench.core.errors import DatasetError, FmcsBenchError, MissingDataError
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import publication, schema
from fmcs_bench.store.location import Location, stays_inside
from fmcs_bench.store.publication import KINDS, PART, Part
from fmcs_bench.store.reader import FmcsDataset

HEADS = (publication.FILE, schema.MANIFEST, PART)
RESERVED = re.compile(r"(\.git|con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Parts of a name that Windows reads as a device, and the folder in which git finds programs to run."""


class Contents:
    """The JSON files of a dataset in a folder: valid, in agreement, and without a name that must not become a file."""

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self.source = folder, source
        with blamed_on(source, folder):
            self._dataset = FmcsDataset(folder, check=False)
            self.manifest = self._dataset.manifest
            for is_wrong, fault in (
                (not self.manifest.states_its_digest, f"{schema.MANIFEST} was changed: it does not have its digest"),
                (self.manifest.name != self.manifest.config.dataset_name, "its name is not that of its configuration"),
                (len({run.seed for run in self.manifest.runs}) != len(self.manifest.runs), "two runs have one seed"),
                (set(self.manifest.images.num_images) != set(SPLITS), f"its splits are not {', '.join(SPLITS)}"),
            ):
                if is_wrong:
                    raise DatasetError(fault)
            self.publication = publication.read(Location(folder), self.manifest)
            self.published: Mapping[str, schema.FileEntry] = {} if self.publication is None else self.publication.files
            own = {publication.FILE, schema.MANIFEST, PART, schema.DOWNLOAD}
            if wrong := own & self.manifest.files.keys() or {publication.FILE, schema.DOWNLOAD} & self.published.keys():
                raise DatasetError(f"{source} is damaged: it names {min(wrong)} as a file of the data")
            for name in HEADS:
                here, entry = folder / name, self.published.get(name)
                stated = name != publication.FILE and self.publication is not None
                if stated and here.is_file() and (entry is None or not is_whole(here, entry)):
                    raise DatasetError(f"{source}: {name} does not have the SHA-256 that {publication.FILE} states")
            check_names([*self.manifest.files, *(self.published.keys() - own), *own], source)
        part = self._dataset.part
        has_parquet = any(_is_parquet(name) for name in self.published)
        kinds = tuple(kind for kind in part.kinds if kind != "parquet" or has_parquet)
        if not kinds:
            raise DatasetError(f"{source} has neither maps nor Parquet files nor checkpoints")
        self.part, self._has_parquet = part.model_copy(update={"kinds": kinds}), has_parquet

    def files(self, part: Part) -> dict[str, schema.FileEntry]:
        """Size and SHA-256 of all files of a part, but those in ``HEADS``."""
        with blamed_on(self.source, self.folder):
            names = part.files(self.manifest, self._dataset.maps_per_shard)
        added = {
            name: entry
            for name, entry in self.published.items()
            if name not in HEADS and ("parquet" in part.kinds or not _is_parquet(name))
        }
        return {name: self.manifest.files[name] for name in sorted(names)} | added

    def part_file(self, part: Part) -> bytes | None:
        """Content of ``part.json`` of a folder with this part; None where nothing is left out."""
        complete = {"maps", "checkpoints"} <= set(part.kinds) and not self._has_parquet
        stated = part.model_copy(update={"kinds": KINDS}) if complete else part
        return None if stated.is_whole(self.manifest) else files.to_json(part.to_json())


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse names that cannot all be files below one folder, on any file system; ``where`` is for the message."""
    seen: dict[str, str] = {}
    for name in names:
        is_safe = stays_inside(name) and name.isprintable() and not re.search(r'[<>|"*]', name) and len(name) <= 1000
        if not is_safe or not all(map(_is_portable, name.split("/"))):
            raise DatasetError(
                f"{where} names a file that would lie outside its folder or that not every system can hold: "
                f"{name[:200]!r}; nothing was downloaded"
            )
        if (other := seen.setdefault(_one_form(name), name)) is not name:
            raise DatasetError(f"{where} names {other[:200]!r} and {name[:200]!r}, which are one file on some systems")
    for name in seen.values():
        for end in (found.start() for found in re.finditer("/", name)):
            if (file := seen.get(_one_form(name[:end]))) is not None:
                raise DatasetError(f"{where} names {file[:200]!r} as a file and, for {name[:200]!r}, as a folder")


def _is_portable(part: str) -> bool:
    return 0 < len(part.encode()) <= 255 and part[0] != " " and part[-1] not in " ." and not RESERVED.fullmatch(part)


def _one_form(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_parquet(name: str) -> bool:
    return name.startswith(f"{publication.PARQUET}/")


def is_whole(path: Path, entry: schema.FileEntry) -> bool:
    """Whether the file has this size and SHA-256."""
    return path.is_file() and path.stat().st_size == entry.num_bytes and files.sha256_of_file(path) == entry.sha256


def printable(text: str) -> str:
    """The beginning of a text, without characters that move the cursor of a terminal."""
    return "".join(character for character in text[:200] if character.isprintable())


@contextmanager
def blamed_on(source: str, folder: Path) -> Iterator[None]:
    """Errors of the readers of JSON, in one short line that names the source and not the folder it was put in."""
    try:
        yield
    except (FmcsBenchError, ValueError, RecursionError) as error:
        text = " ".join(printable(" ".join(str(error).replace(str(folder), source).split())[:500]).split())
        text = text if source in text else f"{source} is damaged: {text}"
        raise (MissingDataError if isinstance(error, MissingDataError) else DatasetError)(text) from None
