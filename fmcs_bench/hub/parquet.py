"""The maps of an FMCS dataset as Parquet files, which Hugging Face's ``datasets`` and any Parquet reader load.

Flow: manifest and part -> files, each a range of rows of a configuration's split -> threads, one for each file: a row
group is decoded while the one before is written -> file, whole or absent.

A row is one map: image_id, label, run (seed), stage (1 .. K), fmcs (the same as a class), epoch (of the run, where the
stage ends) and feature_map, a fixed-size list of D * H * W float16 in C order. Rows are ordered as
``FmcsDataset.sel`` orders them: by run, stage and image. Equal datasets give equal bytes.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fmcs_bench.core.environment import usable_cores
from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.files import PendingFile
from fmcs_bench.core.progress import SILENT, Progress, Task
from fmcs_bench.store import schema
from fmcs_bench.store.map_array import gather
from fmcs_bench.store.publication import CONFIGURATIONS, PARQUET, SHARD, ParquetSplit, Part
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.selection import MapSelection

if TYPE_CHECKING:
    import datasets

MAPS = "feature_map"
"""Column of the maps."""
NUMBERS = ("image_id", "label", "run", "stage", "fmcs", "epoch")
FILE_BYTES = 500_000_000
"""Most bytes of maps in one file, before compression."""
GROUP_BYTES = 25 << 20
"""About the bytes of maps in a row group, before compression: what is decoded, written and streamed at once."""
MOST_WRITERS = 8
"""Files that are written at the same time, at most; each takes about 16 row groups of memory, most of it pyarrow's."""
WRITER_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    # All high bytes of a page, then all low ones: they compress better so, in the same time.
    "column_encoding": {f"{MAPS}.list.element": "BYTE_STREAM_SPLIT"},
    "write_statistics": list(NUMBERS),  # readers skip row groups by them; over the values of maps they would cost time
}
PACKED = {"zstd": 0.9, "q8": 1.8}
"""About the size of a map in these files by its size in the dataset's own store, by codec of the dataset."""


@dataclass(frozen=True)
class PlannedSplit:
    """A split of a configuration that will be written: which runs and images it holds, and how many rows."""

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
    """Every split of every configuration that has rows.

    Args:
        manifest: of the dataset.
        part: runs, stages and splits to take.

    Raises:
        ConfigError: the part is of another dataset, or no configuration has a row.
    """
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
            + "; choose others, or publish without Parquet (--select kinds=maps,checkpoints)"
        )
    return planned


