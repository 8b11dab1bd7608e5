"""The maps of an FMCS dataset as Parquet files, which Hugging Face's ``datasets`` and any Parquet reader load.

A row is one map, a fixed-size list of D * H * W float16 in C order; the data card explains the columns. Rows have the
order of ``FmcsDataset.sel``: by run, stage and image. Equal datasets give equal bytes.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fmcs_bench.core.environment import usable_cores
from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.files import PendingFile
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.store import schema
from fmcs_bench.store.map_array import gather
from fmcs_bench.store.publication import CONFIGURATIONS, PARQUET, ParquetSplit, Part
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.selection import MapSelection

MAPS = "feature_map"
"""Column of the maps."""
NUMBERS = ("image_id", "label", "run", "stage", "fmcs", "epoch")
FILE_BYTES = 500_000_000
"""Most bytes of maps in one file, before compression."""
GROUP_BYTES = 25 << 20
"""About the bytes of maps in a row group, before compression: what is decoded, written and streamed at once."""
MOST_WRITERS = 8
"""Files that are written at the same time; each takes about 16 row groups of memory, most of it pyarrow's."""
WRITER_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    # All high bytes of a page, then all low ones: they compress better so, in the same time.
    "column_encoding": {f"{MAPS}.list.element": "BYTE_STREAM_SPLIT"},
    "write_statistics": list(NUMBERS),  # readers skip row groups by them; over the values of maps they would cost time
}


