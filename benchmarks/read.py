"""Speed of reading an FMCS dataset. One JSON line.

    python benchmarks/read.py DATASET [DATASET ...] [--threads 2] [--out FILE]

For each dataset, a folder that `fmcs-bench build` has made, ratios of things measured by turns in one process, with the
files in the page cache:
- epoch: a shuffled epoch of `dataset.sel(...).torch(shuffle=True)`, against the codec decoding the same chunks from
  memory with the same threads and keeping nothing. Goal: 0.85. The codec is numcodecs', which zarr-python reads with;
  for zstd the same against zstandard, which the direct reader decodes with.
- single: maps at random by `selection[i]`, against zarr-python's `array[row, i]`. Goal: 8 times as fast.
- shards: whole shards by zarr-python, against the codec.
And for the first dataset:
- sizes: for several numbers of maps in an inner chunk, the bytes, and what a random map and a whole shard cost.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
import zstandard
from result import by_turns, per_second, report

import fmcs_bench as fb
from fmcs_bench.store import codecs, shard_file
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.shards import ShardLayout, ShardReader

BATCH_SIZE = 64
PER_TASK = 16
"""Chunks that a thread decodes before it asks for more."""
CHUNKS = (1, 2, 4, 8, 32)


def shard_readers(dataset: FmcsDataset) -> list[ShardReader]:
    """Direct readers of the maps of the training runs."""
    folders = [dataset.path / f"maps.zarr/run-{seed}/feature_maps" for seed in dataset.seeds("training")]
    found = [(folder, ShardLayout.parse(json.loads((folder / "zarr.json").read_bytes()))) for folder in folders]
    return [ShardReader(folder, layout) for folder, (layout, _) in found if layout is not None]


def epoch_and_single(dataset: FmcsDataset, *, threads: int, rounds: int, num_single: int) -> dict[str, Any]:
    """Rates of a dataset's maps of the training runs, and their ratios."""
    selection = dataset.sel(run="training")
    codec = dataset.manifest.config.codec
    readers = shard_readers(dataset)
    chunks = [
        (reader, row, chunk)
        for reader in readers
        for row in range(reader.layout.shape[0])
        for chunk in range(-(-reader.layout.shape[1] // reader.layout.per_chunk))
    ]
    encoded = [encoded_chunk(*chunk) for chunk in chunks]
    megabytes = selection.nbytes / 1e6
    codec_rate = partial(decoding_rate, by_codec(readers[0], codec), encoded, megabytes, threads)

    batches = selection.torch(batch_size=BATCH_SIZE, shuffle=True, threads=threads)
    number = iter(range(1000))

    def epoch_rate() -> float:
        batches.set_epoch(next(number))
        return per_second(megabytes, lambda: sum(len(batch.maps_BDHW) for batch in batches))

    zstandard_rate = partial(decoding_rate, by_zstandard, encoded, megabytes, threads)
    epoch_rate()
    epoch_mb, codec_mb, epoch_ratio = by_turns(epoch_rate, codec_rate, rounds)
    to_zstandard = by_turns(epoch_rate, zstandard_rate, rounds)[2] if codec == "zstd" else None

    arrays = [dataset.array(f"run-{seed}/feature_maps") for seed in dataset.seeds("training")]
    places = np.random.default_rng(0).integers(len(selection), size=num_single)
    place = [(int(selection.source_M[m]), int(selection.stages_M[m]), int(selection.image_M[m])) for m in places]
    for m in places[:20]:
        source, row, image = int(selection.source_M[m]), int(selection.stages_M[m]), int(selection.image_M[m])
        if codec != "q8":
            np.testing.assert_array_equal(selection[int(m)], np.asarray(arrays[source][row, image]))

    def ours() -> float:
        return per_second(num_single, lambda: [selection[int(m)] for m in places])

    def theirs() -> float:
        return per_second(num_single, lambda: [np.asarray(arrays[source][row, image]) for source, row, image in place])

    def whole_shards() -> float:
        per_shard = readers[0].layout.per_shard
        starts = [
            (array, row, start)
            for array in arrays
            for row in range(array.shape[0])
            for start in range(0, array.shape[1], per_shard)
        ]
        return per_second(
            selection.nbytes / 1e6, lambda: [np.asarray(a[row, s : s + per_shard]) for a, row, s in starts]
        )

    single, zarr_single, single_ratio = by_turns(ours, theirs, rounds)
    zarr_mb, _, zarr_ratio = by_turns(whole_shards, codec_rate, min(3, rounds))
    return {
        "codec": codec,
        "map_shape": dataset.manifest.map_shape,
        "maps": len(selection),
        "mb": round(selection.nbytes / 1e6),
        "maps_per_chunk": readers[0].layout.per_chunk,
        "maps_per_shard": readers[0].layout.per_shard,
        "threads": threads,
        "rounds": rounds,
        "epoch_mb_per_second": round(epoch_mb),
        "codec_mb_per_second": round(codec_mb),
        "epoch_ratio_to_codec": round(epoch_ratio, 3),
        "epoch_ratio_to_zstandard": None if to_zstandard is None else round(to_zstandard, 3),
        "single_maps_per_second": round(single),
        "zarr_python_single_maps_per_second": round(zarr_single),
        "single_ratio_to_zarr_python": round(single_ratio, 2),
        "zarr_python_shards_mb_per_second": round(zarr_mb),
        "zarr_python_shards_ratio_to_codec": round(zarr_ratio, 3),
    }


def decoding_rate(decode: Callable[[list[bytes]], None], encoded: list[bytes], megabytes: float, threads: int) -> float:
    """MB of float16 a second of threads that decode these chunks and keep nothing."""
    parts = [encoded[i : i + PER_TASK] for i in range(0, len(encoded), PER_TASK)]
    with ThreadPoolExecutor(threads) as pool:
        return per_second(megabytes, lambda: list(pool.map(decode, parts)))


def by_codec(reader: ShardReader, codec: str) -> Callable[[list[bytes]], None]:
    """Decodes chunks as zarr-python does, with numcodecs; q8 to its values."""
    decoder, shape = reader._codec, (reader.layout.per_chunk, *reader.layout.shape[2:])
    scale, zero_point = np.ones(shape[1], np.float32), np.zeros(shape[1], np.uint8)

    def decode(part: list[bytes]) -> None:
        for data in part:
            values = decoder.decode(data)
            if codec == "q8":
                codecs.dequantise(np.frombuffer(values, np.uint8).reshape(shape), scale, zero_point)

    return decode


def by_zstandard(part: list[bytes]) -> None:
    """Decodes chunks of zstd with the library of the direct reader."""
    decompressor = zstandard.ZstdDecompressor()
    for data in part:
        decompressor.decompress(data)


def encoded_chunk(reader: ShardReader, row: int, chunk: int) -> bytes:
    """Bytes of an inner chunk as they lie on the disk, in memory."""
    number, place = divmod(chunk, reader.layout.per_shard // reader.layout.per_chunk)
    shard = reader._shard(row, number)
    begin, length = shard.spans[place]
    return bytes(shard.data[begin : begin + length])


def chunk_sizes(dataset: FmcsDataset, *, rounds: int, num_single: int) -> dict[str, Any]:
    """One shard of the dataset's maps, written with several numbers of maps in an inner chunk."""
    (seed, *_) = dataset.seeds("training")
    codec = dataset.manifest.config.codec
    reader = shard_readers(dataset)[0]
    num = min(reader.layout.per_shard, reader.layout.shape[1])
    num -= num % CHUNKS[-1]
    maps = dataset.read_maps(seed, "feature_maps", reader.layout.shape[0] - 1, 0, num)
    data = codecs.quantise(maps).numbers_NDHW if codec == "q8" else maps
    places = np.random.default_rng(0).integers(num, size=num_single).tolist()
    found = {}
    for per_chunk in CHUNKS:
        with tempfile.TemporaryDirectory() as folder:
            group = zarr.open_group(folder, mode="w")
            array = codecs.create_maps(
                group, "maps", codec, (1, *data.shape), per_shard=num, per_chunk=per_chunk, dimensions=("row", "image")
            )
            file = Path(folder) / "maps/c/0/0/0/0/0"
            encode = codecs.encoder(codec)
            shard_file.write_shard(file, data, per_shard=num, per_chunk=per_chunk, encode=encode).commit()
            layout, reason = ShardLayout.parse(json.loads((Path(folder) / "maps/zarr.json").read_bytes()))
            if layout is None:
                raise SystemExit(reason)
            direct = ShardReader(Path(folder) / "maps", layout)

            def ours(direct: ShardReader = direct, per_chunk: int = per_chunk) -> float:
                return per_second(num_single, lambda: [direct.read_chunk(0, i // per_chunk) for i in places])

            def theirs(array: Any = array) -> float:
                return per_second(num_single, lambda: [np.asarray(array[0, i]) for i in places])

            def whole(array: Any = array) -> float:
                return per_second(data.nbytes / 1e6, lambda: np.asarray(array[0]))

            single, zarr_single, ratio = by_turns(ours, theirs, rounds)
            shard, _, _ = by_turns(whole, whole, rounds)
            found[str(per_chunk)] = {
                "times_smaller": round(maps.nbytes / file.stat().st_size, 3),
                "single_maps_per_second": round(single),
                "zarr_python_single_maps_per_second": round(zarr_single),
                "single_ratio": round(ratio, 2),
                "zarr_python_shard_mb_per_second": round(shard),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="folders of finished FMCS datasets")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--single", type=int, default=400, help="random maps of one round")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the threads of this benchmark are those that decode
    figures: dict[str, Any] = {}
    opened = [fb.open(path) for path in arguments.datasets]
    for dataset in opened:
        found = epoch_and_single(
            dataset, threads=arguments.threads, rounds=arguments.rounds, num_single=arguments.single
        )
        figures[dataset.manifest.name] = found
        print(json.dumps({dataset.manifest.name: found}), file=sys.stderr, flush=True)
    figures["sizes"] = chunk_sizes(opened[0], rounds=min(3, arguments.rounds), num_single=arguments.single)
    report("read", figures, out=arguments.out)


if __name__ == "__main__":
    main()
