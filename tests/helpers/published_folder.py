"""What tests do with folders that were published."""

import json

from fmcs_bench.core import files
from fmcs_bench.hub.card import Facts
from fmcs_bench.store import schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.publication import read
from fmcs_bench.store.reader import read_manifest, read_part


def facts_of(folder) -> Facts:
    """What the card in a published folder is made of."""
    place = Location(folder)
    manifest = read_manifest(place)
    return Facts(manifest=manifest, publication=read(place, manifest), part=read_part(place, manifest))


def tree(folder):
    """Bytes of every file below a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(manifest, **values):
    """A manifest with other values; ``images__licence`` is a value inside ``images``."""
    content = json.loads(manifest.model_dump_json())
    for name, value in values.items():
        *outer, last = name.split("__")
        place = content
        for key in outer:
            place = place[key]
        place[last] = value
    return schema.Manifest.from_json(content)


def restate(folder, *names, **values):
    """Write ``publication.json`` again, so that it states the files as they are now; ``values`` replace others."""
    value = json.loads((folder / "publication.json").read_bytes())
    for name in names or value["files"]:
        value["files"][name] = schema.FileEntry.of(folder / name).to_json()
    (folder / "publication.json").write_bytes(files.to_json(value | values))


def change_manifest(folder, change):
    """Let ``change`` edit the manifest's JSON, and give it the digest and the publication that fit."""
    value = json.loads((folder / "dataset.json").read_bytes())
    change(value)
    manifest = schema.Manifest.from_json(value)
    digest = schema.dataset_digest(manifest.config, manifest.images, manifest.files)
    manifest = manifest.model_copy(update={"dataset_digest": digest})
    (folder / "dataset.json").write_bytes(files.to_json(manifest.to_json()))
    restate(folder, "dataset.json", dataset_digest=digest, dataset_id=manifest.id)
