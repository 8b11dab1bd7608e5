"""What tests do with folders that were published."""

import json

from fmcs_bench.core import files
from fmcs_bench.hub import folder as hub_folder
from fmcs_bench.hub.facts import Facts
from fmcs_bench.store import schema


def publish(dataset, folder, *, part=None, repo=None, superseded_by=None) -> Facts:
    """Publish into a folder; returns what its card is made of."""
    made = hub_folder.make(dataset, folder, part=part, repo=repo, superseded_by=superseded_by)
    return Facts.of(dataset.manifest, made, part=part, repo=repo)


def entry(path) -> schema.FileEntry:
    return schema.FileEntry(num_bytes=path.stat().st_size, sha256=files.sha256_of_file(path))


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
