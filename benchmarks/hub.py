"""Speed of publishing and of loading a published FMCS dataset. One JSON line.

    python benchmarks/hub.py DATASET [--maps 10000] [--out FILE]

DATASET is a folder that `fmcs-bench build` has made. Ratios are of things measured by turns in one process, with the
files in the page cache:
- export: the Parquet files of a part of the dataset, against pyarrow writing the same tables to the same files with the
  same settings and threads, from memory. Goal: 0.7.
- random, epoch: batches of random rows of the split that has the most, and shuffled epochs of it by DataLoader, through
  `fmcs_bench.load`, against `datasets` alone: its formats `torch` and `numpy`, shape and float16 restored by hand.
- loading: seconds of the first `fmcs_bench.load` of that split, which also writes the cache of `datasets`.
- layouts: sizes, and rates of writing and reading back, of other ways to store the maps of one row group.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet as pq
from result import by_turns, per_second, report
from torch.utils.data import DataLoader

import fmcs_bench as fb
from fmcs_bench.core import environment, files
from fmcs_bench.hub import parquet
from fmcs_bench.store.publication import FILE, Part, Publication
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.schema import FileEntry

BATCH_SIZE = 64


def smaller_part(dataset: FmcsDataset, num_maps: int) -> Part:
    """The part with the most stages whose files hold at most so many maps, or one stage."""
    manifest = dataset.manifest
    for last in range(manifest.config.stages, 0, -1):
        part = Part.of(manifest, stages=range(1, last + 1))
        if sum(split.num_rows for split in parquet.plan(manifest, part)) <= num_maps:
            break
    return part


def export_rates(dataset: FmcsDataset, part: Part, folder: Path, *, rounds: int) -> dict[str, Any]:
    """Rates of the export and of bare pyarrow."""
    written = parquet.export(dataset, folder / "ours", part)
    row_bytes = parquet.map_bytes(dataset.manifest) + 8 * len(parquet.NUMBERS)
    megabytes = sum(split.num_rows for split in written) * row_bytes / 1e6
    names = [name for split in written for name in split.files]
    tables = {name: pq.read_table(folder / "ours" / name) for name in names}
    schema = parquet.arrow_schema(dataset.manifest)
    per_group = parquet.GROUP_BYTES // parquet.map_bytes(dataset.manifest)

    def bare_file(name: str) -> None:
        path = folder / "bare" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream, pq.ParquetWriter(stream, schema, **parquet.WRITER_OPTIONS) as writer:
            for start in range(0, len(tables[name]), per_group):
                writer.write_table(tables[name].slice(start, per_group), row_group_size=per_group)

    def bare() -> None:
        with ThreadPoolExecutor(min(environment.usable_cores(), parquet.MOST_WRITERS, len(names))) as pool:
            list(pool.map(bare_file, names))

    def ours() -> None:
        parquet.export(dataset, folder / "ours", part)

    our_mb, bare_mb, ratio = by_turns(lambda: per_second(megabytes, ours), lambda: per_second(megabytes, bare), rounds)
    size = sum((folder / "ours" / name).stat().st_size for name in names)
    assert size == sum((folder / "bare" / name).stat().st_size for name in names)
    return {
        "mb": round(megabytes),
        "files": len(names),
        "mb_per_second": round(our_mb),
        "bare_pyarrow_mb_per_second": round(bare_mb),
        "ratio_to_bare_pyarrow": round(ratio, 3),
        "times_smaller": round(megabytes * 1e6 / size, 3),
    }


def publish(dataset: FmcsDataset, part: Part, folder: Path) -> str:
    """Export, with the file that `fmcs_bench.load` asks for; returns the split with the most rows."""
    written = parquet.export(dataset, folder, part)
    names = [name for split in written for name in split.files]
    sums = {name: (folder / name).stat().st_size for name in names}
    publication = Publication.make(
        dataset_id=dataset.id,
        dataset_digest=dataset.manifest.dataset_digest,
        parquet=written,
        files={name: FileEntry.make(num_bytes=size, sha256="0" * 64) for name, size in sums.items()},
        fmcs_bench=fb.__version__,
        created=environment.now(),
    )
    files.write_atomically(folder / FILE, files.to_json(publication.to_json()))
    return max((split for split in written if split.configuration == "default"), key=lambda split: split.num_rows).split


def loading_rates(dataset: FmcsDataset, part: Part, folder: Path, *, rounds: int, batches: int) -> dict[str, Any]:
    """Rates of rows through `fmcs_bench.load`, and by `datasets` alone."""
    import datasets

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    split = publish(dataset, part, folder)
    begin = time.perf_counter()
    rows = fb.load(folder, split=split)
    first_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    rows = fb.load(folder, split=split)
    again_seconds = time.perf_counter() - begin
    shape = dataset.manifest.map_shape
    plain = rows.with_format("torch")
    index = [np.random.default_rng(i).integers(len(rows), size=BATCH_SIZE) for i in range(batches)]
    counter = iter(range(10_000))

    def by_hand(batch: dict[str, Any]) -> Any:
        return batch["feature_map"].reshape(-1, *shape).half()

    assert (rows[index[0]]["feature_map"] == by_hand(plain[index[0]])).all()

    def random_rate(some: Any, use: Callable[[Any], Any]) -> float:
        return per_second(batches * BATCH_SIZE, lambda: [use(some[i]) for i in index])

    def epoch_rate(some: Any, use: Callable[[Any], Any]) -> float:
        torch.manual_seed(next(counter))
        loader = DataLoader(some, batch_size=BATCH_SIZE, shuffle=True)
        return per_second(len(some), lambda: [use(batch) for batch in loader])

    def maps(batch: dict[str, Any]) -> Any:
        return batch["feature_map"]

    found: dict[str, Any] = {
        "rows": len(rows),
        "first_seconds": round(first_seconds, 2),
        "again_seconds": round(again_seconds, 2),
        "first_mb_per_second": round(len(rows) * parquet.map_bytes(dataset.manifest) / 1e6 / first_seconds),
    }
    for name, rate, pair in (
        ("random_torch", random_rate, ((rows, maps), (plain, by_hand))),
        ("epoch_torch", epoch_rate, ((rows, maps), (plain, by_hand))),
    ):
        ours, theirs, ratio = by_turns(lambda r=rate, p=pair[0]: r(*p), lambda r=rate, p=pair[1]: r(*p), rounds)
        found[f"{name}_maps_per_second"] = round(ours)
        found[f"{name}_datasets_alone_maps_per_second"] = round(theirs)
        found[f"{name}_ratio_to_datasets_alone"] = round(ratio, 2)
    return found


def layouts(dataset: FmcsDataset) -> dict[str, Any]:
    """A row group of maps, written in other ways."""
    num = max(1, parquet.GROUP_BYTES // parquet.map_bytes(dataset.manifest))
    maps_MDHW = dataset.sel("training")[:num]
    size = maps_MDHW[0].size
    values = pa.array(maps_MDHW.reshape(-1))
    flat = pa.FixedSizeListArray.from_arrays(values, size)
    nested: pa.Array = values
    for length in maps_MDHW.shape[:0:-1]:
        nested = pa.FixedSizeListArray.from_arrays(nested, length)
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * size), len(maps_MDHW), [None, pa.py_buffer(maps_MDHW)])
    options = {key: parquet.WRITER_OPTIONS[key] for key in ("compression", "use_dictionary")} | {
        "write_statistics": False
    }
    split = {"column_encoding": {"maps.list.element": "BYTE_STREAM_SPLIT"}}  # as in our files, at level 1
    found = {}
    for name, array, level, more in (
        ("flat_list", flat, 1, split),
        ("flat_list_zstd_3", flat, 3, split),
        ("flat_list_plain", flat, 1, {}),
        ("nested_list_plain", nested, 1, {}),
        ("fixed_size_binary_plain", binary, 1, {}),
    ):
        table = pa.table({"maps": array})
        sinks: list[pa.Buffer] = []

        def write(table: pa.Table = table, level: int = level, more: Any = more, sinks: Any = sinks) -> None:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression_level=level, **options, **more)
            sinks[:] = [sink.getvalue()]

        written = max(per_second(maps_MDHW.nbytes / 1e6, write) for _ in range(3))

        def read(sinks: Any = sinks) -> None:
            pq.read_table(pa.BufferReader(sinks[0]), use_threads=False)

        found[name] = {
            "times_smaller": round(maps_MDHW.nbytes / sinks[0].size, 3),
            "write_mb_per_second": round(written),
            "read_mb_per_second": round(max(per_second(maps_MDHW.nbytes / 1e6, read) for _ in range(3))),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder of a finished FMCS dataset")
    parser.add_argument("--maps", type=int, default=10_000, help="at most so many, in all files (at least one stage)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help="random batches of one round")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = fb.open(arguments.dataset)
    part = smaller_part(dataset, arguments.maps)
    figures: dict[str, Any] = {
        "dataset": dataset.manifest.name,
        "map_shape": dataset.manifest.map_shape,
        "codec": dataset.manifest.config.codec,
        "threads": environment.usable_cores(),
        "rounds": arguments.rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        figures["layouts"] = layouts(dataset)
        print(json.dumps(figures), file=sys.stderr, flush=True)
        figures["export"] = export_rates(dataset, part, Path(folder) / "export", rounds=arguments.rounds)
        print(json.dumps(figures["export"]), file=sys.stderr, flush=True)
        figures["load"] = loading_rates(
            dataset, part, Path(folder) / "load", rounds=arguments.rounds, batches=arguments.batches
        )
    report("hub", figures, out=arguments.out)


if __name__ == "__main__":
    main()
