"""How maps are packed: the arrays of each codec, and the arithmetic of the lossy one.

``zstd`` stores float16 and loses nothing. ``q8`` stores uint8 beside two small arrays [row, shard, channel],
``<array>_scale`` (float32) and ``<array>_zero_point`` (uint8): value = (stored number - zero point) * scale, so that
zero stays zero. A row is a stage or a checkpoint. Each shard has its own scale, so that it can be written, and written
again after a kill, without the others.
N images of one shard, D channels, H height, W width, S maps of a slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zarr
from numcodecs.zstd import Zstd
from zarr.codecs import ZstdCodec

from fmcs_bench.core.errors import DatasetError

ZSTD_LEVEL = 1
DTYPES = {"zstd": "float16", "q8": "uint8"}
"""What maps are stored as, by codec."""
MISSING = 2**64 - 1
"""Offset and length of an inner chunk that a shard leaves out, because it lies beyond the end of the array."""
LEVELS = 255
_ZSTD = Zstd(level=ZSTD_LEVEL)
_SLICE = 16
_SERIAL = 32_000
"""Values that PyTorch works on in one thread."""


def scale_name(array: str) -> str:
    """Name of the array with the scale of an array of q8."""
    return f"{array}_scale"


def zero_point_name(array: str) -> str:
    """Name of the array with the zero points of an array of q8."""
    return f"{array}_zero_point"


def create_maps(
    group: zarr.Group,
    name: str,
    codec: str,
    shape: tuple[int, ...],
    *,
    per_shard: int,
    per_chunk: int,
    dimensions: tuple[str, str],
) -> zarr.Array[Any]:
    """Create an array (rows, images, D, H, W) for maps; sizes are in maps, ``dimensions`` names the first two axes."""
    settings: Any = {"write_empty_chunks": True}  # looking for empty chunks costs half of zstd's speed
    return group.create_array(
        name, shape=shape, dtype=DTYPES[codec], compressors=ZstdCodec(level=ZSTD_LEVEL),
        chunks=(1, per_chunk, *shape[2:]), shards=(1, per_shard, *shape[2:]),
        dimension_names=(*dimensions, "channel", "y", "x"), config=settings, overwrite=True,
    )  # fmt: skip


def is_writers_layout(metadata: Any) -> bool:
    """Whether this is the ``zarr.json`` of an array as ``create_maps`` makes it: whole maps of one row in a chunk."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    try:
        (outer,), shape = metadata["codecs"], metadata["shape"]
        shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        chunk = outer["configuration"]["chunk_shape"]
        sharding = {
            "chunk_shape": chunk,
            "codecs": [
                little if metadata["data_type"] == "float16" else {"name": "bytes"},
                {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
            ],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        expected = {
            "zarr_format": 3,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "fill_value": 0,
            "storage_transformers": [],
        }
        is_whole = (
            shard == [1, shard[1], *shape[2:]] and chunk == [1, chunk[1], *shape[2:]] and shard[1] % chunk[1] == 0
        )
        return is_whole and all(metadata[key] == value for key, value in expected.items())
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return False


def open_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of any codec, lazy; ``DatasetError`` where there is none of that name."""
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise DatasetError(f"{name} is no array of {group.store_path}")
    return array


def encode(chunk: np.ndarray) -> bytes:
    """Pack one inner chunk of maps, to the bytes that Zarr would store; threads may share it."""
    return bytes(_ZSTD.encode(chunk))


@dataclass(frozen=True)
class Quantised:
    """The maps of one shard in 8 bits (a scale is 0 where its channel is), with absolute errors over all values."""

    numbers_NDHW: np.ndarray
    scale_D: np.ndarray
    zero_point_D: np.ndarray
    largest_error: float
    sum_of_errors: float


def quantise(maps_NDHW: np.ndarray) -> Quantised:
    """Spread the numbers of 8 bits evenly over the range of each channel of finite maps, with zero on one of them."""
    num_channels = maps_NDHW.shape[1]
    low_D, high_D = np.zeros(num_channels, np.float32), np.zeros(num_channels, np.float32)
    for part in _slices(maps_NDHW):
        values_SDP = maps_NDHW[part].astype(np.float32).reshape(-1, num_channels, _positions(maps_NDHW))
        np.minimum(low_D, values_SDP.min(axis=2).min(axis=0), out=low_D)
        np.maximum(high_D, values_SDP.max(axis=2).max(axis=0), out=high_D)
    scale_D = ((high_D.astype(np.float64) - low_D) / LEVELS).astype(np.float32)
    divisor_D = np.where(scale_D > 0, scale_D, np.float32(1))
    zero_point_D = np.rint(-low_D / divisor_D).astype(np.uint8)
    numbers_NDHW = np.empty(maps_NDHW.shape, np.uint8)
    largest, total = 0.0, 0.0
    for part in _slices(maps_NDHW):
        values_SDHW = maps_NDHW[part].astype(np.float32)
        number_SDHW = np.rint(values_SDHW / divisor_D[:, None, None])
        number_SDHW += zero_point_D[:, None, None]
        numbers_NDHW[part] = np.clip(number_SDHW, 0, LEVELS, out=number_SDHW)
        values_SDHW -= dequantise(numbers_NDHW[part], scale_D, zero_point_D)
        np.abs(values_SDHW, out=values_SDHW)
        largest, total = max(largest, float(values_SDHW.max())), total + float(values_SDHW.sum(dtype=np.float64))
    return Quantised(numbers_NDHW, scale_D, zero_point_D, largest, total)


def dequantise(numbers_NDHW: np.ndarray, scale_D: np.ndarray, zero_point_D: np.ndarray) -> np.ndarray:
    """The values of q8's numbers (uint8, of one row and shard), float16; within half a scale of what was quantised."""
    maps_NDHW = np.empty(numbers_NDHW.shape, np.float16)
    # PyTorch rounds to float16 several times as fast as NumPy, to the same bits; in parts so small that it works in
    # the caller's thread, because readers have threads of their own.
    scale, zero_point = (torch.from_numpy(of_D.astype(np.float32))[:, None, None] for of_D in (scale_D, zero_point_D))
    maps, numbers = torch.from_numpy(maps_NDHW), torch.from_numpy(np.require(numbers_NDHW, requirements="W"))
    num_channels = min(max(1, _SERIAL // _positions(maps_NDHW)), max(1, len(scale_D)))
    num_maps = max(1, _SERIAL // (_positions(maps_NDHW) * num_channels))
    for first in range(0, len(scale_D), num_channels):
        some = slice(first, first + num_channels)
        for start in range(0, len(maps), num_maps):
            part = slice(start, start + num_maps), some
            maps[part] = numbers[part].float().sub_(zero_point[some]).mul_(scale[some])
    return maps_NDHW


def _slices(maps_NDHW: np.ndarray) -> Iterator[slice]:
    """A few maps at a time, so that float32 copies stay small."""
    for start in range(0, len(maps_NDHW), _SLICE):
        yield slice(start, start + _SLICE)


def _positions(maps_NDHW: np.ndarray) -> int:
    return int(np.prod(maps_NDHW.shape[2:]))
