"""A folder as it is published, made of a real dataset."""

import json
from pathlib import Path

from fmcs_bench.core import files
from fmcs_bench.hub import folder as hub_folder
from fmcs_bench.hub.facts import Facts
from fmcs_bench.store import schema


def publish(dataset, folder, *, part=None, repo=None, superseded_by=None) -> Facts:
    """Publish into a folder; returns what its card is made of."""
    made = hub_folder.make(dataset, folder, part=part, repo=repo, superseded_by=superseded_by)
    return Facts.of(dataset.manifest, made, part=part, repo=repo)


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
