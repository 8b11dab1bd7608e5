"""A published folder, as `fmcs-bench publish` leaves it, made of a dataset; and a hub to get it from."""

import shutil

from fmcs_bench.core import files
from fmcs_bench.store import schema
from fmcs_bench.store.publication import ParquetSplit, Publication
from fmcs_bench.store.subset import Part

PARQUET = "parquet/default/test-00000-of-00001.parquet"


def entry_of(path):
    return schema.FileEntry.make(num_bytes=path.stat().st_size, sha256=files.sha256_of_file(path))


def publish(dataset, folder, *, superseded_by=None, readme="# Card\n", **part):
    """Copy a dataset, or a part of it, and add what publishing adds."""
    chosen = Part.of(dataset.manifest, **part)
    for name in [*chosen.files(dataset.manifest, dataset.maps_per_shard), schema.MANIFEST]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.path / name, folder / name)
    added = {"README.md": readme.encode(), "figures/run-0.png": b"picture" * 30}
    if "parquet" in chosen.kinds:
        added[PARQUET] = b"PAR1" * 5000
    if part:
        added["part.json"] = files.to_json(chosen.to_json())
    for name, data in added.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_publication(dataset, folder, [*added, schema.MANIFEST], superseded_by)
    return folder


def write_publication(dataset, folder, names, superseded_by=None, **more):
    split = ParquetSplit(configuration="default", split="test", files=(PARQUET,), num_rows=1, memory_bytes=1)
    made = Publication(
        dataset_id=dataset.id,
        dataset_digest=dataset.manifest.dataset_digest,
        parquet=(split,) if PARQUET in names else (),
        files={name: entry_of(folder / name) for name in names} | more,
        superseded_by=superseded_by,
        fmcs_bench="0",
        created="2026-01-01T00:00:00+00:00",
    )
    (folder / "publication.json").write_bytes(files.to_json(made.to_json()))


def tree(folder):
    """Bytes of every file below a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
