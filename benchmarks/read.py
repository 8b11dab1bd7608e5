"""Speed of reading an FMCS dataset. One JSON line.

    python benchmarks/read.py DATASET [DATASET ...] [--threads 2] [--out FILE]

For each dataset, a folder that `fmcs-bench build` has made, ratios of things measured by turns in one process, with the
files in the page cache:
- epoch: a shuffled epoch of `dataset.sel(...).torch(shuffle=True)`, against the codec decoding the same chunks from
  memory with the same threads and keeping nothing. Goal: 0.85. The codec is numcodecs', which zarr-python reads with;
  for zstd the same against zstandard, which the direct reader decodes with.
- single: maps at random by `selection[i]`, against zarr-python's `array[row, i]`. Goal: 8 times as fast.
- shards: whole shards by zarr-python, against the codec.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from numcodecs.zstd import Zstd
from result import by_turns, per_second, report

import fmcs_bench as fb
from fmcs_bench.store import codecs
from fmcs_bench.store.map_array import MapArray
from fmcs_bench.store.reader import FmcsDataset

BATCH_SIZE = 64
PER_TASK = 16
"""Chunks that a thread decodes before it asks for more."""


def rates(dataset: FmcsDataset, *, threads: int, rounds: int, num_single: int) -> dict[str, Any]:
    """Rates of a dataset's maps of the training runs, and their ratios."""
    selection = dataset.sel(run="training")
    codec, megabytes = dataset.manifest.config.codec, selection.nbytes / 1e6
    encoded = [chunk for array in selection.arrays for chunk in encoded_chunks(array)]
    codec_rate = partial(decoding_rate, by_numcodecs(selection.arrays[0]), encoded, megabytes, threads)
    zstandard_rate = partial(decoding_rate, by_zstandard, encoded, megabytes, threads)
    batches = selection.torch(batch_size=BATCH_SIZE, shuffle=True, threads=threads)
    number = iter(range(1000))

    def epoch_rate() -> float:
        batches.set_epoch(next(number))
        return per_second(megabytes, lambda: sum(len(batch.maps_BDHW) for batch in batches))

    epoch_rate()
    epoch_mb, codec_mb, epoch_ratio = by_turns(epoch_rate, codec_rate, rounds)
    to_zstandard = by_turns(epoch_rate, zstandard_rate, rounds)[2] if codec == "zstd" else None

    arrays = [dataset.array(f"run-{seed}/feature_maps") for seed in dataset.seeds("training")]
    chosen = np.random.default_rng(0).integers(len(selection), size=num_single).tolist()
    places = [(int(selection.source_M[m]), int(selection.stages_M[m]), int(selection.image_M[m])) for m in chosen]
    if codec == "zstd":
        for m, (source, row, image) in list(zip(chosen, places, strict=True))[:20]:
            np.testing.assert_array_equal(selection[m], np.asarray(arrays[source][row, image]))

    def ours() -> float:
        return per_second(num_single, lambda: [selection[m] for m in chosen])

    def theirs() -> float:
        return per_second(num_single, lambda: [np.asarray(arrays[source][row, image]) for source, row, image in places])

    def whole_shards() -> float:
        per_shard = arrays[0].shards[1]
        starts = [(a, row, s) for a in arrays for row in range(a.shape[0]) for s in range(0, a.shape[1], per_shard)]
        return per_second(megabytes, lambda: [np.asarray(a[row, s : s + per_shard]) for a, row, s in starts])

    single, zarr_single, single_ratio = by_turns(ours, theirs, rounds)
    zarr_mb, _, zarr_ratio = by_turns(whole_shards, codec_rate, min(3, rounds))
    return {
        "codec": codec,
        "map_shape": dataset.manifest.map_shape,
        "maps": len(selection),
        "mb": round(megabytes),
        "maps_per_chunk": arrays[0].chunks[1],
        "maps_per_shard": arrays[0].shards[1],
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


def encoded_chunks(array: MapArray, num_images: int | None = None) -> list[bytes]:
    """The inner chunks of an array, or of its first images, as they lie on the disk, in memory."""
    shards = array._shards
    if shards is None:
        raise SystemExit(f"{array!r}: this benchmark needs the writer's layout, on this machine")
    num_chunks = -(-(num_images or array.shape[1]) // array.unit)
    found = (shards.encoded(row, chunk) for row in range(array.shape[0]) for chunk in range(num_chunks))
    return [bytes(chunk) for chunk in found if chunk is not None]


def decoding_rate(decode: Callable[[list[bytes]], None], encoded: list[bytes], megabytes: float, threads: int) -> float:
    """MB of float16 a second of threads that decode these chunks and keep nothing."""
    parts = [encoded[i : i + PER_TASK] for i in range(0, len(encoded), PER_TASK)]
    with ThreadPoolExecutor(threads) as pool:
        return per_second(megabytes, lambda: list(pool.map(decode, parts)))


def by_numcodecs(array: MapArray) -> Callable[[list[bytes]], None]:
    """Decodes chunks as zarr-python does; q8 to its values."""
    decoder, shape = Zstd(), (array.unit, *array.map_shape)
    scale, zero_point = np.ones(shape[1], np.float32), np.zeros(shape[1], np.uint8)

    def decode(part: list[bytes]) -> None:
        for data in part:
            values = decoder.decode(data)
            if array.codec == "q8":
                codecs.dequantise(np.frombuffer(values, np.uint8).reshape(shape), scale, zero_point)

    return decode


def by_zstandard(part: list[bytes]) -> None:
    """Decodes chunks of zstd with the library of the direct reader."""
    decompressor = zstandard.ZstdDecompressor()
    for data in part:
        decompressor.decompress(data)


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
    for path in arguments.datasets:
        dataset = fb.open(path)
        found = rates(dataset, threads=arguments.threads, rounds=arguments.rounds, num_single=arguments.single)
        figures[dataset.manifest.name] = found
        print(json.dumps({dataset.manifest.name: found}), file=sys.stderr, flush=True)
    report("read", figures, out=arguments.out)


if __name__ == "__main__":
    main()
