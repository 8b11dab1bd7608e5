"""One shard of a Zarr v3 array, written as a file: the sharding codec's layout, without zarr-python on the way.

Flow: maps of one shard -> inner chunks, each encoded and written at once -> index of their places and its CRC-32C.
zarr-python writes an array's metadata, and reads these files back in the tests, where its own files have equal bytes.
N images of the shard, D channels, H height, W width.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np

from fmcs_bench.core import files

MISSING = 2**64 - 1
"""Offset and length of an inner chunk that is left out: all its values are the fill value.

We leave out only what lies beyond the end of the array.
"""


def write_shard(
    path: Path, maps_NDHW: np.ndarray, *, per_shard: int, per_chunk: int, encode: Callable[[np.ndarray], bytes]
) -> files.PendingFile:
    """Write one shard beside its place; ``commit`` waits for the disk. Memory holds one encoded inner chunk at a time.

    Args:
        path: of the shard's file.
        maps_NDHW: C-contiguous; fewer than ``per_shard`` at the end of the array.
        per_shard: maps in a shard.
        per_chunk: maps in an inner chunk, a divisor of ``per_shard``.
        encode: packs one inner chunk.

    Raises:
        ValueError: there are more maps than a shard holds.
        OSError: the folder cannot be written or the disk is full; no half-written file stays.
    """
    if len(maps_NDHW) > per_shard:
        raise ValueError(f"{len(maps_NDHW)} maps for a shard of {per_shard}")
    index = np.full((per_shard // per_chunk, 2), MISSING, dtype="<u8")
    place = 0
    file = files.PendingFile(path)
    try:
        for number, start in enumerate(range(0, len(maps_NDHW), per_chunk)):
            data = encode(_padded(maps_NDHW[start : start + per_chunk], per_chunk))
            file.stream.write(data)
            index[number] = place, len(data)
            place += len(data)
        encoded_index = index.tobytes()
        file.stream.write(encoded_index)
        file.stream.write(int(google_crc32c.value(encoded_index)).to_bytes(4, "little"))
        file.stream.flush()
    except BaseException:
        file.discard()
        raise
    return file


def _padded(maps_NDHW: np.ndarray, num: int) -> np.ndarray:
    """The maps, and zeros where the array ends within the chunk: every chunk has one size."""
    if len(maps_NDHW) == num:
        return maps_NDHW
    return np.concatenate([maps_NDHW, np.zeros((num - len(maps_NDHW), *maps_NDHW.shape[1:]), maps_NDHW.dtype)])
