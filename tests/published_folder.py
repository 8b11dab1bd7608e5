"""A folder as it is published, made of a real dataset."""

import json
import shutil
from pathlib import Path

from fmcs_bench import __version__, files
from fmcs_bench.hub import card, croissant, parquet
from fmcs_bench.hub.facts import Facts
from fmcs_bench.store import schema
from fmcs_bench.store.part import Part
from fmcs_bench.store.publication import FILE, Publication

CREATED = "2026-11-22T04:10:23+00:00"


def publish(dataset, folder, *, repo=None) -> Facts:
    """Copy a dataset and add Parquet files, figures, card, Croissant metadata and ``publication.json``."""
    shutil.copytree(dataset.path, folder)
    splits = parquet.export(dataset, folder, Part.of(dataset.manifest))
    entries = {name: entry(folder / name) for split in splits for name in split.files}
    facts = Facts(manifest=dataset.manifest, parquet=splits, files=entries, created=CREATED, repo=repo)
    card.draw_figures(dataset, folder)
    (folder / card.FILE).write_text(card.card(facts), encoding="utf-8")
    (folder / croissant.FILE).write_bytes(croissant.encode(croissant.croissant(facts)))
    beside = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    publication = Publication.make(
        dataset_id=dataset.id,
        dataset_digest=dataset.manifest.dataset_digest,
        parquet=splits,
        files={name: entry(folder / name) for name in beside if name not in dataset.manifest.files},
        fmcs_bench=__version__,
        created=CREATED,
    )
    (folder / FILE).write_bytes(files.to_json(publication.to_json()))
    return facts


def entry(path: Path) -> schema.FileEntry:
    return schema.FileEntry(num_bytes=path.stat().st_size, sha256=files.sha256_of_file(path))


def changed(manifest: schema.Manifest, **values) -> schema.Manifest:
    """A manifest with other values; `images__licence` is a value inside `images`."""
    content = json.loads(manifest.model_dump_json())
    for name, value in values.items():
        *outer, last = name.split("__")
        place = content
        for key in outer:
            place = place[key]
        place[last] = value
    return schema.Manifest.from_json(content)
