"""A published folder as `fmcs-bench publish` lays it out, without maps.zarr: Parquet files, card, publication.json."""

from pathlib import Path

import yaml

from fmcs_bench import environment, files
from fmcs_bench.hub import parquet
from fmcs_bench.store import FmcsDataset
from fmcs_bench.store.part import Part
from fmcs_bench.store.publication import FILE, PARQUET, Publication
from fmcs_bench.store.schema import FileEntry


def publish(
    dataset: FmcsDataset, folder: Path, part: Part | None = None, **changes
) -> tuple[parquet.ParquetSplit, ...]:
    written = parquet.export(dataset, folder, part or Part.of(dataset.manifest))
    names = list(dict.fromkeys(split.configuration for split in written))
    card = {
        "configs": [
            {
                "config_name": name,
                "data_files": [
                    {"split": split.split, "path": f"{PARQUET}/{name}/{split.split}-*.parquet"}
                    for split in written
                    if split.configuration == name
                ],
            }
            for name in names
        ],
        "dataset_info": [{"config_name": name, "features": parquet.features_yaml(dataset.manifest)} for name in names],
    }
    folder.joinpath("README.md").write_text(f"---\n{yaml.safe_dump(card, sort_keys=False)}---\nA card.\n")
    write_publication(dataset, folder, written, **changes)
    return written


def write_publication(dataset, folder, written, **changes) -> None:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != FILE]
    entries = {
        path.relative_to(folder).as_posix(): FileEntry.make(
            num_bytes=path.stat().st_size, sha256=files.sha256_of_file(path)
        )
        for path in paths
    }
    values = {
        "dataset_id": dataset.id,
        "dataset_digest": dataset.manifest.dataset_digest,
        "parquet": tuple(written),
        "files": entries,
        "fmcs_bench": "0.1.0",
        "created": environment.now(),
    }
    content = Publication.make(**(values | changes)).to_json()
    files.write_atomically(folder / FILE, files.to_json(content))