@dataclass(frozen=True)
class PlannedSplit:
    """A split of a configuration that will be written."""

    configuration: str
    split: str
    seeds: tuple[int, ...]
    image_split: str
    num_rows: int
    num_files: int

    @property
    def files(self) -> tuple[str, ...]:
        """Names inside the published folder."""
        stem = f"{PARQUET}/{self.configuration}/{self.split}"
        return tuple(f"{stem}-{i:05d}-of-{self.num_files:05d}.parquet" for i in range(self.num_files))

    def rows(self, number: int) -> range:
        """Rows of a file; sizes differ by at most one."""
        return range(self.num_rows * number // self.num_files, self.num_rows * (number + 1) // self.num_files)


def plan(manifest: schema.Manifest, part: Part) -> list[PlannedSplit]:
    """Every split of every configuration that has rows in this part."""
    if part.dataset_digest != manifest.dataset_digest:
        raise ConfigError(f"the part is of the dataset {part.dataset_digest[:12]}, not of {manifest.id}")
    planned, left_out = [], []
    for configuration, splits in CONFIGURATIONS.items():
        for split, (role, image_split) in splits.items():
            seeds = tuple(run.seed for run in manifest.runs if run.role == role and run.seed in part.runs)
            num_rows = len(seeds) * len(part.stages) * manifest.images.num_images[image_split]
            if image_split not in part.splits or not num_rows:
                left_out.append(f"{configuration}/{split} needs a {role} run and images of the split {image_split}")
                continue
            num_files = max(1, -(-num_rows * map_bytes(manifest) // FILE_BYTES))
            planned.append(PlannedSplit(configuration, split, seeds, image_split, num_rows, num_files))
    if not planned:
        runs = ", ".join(f"{run.seed} ({run.role})" for run in manifest.runs if run.seed in part.runs)
        raise ConfigError(
            f"the runs {runs} with the splits {', '.join(part.splits)} of {manifest.name} give no Parquet file: "
            + "; ".join(left_out)
            + "; choose others, or publish without Parquet (--only maps --only checkpoints)"
        )
    return planned


def export(
    dataset: FmcsDataset, folder: Path, part: Part, *, resume: bool = False, progress: Progress = SILENT
) -> tuple[ParquetSplit, ...]:
    """Write the Parquet files of a part into ``folder/parquet``; a file is whole or absent.

    With ``resume``, files that are there stay: they must be of the same dataset and part.
    """
    manifest = dataset.manifest
    planned = plan(manifest, part)
    files = []
    for split in planned:
        selection = dataset.sel(split.seeds, part.stages, split.image_split)
        if len(selection) != split.num_rows:
            raise DatasetError(
                f"{dataset.location} has {len(selection):,} maps for {split.configuration}/{split.split}, and its "
                f"manifest {split.num_rows:,}; `fmcs-bench verify` names the fault"
            )
        files += [(folder / name, selection, split.rows(number)) for number, name in enumerate(split.files)]
    pool = ThreadPoolExecutor(max(1, min(usable_cores(), MOST_WRITERS)), "fmcs-bench-parquet")
    with progress.task(f"writing Parquet of {manifest.name}", sum(split.num_rows for split in planned)) as task:
        try:
            written = [
                None if resume and path.is_file() else pool.submit(_write, path, manifest, selection, rows)
                for path, selection, rows in files
            ]
            for (_, _, rows), done in zip(files, written, strict=True):
                if done is not None:
                    done.result()
                task.advance(len(rows))
        finally:
            pool.shutdown(cancel_futures=True)
    return tuple(
        ParquetSplit.make(
            configuration=split.configuration, split=split.split, files=split.files, num_rows=split.num_rows
        )
        for split in planned
    )


def map_bytes(manifest: schema.Manifest) -> int:
    """Of one map in float16."""
    return math.prod(manifest.map_shape) * np.dtype(np.float16).itemsize


def arrow_schema(manifest: schema.Manifest) -> pa.Schema:
    """Of the files; its metadata has the features for ``datasets``, and shape and dataset as ``fmcs_bench``."""
    number = {name: {"dtype": "int64", "_type": "Value"} for name in NUMBERS}
    features = number | {
        "label": {"names": list(manifest.images.classes), "_type": "ClassLabel"},
        "fmcs": {"names": [str(stage + 1) for stage in range(manifest.config.stages)], "_type": "ClassLabel"},
        "epoch": {"dtype": "float64", "_type": "Value"},
        MAPS: {
            # ``datasets`` forgets the id of a list, but not that of a value
            "feature": {"dtype": "float16", "id": "x".join(map(str, manifest.map_shape)), "_type": "Value"},
            "length": math.prod(manifest.map_shape),
            "_type": "List",
        },
    }
    types = {name: pa.float64() if name == "epoch" else pa.int64() for name in NUMBERS}
    types[MAPS] = pa.list_(pa.float16(), math.prod(manifest.map_shape))
    return pa.schema(
        types,
        metadata={
            "huggingface": json.dumps({"info": {"features": features}}),
            "fmcs_bench": json.dumps({"dataset_id": manifest.id, "map_shape": manifest.map_shape}),
        },
    )


def _write(path: Path, manifest: schema.Manifest, selection: MapSelection, rows: range) -> None:
    """Write some rows of a selection into a file, one row group at a time."""
    columns = arrow_schema(manifest)
    epochs = {run.seed: np.array([stage.epoch for stage in run.stages]) for run in manifest.runs}
    per_group = max(1, GROUP_BYTES // map_bytes(manifest))
    pending = PendingFile(path)
    try:
        with parquet.ParquetWriter(pending.stream, columns, **WRITER_OPTIONS) as writer:
            for start in range(0, len(rows), per_group):
                table = _table(selection, rows[start : start + per_group], columns, epochs)
                writer.write_table(table, row_group_size=len(table))
    except BaseException:
        pending.discard()
        raise
    pending.commit()


def _table(selection: MapSelection, rows: range, columns: pa.Schema, epochs: dict[int, np.ndarray]) -> pa.Table:
    here = slice(rows.start, rows.stop)
    stages_M, runs_M = selection.stages_M[here], selection.runs_M[here]
    maps_MDHW = gather(selection.arrays, selection.source_M[here], stages_M, selection.image_M[here], threads=1)
    values = {
        "image_id": selection.image_ids_M[here],
        "label": selection.labels_M[here],
        "run": runs_M,
        "stage": stages_M + 1,
        "fmcs": stages_M,
        "epoch": np.array([epochs[seed][stage] for seed, stage in zip(runs_M.tolist(), stages_M, strict=True)]),
    }
    arrays = [pa.array(values[name], columns.field(name).type) for name in NUMBERS]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(maps_MDHW.reshape(-1)), maps_MDHW[0].size))
    return pa.Table.from_arrays(arrays, schema=columns)