def export(
    dataset: FmcsDataset, folder: Path, part: Part, *, resume: bool = False, progress: Progress = SILENT
) -> tuple[ParquetSplit, ...]:
    """Write the Parquet files of a dataset into ``folder/parquet``.

    Files of the same name are replaced, others stay. A file is whole or absent; memory does not depend on the number of
    maps.

    Args:
        dataset: opened for reading; of ``q8``, the float16 values that are read back are written.
        folder: the published folder.
        part: runs, stages and splits to take; its ``kinds`` are not looked at.
        resume: keep files that are there; they must be of the same dataset and part.
        progress: shows the rows that are written.

    Returns:
        What was written, a configuration's split each.

    Raises:
        ConfigError: the part is of another dataset, or no configuration has a row.
        DatasetError: the dataset is damaged.
        OSError: the folder cannot be written; no half-written file stays.
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
        files += [(name, selection, split.rows(number)) for number, name in enumerate(split.files)]
    stop = threading.Event()
    with (
        progress.task("writing Parquet files", sum(split.num_rows for split in planned)) as task,
        ThreadPoolExecutor(min(usable_cores(), MOST_WRITERS, len(files)), "fmcs-bench-parquet") as pool,
    ):
        writer = _Writer(manifest, task, stop)
        futures = []
        for name, selection, rows in files:
            if resume and (folder / name).is_file():
                task.advance(len(rows))
            else:
                futures.append(pool.submit(writer.write, folder / name, selection, rows))
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(
        ParquetSplit.make(
            configuration=split.configuration,
            split=split.split,
            files=split.files,
            num_rows=split.num_rows,
            memory_bytes=split.num_rows * (8 * len(NUMBERS) + map_bytes(manifest)),
        )
        for split in planned
    )


def estimate(manifest: schema.Manifest, part: Part) -> int:
    """About the bytes of all Parquet files, before anything is written; they may be up to 1.5 times as many, or as few.

    The maps of a run at a stage take what its shards in the dataset's own store take for each image, times ``PACKED``.

    Args:
        manifest: of the dataset.
        part: runs, stages and splits to take.

    Raises:
        ConfigError: the part is of another dataset, or no configuration has a row.
    """
    stored_bytes: Counter[int] = Counter()  # by seed
    for name, entry in manifest.files.items():
        found = SHARD.fullmatch(name)
        if found and found[2] == "feature_maps" and int(found[3]) + 1 in part.stages:
            stored_bytes[int(found[1])] += entry.num_bytes
    by_image = {run.seed: stored_bytes[run.seed] / run.num_images for run in manifest.runs}
    packed = PACKED[manifest.config.codec]
    return round(
        sum(
            manifest.images.num_images[split.image_split] * by_image[seed] * packed
            for split in plan(manifest, part)
            for seed in split.seeds
        )
    )


def map_bytes(manifest: schema.Manifest) -> int:
    """Of one map in float16."""
    return math.prod(manifest.map_shape) * np.dtype(np.float16).itemsize


def features(manifest: schema.Manifest) -> datasets.Features:
    """The columns, as ``datasets`` shows them; the shape of the maps is ``features["feature_map"].feature.id``."""
    import datasets

    return datasets.Features.from_dict(_feature_dict(manifest))


def features_yaml(manifest: schema.Manifest) -> list[dict[str, Any]]:
    """The columns, as ``dataset_info: features:`` stands in the YAML block of a data card."""
    found: list[dict[str, Any]] = []
    for name, feature in _feature_dict(manifest).items():
        if name == MAPS:
            value = {"dtype": "float16", "id": feature["feature"]["id"]}
            found.append({"name": name, "sequence": value, "length": feature["length"]})
        elif "names" in feature:
            names = {str(number): text for number, text in enumerate(feature["names"])}
            found.append({"name": name, "dtype": {"class_label": {"names": names}}})
        else:
            found.append({"name": name, "dtype": feature["dtype"]})
    return found


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    """(D, H, W) of the ``id`` of a feature; None where it is no shape.

    Example:
        >>> parse_shape("1024x7x7")
        (1024, 7, 7)
    """
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text or "")
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _shape_id(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _feature_dict(manifest: schema.Manifest) -> dict[str, dict[str, Any]]:
    """The columns as JSON. ``datasets`` 3 writes ``Sequence``; later versions write ``List``, and read both."""
    number = {name: {"dtype": "int64", "_type": "Value"} for name in NUMBERS}
    return {
        **number,
        "label": {"names": list(manifest.images.classes), "_type": "ClassLabel"},
        "fmcs": {"names": [str(stage + 1) for stage in range(manifest.config.stages)], "_type": "ClassLabel"},
        "epoch": {"dtype": "float64", "_type": "Value"},
        MAPS: {
            # ``datasets`` forgets the id of a list, but not that of a value
            "feature": {"dtype": "float16", "id": _shape_id(manifest.map_shape), "_type": "Value"},
            "length": math.prod(manifest.map_shape),
            "_type": "Sequence",
        },
    }


def arrow_schema(manifest: schema.Manifest) -> pa.Schema:
    """Of the files; its metadata has the features for ``datasets``, and shape and dataset as ``fmcs_bench``."""
    types = {name: pa.float64() if name == "epoch" else pa.int64() for name in NUMBERS}
    types[MAPS] = pa.list_(pa.float16(), math.prod(manifest.map_shape))
    return pa.schema(
        types,
        metadata={
            "huggingface": json.dumps({"info": {"features": _feature_dict(manifest)}}),
            "fmcs_bench": json.dumps({"dataset_id": manifest.id, "map_shape": manifest.map_shape}),
        },
    )


class _Writer:
    """Writes files of rows, several at a time.

    Args:
        manifest: of the dataset.
        task: is told of rows that are written.
        stop: set once another file has failed.
    """

    def __init__(self, manifest: schema.Manifest, task: Task, stop: threading.Event) -> None:
        self._schema, self._task, self._stop = arrow_schema(manifest), task, stop
        self._lock = threading.Lock()
        self._per_group = max(1, GROUP_BYTES // map_bytes(manifest))
        self._epochs = {run.seed: np.array([stage.epoch for stage in run.stages]) for run in manifest.runs}

    def write(self, path: Path, selection: MapSelection, rows: range) -> None:
        """Write some rows of a selection, unless ``stop`` is set."""
        groups = [rows[start : start + self._per_group] for start in range(0, len(rows), self._per_group)]
        pending = PendingFile(path)
        try:
            with (
                parquet.ParquetWriter(pending.stream, self._schema, **WRITER_OPTIONS) as writer,
                ThreadPoolExecutor(1, "fmcs-bench-decode") as ahead,
            ):
                coming = ahead.submit(self._table, selection, groups[0])
                for following in [*groups[1:], None]:
                    table = coming.result()
                    if self._stop.is_set():
                        raise InterruptedError(f"{path} was given up")
                    if following is not None:
                        coming = ahead.submit(self._table, selection, following)
                    writer.write_table(table, row_group_size=len(table))
                    with self._lock:
                        self._task.advance(len(table))
        except BaseException:
            pending.discard()
            raise
        pending.commit()

    def _table(self, selection: MapSelection, rows: range) -> pa.Table:
        here = slice(rows.start, rows.stop)
        stages_M, runs_M = selection.stages_M[here], selection.runs_M[here]
        maps_MDHW = gather(selection.arrays, selection.source_M[here], stages_M, selection.image_M[here], threads=1)
        epochs_M = np.empty(len(rows))
        for seed in np.unique(runs_M).tolist():
            epochs_M[runs_M == seed] = self._epochs[seed][stages_M[runs_M == seed]]
        columns = {
            "image_id": selection.image_ids_M[here],
            "label": selection.labels_M[here],
            "run": runs_M,
            "stage": stages_M + 1,
            "fmcs": stages_M,
            "epoch": epochs_M,
        }
        arrays = [pa.array(columns[name], self._schema.field(name).type) for name in NUMBERS]
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(maps_MDHW.reshape(-1)), maps_MDHW[0].size))
        return pa.Table.from_arrays(arrays, schema=self._schema)
