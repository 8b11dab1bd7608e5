"""Copies a published folder, or a data set as it was built, to a place that fsspec writes, such as a bucket.

Flow: folder, URL -> what lies there: nothing, a beginning of this, or all of it -> every file sent, and read back for
its SHA-256 -> the manifests, ``dataset.json`` last: without it readers refuse what was not finished.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.hub.upload import LAST, TEXTS, require_same
from fmcs_bench.store import publication, schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.publication import Publication
from fmcs_bench.store.reader import read_manifest

PARALLEL = 8
"""Files at the same time."""


def copy(folder: Path, place: Location, *, progress: Progress = SILENT) -> bool:
    """Make the place hold exactly this folder; a copy that was stopped goes on.

    Args:
        folder: made by ``fmcs_bench.hub.folder`` or by a build, and whole.
        place: where it goes.
        progress: shows files.

    Returns:
        Whether anything was sent: False where all of it was there.

    Raises:
        ConfigError: the place holds something else, or cannot be listed.
        WorkspaceError: it cannot be written.
        DatasetError: it cannot be read, or gives other bytes than it was given.
    """
    manifest = read_manifest(Location(folder))
    is_published = (folder / publication.FILE).is_file()
    mine = Publication.from_json(json.loads((folder / publication.FILE).read_bytes())) if is_published else None
    entries = manifest.files | ({} if mine is None else mine.files)
    entries |= {name: schema.FileEntry.of(folder / name) for name in LAST if (folder / name).is_file()}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    there = look(place)
    before = _publication(place, there)
    foreign = frozenset(there) - frozenset(names)
    if mine is not None:
        require_same(str(place), "place", "--to", mine, before, foreign)
    elif foreign:
        raise ConfigError(f"{place} holds other files, such as {min(foreign)}; choose another --name")
    if schema.MANIFEST in there and place.read_bytes(schema.MANIFEST) != (folder / schema.MANIFEST).read_bytes():
        raise ConfigError(f"{place} holds another data set, and published data never changes; use another --to")
    last = [name for name in LAST if name in names]
    first = [name for name in names if name not in LAST]

    def is_whole(name: str) -> bool:
        return place.sha256(name) == entries[name].sha256

    def send(name: str) -> None:
        if there.get(name) == entries[name].num_bytes:
            if before is not None and name not in (*LAST, *TEXTS):
                return  # it was read back before the publication there was written
            if is_whole(name):
                return
        place.put(folder / name, name)
        if not is_whole(name):
            raise DatasetError(f"{place.shown(name)} does not hold what was sent there; type the command again")

    if all(there.get(name) == entries[name].num_bytes for name in names) and all(map(is_whole, last)):
        return False
    with progress.task(f"copying {manifest.name}", len(names)) as task, ThreadPoolExecutor(PARALLEL) as pool:
        sent = [pool.submit(send, name) for name in first]
        try:
            for future in sent:
                future.result()
                task.advance()
        finally:
            pool.shutdown(cancel_futures=True)
        for name in last:
            send(name)
            task.advance()
    return True


def look(place: Location) -> dict[str, int]:
    """Sizes of the files of a place that is to be written, by their names.

    Raises:
        ConfigError: it is a repository of the Hub, or cannot be listed.
        DatasetError: it cannot be read.
    """
    if place.place.startswith("hf://"):
        raise ConfigError(f"{place} is a place of the Hub; give --repo owner/name, which uploads in few commits")
    there = place.sizes(())
    if there is None:
        raise ConfigError(f"{place} cannot be listed, so nothing is copied there; give --to a folder or a bucket")
    return there


def _publication(place: Location, there: dict[str, int]) -> Publication | None:
    """What was published there before; None where that was not finished."""
    if publication.FILE not in there:
        return None
    data = place.read_bytes(publication.FILE)
    try:
        return Publication.from_json(json.loads(data))
    except ValueError as error:
        raise ConfigError(f"{place} holds a damaged {publication.FILE} ({error}); use another --to") from None
